"""What may be shown: every text that is not ours is made inert here, and secrets in it are blotted out.

A server's words end up in status lines, performance data, terminals, logs, tickets and HTML pages. They are cleaned
once, where they are heard, so that nothing is left to filter afterwards.
"""

from __future__ import annotations

import base64
import re
import unicodedata
from collections.abc import Iterable

# Category Z* beyond the plain space are line and paragraph separators and odd blanks; C* are controls, bidi and
# zero-width marks, private use and unassigned characters. "|" begins performance data in Nagios and nothing escapes it.
_INERT_CATEGORIES = frozenset("LMNPS")


def _escape(character: str) -> str:
    code = ord(character)
    if code < 0x100:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def printable(text: str, limit: int | None = None) -> str:
    r"""`text` on one line and with nothing in it that a terminal, Nagios or a browser would act on.

    Controls, separators, bidirectional and zero-width marks, lone surrogates and `|` appear as escapes (`\x1b`), a
    tabulator as a space. With `limit`, no more than so many characters, the last of them "…" when it was cut.
    """
    if limit is not None and len(text) > limit:
        text = text[: limit - 1] + "…"
    if text.isascii() and text.isprintable() and "|" not in text:
        return text
    shown = []
    for character in text:
        if character in " \t":
            shown.append(" ")
        elif character == "|" or unicodedata.category(character)[0] not in _INERT_CATEGORIES:
            shown.append(_escape(character))
        else:
            shown.append(character)
    return "".join(shown)


def decoded(data: bytes) -> str:
    """Bytes from the wire as text: UTF-8, whatever is not as escapes, so that no lone surrogate survives."""
    return data.decode("utf-8", "backslashreplace")


# A shorter secret would blot out every "2" of every reply code; only its encoded forms are looked for.
MIN_PLAIN_SECRET = 4
BLOT = "***"


class Blotter:
    """Replaces secrets in a text, in whatever encoding a server may send them back.

    The forms: as it is, base64 at each of the three alignments (so inside a longer base64 text too), percent-encoded,
    HTML-escaped, backslash-quoted as in IMAP or JSON, hexadecimal, and read as Latin-1.
    """

    def __init__(self, secrets: Iterable[str]) -> None:
        forms: set[str] = set()
        for secret in secrets:
            forms.update(_forms(secret))
        longest_first = sorted((form for form in forms if form), key=len, reverse=True)
        self._pattern = re.compile("|".join(map(re.escape, longest_first)), re.IGNORECASE) if longest_first else None

    def __call__(self, text: str) -> str:
        """`text` with every form of every secret replaced by `***`."""
        return self._pattern.sub(BLOT, text) if self._pattern else text


def _forms(secret: str) -> set[str]:
    # Not needed by a run without a login, hence imported here.
    import html
    import json
    import urllib.parse

    raw = secret.encode()
    forms = {form for lead in range(3) if len(form := _base64_core(raw, lead)) >= MIN_PLAIN_SECRET}
    if len(secret) < MIN_PLAIN_SECRET:
        return forms
    quoted = secret.replace("\\", "\\\\").replace('"', '\\"')
    forms |= {
        secret,
        quoted,
        json.dumps(secret)[1:-1],
        raw.hex(),
        urllib.parse.quote(secret, safe=""),
        urllib.parse.quote(secret),
        urllib.parse.quote_plus(secret),
        html.escape(secret),
        html.escape(secret, quote=False),
        decoded(secret.encode("latin-1", "ignore")),
    }
    return {form for form in forms if len(form) >= MIN_PLAIN_SECRET}


def _base64_core(raw: bytes, lead: int) -> str:
    """The characters of base64 that are the same whatever stands before (`lead` octets modulo 3) and behind `raw`."""
    encoded = base64.b64encode(b"\0" * lead + raw).decode()
    first = (8 * lead + 5) // 6
    last = 8 * (lead + len(raw)) // 6
    return encoded[first:last]

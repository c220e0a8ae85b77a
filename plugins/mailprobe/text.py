"""What may be shown: every text that is not ours is made inert here, and secrets in it are blotted out.

A server's words end up in status lines, performance data, terminals, logs, tickets and HTML pages. They are cleaned
once, where they are heard, so that nothing is left to filter afterwards.
"""

from __future__ import annotations

import base64
import re
import unicodedata
from bisect import bisect_right
from collections.abc import Iterable

# Category Z* beyond the plain space are line and paragraph separators and odd blanks; C* are controls, bidi and
# zero-width marks, private use and unassigned characters. "|" begins performance data in Nagios and nothing escapes it.
_INERT_CATEGORIES = frozenset("LMNPS")
# Marks over or under one letter: pointed Hebrew has four. Hundreds are drawn over the lines of others.
MAX_MARKS = 4


def _escape(character: str) -> str:
    code = ord(character)
    if code < 0x100:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def printable(text: str, limit: int | None = None) -> str:
    r"""`text` on one line and with nothing in it that a terminal, Nagios or a browser would act on.

    Controls, separators, bidirectional and zero-width marks, lone surrogates, `|` and what is too many marks on one
    letter appear as escapes (`\x1b`), a tabulator as a space. With `limit`, no more than so many characters, the last
    of them "…" when it was cut.
    """
    if limit is not None and len(text) > limit:
        text = text[:limit] + "…"  # what is behind that need not be looked at
    shown = text if text.isascii() and text.isprintable() and "|" not in text else _escaped(text)
    return shown if limit is None or len(shown) <= limit else shown[: limit - 1] + "…"


def _escaped(text: str) -> str:
    shown = []
    marks = 0
    for character in text:
        category = unicodedata.category(character)[0]
        marks = marks + 1 if category == "M" else 0
        if character in " \t":
            shown.append(" ")
        elif character == "|" or category not in _INERT_CATEGORIES or marks > MAX_MARKS:
            shown.append(_escape(character))
        else:
            shown.append(character)
    return "".join(shown)


def decoded(data: bytes) -> str:
    """Bytes from the wire as text: UTF-8, whatever is not as escapes, so that no lone surrogate survives."""
    return data.decode("utf-8", "backslashreplace")


# A shorter secret would blot out every "2" of every reply code; only its encoded forms are looked for.
MIN_SECRET = 4
BLOT = "***"

# What may stand in the middle of a secret that a server sends back over several lines: blanks, and the mark of the
# transcript, with the reply code behind it or, where that belongs to the secret, without.
_GAPS = (re.compile(r"\s*\n<[-~]  |\s+"), re.compile(r"\s*\n<[-~]  (?:[2-5][0-9]{2}[- ])?|\s+"))
# str.lower() may change the length of a text, and positions have to stay what they are.
_LOWER = {code: code + 32 for code in range(ord("A"), ord("Z") + 1)}


class Blotter:
    """Replaces secrets in a text, in whatever encoding a server may send them back, also when it breaks lines in them.

    The forms: as it is; base64 and its URL form at each of the three alignments, so that it is found inside a longer
    text; percent, quoted-printable and xtext; HTML entities; the quoting of IMAP, JSON, Python and SQL; hexadecimal. Of
    UTF-8 and Latin-1.
    """

    def __init__(self, secrets: Iterable[str]) -> None:
        forms = {
            _condensed(shown) for secret in secrets for form in _forms(secret) for shown in (form, printable(form))
        }
        self._forms = [form for form in forms if len(form) >= MIN_SECRET]

    def __call__(self, text: str) -> str:
        """`text` with every form of every secret replaced by `***`."""
        if not self._forms:
            return text
        for gap in _GAPS:
            text = self._without_forms(text, gap)
        return text

    def _without_forms(self, text: str, gap: re.Pattern[str]) -> str:
        parts: list[str] = []
        begins: list[int] = []  # where each part begins in the text
        offsets: list[int] = []  # and where without the gaps
        position = length = 0
        for found in (*gap.finditer(text), None):
            end = found.start() if found else len(text)
            begins.append(position)
            offsets.append(length)
            parts.append(text[position:end])
            length += end - position
            position = found.end() if found else end
        condensed = "".join(parts).translate(_LOWER)

        def place(index: int) -> int:
            part = bisect_right(offsets, index) - 1
            return begins[part] + index - offsets[part]

        spans = []
        for form in self._forms:
            start = condensed.find(form)
            while start >= 0:
                spans.append((place(start), place(start + len(form) - 1) + 1))
                start = condensed.find(form, start + 1)
        return _without(text, sorted(spans)) if spans else text


def _condensed(form: str) -> str:
    return re.sub(r"\s+", "", form).translate(_LOWER)


def _without(text: str, spans: list[tuple[int, int]]) -> str:
    shown: list[str] = []
    position = 0
    for start, end in spans:
        if start >= position:
            shown += [text[position:start], BLOT]
        position = max(position, end)
    return "".join([*shown, text[position:]])


def _forms(secret: str) -> set[str]:
    # Not needed by a run without a login, hence imported here.
    import html
    import json
    import urllib.parse

    forms = set()
    for raw in (secret.encode(), secret.encode("latin-1", "ignore")):
        base64s = {_base64_core(raw, lead) for lead in range(3)}
        forms |= base64s | {form.replace("+", "-").replace("/", "_") for form in base64s}
        forms |= {decoded(raw), raw.hex(), raw.hex(":")}
        for sign in "%=+":
            forms.add("".join(f"{sign}{octet:02x}" for octet in raw))
            forms.add("".join(chr(o) if chr(o).isascii() and chr(o).isalnum() else f"{sign}{o:02x}" for o in raw))
    if len(secret) < MIN_SECRET:
        return {form for form in forms if form != secret}
    backslashed = secret.replace("\\", "\\\\")
    return forms | {
        secret,
        backslashed,
        backslashed.replace('"', '\\"'),
        secret.replace('"', '""'),
        json.dumps(secret)[1:-1],
        urllib.parse.quote(secret),
        urllib.parse.quote_plus(secret),
        html.escape(secret),
        html.escape(secret, quote=False),
        "".join(f"&#{ord(character)};" for character in secret),
        "".join(character if character.isalnum() else f"&#{ord(character)};" for character in secret),
    }


def _base64_core(raw: bytes, lead: int) -> str:
    """The characters of base64 that are the same whatever stands before (`lead` octets modulo 3) and behind `raw`."""
    encoded = base64.b64encode(b"\0" * lead + raw).decode()
    first = (8 * lead + 5) // 6
    last = 8 * (lead + len(raw)) // 6
    return encoded[first:last]

"""The passwords of the tests, and the watch that none of them gets out (`watching` is the plugin of pytest for it).

Whatever a command under test prints, what every process of the session shows in /proc/*/cmdline, and the logs and
reports that tests leave behind are searched at the session's end for every encoding of every password.
"""

from __future__ import annotations

import base64
import html
import json
import os
import re
import threading
import urllib.parse
from collections.abc import Iterable, Iterator
from pathlib import Path

# A password with everything that some encoding treats in its own way.
CANARY = 'pa"ss \\ w%20rd & <ü> 1'
# Those of users on real servers: what Python's own clients can say, and what no quoting or separator likes.
ASCII_CANARY = 'ca"na\\ry %20 & <1>'
AWKWARD_CANARY = 'pass word: "\\ü%&<'
# Access tokens have the alphabet of RFC 6750; a JSON Web Token easily has more than a thousand octets.
TOKEN = "ya29.canary-of~tokens_0123456789+/=="
LONG_TOKEN = "eyJhbGciOiJSUzI1NiJ9." + "canary-of-a-long-token_" * 60 + ".c2lnbmF0dXJl"
SECRETS = (CANARY, ASCII_CANARY, AWKWARD_CANARY, TOKEN, LONG_TOKEN)

# Where the outputs of this session are kept until its end; the workers of pytest-xdist inherit it.
DIRECTORY = "MAILPROBE_TESTS_OUTPUT"
# What tests leave behind for readers; a file with a password in it on purpose has another name.
KEPT = frozenset({".eml", ".html", ".json", ".jsonl", ".log", ".prom", ".xml"})
ON_PURPOSE = frozenset({"variables.json"})
SAMPLE_SECONDS = 0.2
PLUGIN = "tests.watching"
# Of a longer text, what one form of it that is found has around it.
AROUND = 60


def forms(secret: str) -> set[str]:
    """What a secret may look like when it gets out, each written down here anew, not taken from the core."""
    octets = secret.encode()
    backslashed = secret.replace("\\", "\\\\")
    found = {
        secret,
        repr(secret)[1:-1],
        backslashed,
        backslashed.replace('"', '\\"'),  # IMAP's quoted string, ManageSieve's, C's
        json.dumps(secret)[1:-1],
        json.dumps(json.dumps(secret)[1:-1])[1:-1],
        json.dumps(secret, ensure_ascii=False)[1:-1],
        html.escape(secret),
        html.escape(secret, quote=False),
        urllib.parse.quote(secret, safe=""),
        urllib.parse.quote(secret),
        urllib.parse.quote_plus(secret),
        secret.encode("utf-7").decode(),
        re.sub(r"\+([A-Za-z0-9/]*)-", r"&\1-", secret.replace("&", "&-").encode("utf-7").decode()),  # IMAP's
        octets.hex(),
        octets.decode("latin-1"),
        octets.decode("ascii", "backslashreplace"),
        secret.encode("ascii", "backslashreplace").decode(),
    }
    for lead in range(3):  # alone, or in the middle of something
        encoded = base64.b64encode(b"\0" * lead + octets).decode().rstrip("=")
        inner = encoded[(8 * lead + 5) // 6 : 8 * (lead + len(octets)) // 6]
        found |= {inner, inner.replace("+", "-").replace("/", "_")}
    return found


FORMS = {form for secret in SECRETS for form in forms(secret)}


def leaks(text: str, looked_for: Iterable[str] = FORMS) -> Iterator[str]:
    """Where a text has a secret, in whatever form, of all that there are or these: the words around each."""
    for form in looked_for:
        place = text.find(form)
        if place >= 0:
            yield text[max(0, place - AROUND) : place + len(form) + AROUND]


def keep(text: str) -> None:
    """Keep the output of a command for the search at the session's end."""
    if DIRECTORY in os.environ:
        with open(Path(os.environ[DIRECTORY], str(os.getpid())), "a", encoding="utf-8", errors="replace") as kept:
            kept.write(text + "\n")


class Watch:
    """Samples the command lines of all processes below this one, and looks through everything at the end."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.found: set[str] = set()
        self.sampled: set[str] = set()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._sample, name="canary", daemon=True)
        self._thread.start()

    def _sample(self) -> None:
        while not self._over.wait(SAMPLE_SECONDS):
            self.sample()

    def sample(self) -> None:
        """Look at the command lines of the moment."""
        for pid in descendants(os.getpid()):
            self.sampled.add(_text_of(Path("/proc", str(pid), "cmdline")))

    def end(self, left_behind: Path | None) -> set[str]:
        """What was found in outputs, command lines, and what tests left behind."""
        self._over.set()
        self._thread.join()
        for words in self.sampled:
            self.found |= {f"in a command line: {leak!r}" for leak in leaks(words)}
        for path in self.directory.iterdir():
            self.found |= {f"in an output: {leak!r}" for leak in leaks(_text_of(path))}
            path.unlink()
        self.directory.rmdir()
        for path in left_behind.rglob("*") if left_behind else ():
            if path.suffix in KEPT and path.name not in ON_PURPOSE and path.is_file():
                self.found |= {f"in {path}: {leak!r}" for leak in leaks(_text_of(path))}
        return self.found


def _text_of(path: Path) -> str:
    try:
        return path.read_bytes().decode("utf-8", "backslashreplace")
    except OSError:  # a process that has ended
        return ""


def descendants(pid: int) -> list[int]:
    """The processes that a process started, and those that they started; a session in this one watches over its own."""
    children: dict[int, list[int]] = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        fields = _text_of(path).rpartition(")")[2].split()
        if fields:
            children.setdefault(int(fields[1]), []).append(int(path.parent.name))
    found: list[int] = []
    waiting = [pid]
    while waiting:
        below = children.pop(waiting.pop(), [])
        below = [child for child in below if PLUGIN not in _text_of(Path("/proc", str(child), "cmdline"))]
        waiting += below
        found += below
    return found

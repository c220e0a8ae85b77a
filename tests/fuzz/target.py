"""One conversation with a server that says what the fuzzer wants, and what must hold afterwards whatever it was."""

from __future__ import annotations

import json
import time
import unicodedata
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple
from unittest import mock

import mailprobe.conversation
import mailprobe.sasl
import mailprobe.stream
from mailprobe.codes import STATES
from mailprobe.families import PromiseOptions
from nagios_checks import common, imap, pop3, present, sieve, smtp

from ..canary import CANARY, TOKEN, forms, leaks
from ..running import PERFDATUM
from .success import complaint
from .wire import Wire

# A script for CHECKSCRIPT; beside this file, since it has to be one.
SCRIPT = Path(__file__).parent / "script.sieve"
HOST = "/in/memory"
# What one conversation may cost on a slow machine; the slowest there is costs a tenth of a second.
MAX_SECONDS = 5.0
# What a report may weigh, so that thousands of them go into a process.
MAX_REPORT = 2 * 1024 * 1024
LOGIN = {"username": "probe", "password": CANARY, "allow_plaintext_login": True}
BEARER = {"username": "probe", "token": TOKEN, "allow_plaintext_login": True}
STARTTLS = {"tls": "starttls", "validate_certs": False}
SEND = {"mail_from": "a@example.org", "rcpt_to": ("b@example.org",), "send": True, "helo": "probe.example.org"}


class Ask(NamedTuple):
    """What the probe is asked, and what it must have said for an OK; `possible` is false where OK would be a lie."""

    options: dict[str, Any]
    needed: list[str]
    possible: bool = True


def _asks(needed: str, **asked: dict[str, Any]) -> list[Ask]:
    """The usual ways to ask: nothing, with a login, with a token, with TLS, with a login that must be refused."""
    own = {"whole": {}, "token": {}, **asked}
    return [
        Ask({}, []),
        Ask({**LOGIN, **own["whole"]}, [needed]),
        Ask({**BEARER, **own["token"]}, [needed]),
        Ask(STARTTLS, [], possible=False),
        Ask({**STARTTLS, **LOGIN, "allow_plaintext_login": False}, [], possible=False),
    ]


CHECKS = {"imap": imap.CHECK, "lmtp": smtp.CHECK, "pop3": pop3.CHECK, "sieve": sieve.CHECK, "smtp": smtp.CHECK}
ASKS: dict[str, list[Ask]] = {
    "imap": [
        *_asks(
            r"a\d+ EXAMINE", whole={"search": "ALL", "quota": True, "identify": True, "folder": ("INBOX", "Entwürfe")}
        ),
        Ask({**LOGIN, "search": 'SUBJECT "größer"'}, [r"a\d+ SEARCH"]),
    ],
    "lmtp": [Ask({**SEND, "lmtp": True, "rcpt_to": ("b@example.org", "c@example.org")}, ["LHLO", r".*\r\n\."])],
    "pop3": _asks("STAT"),
    "sieve": _asks("LISTSCRIPTS", whole={"require_active": True, "have_space": 100, "check_script": str(SCRIPT)}),
    "smtp": [
        *_asks("AUTH", whole=SEND),
        Ask({**SEND, "send": False, "command": ("VRFY b",), "response": ("^252",)}, ["VRFY", "RCPT", "RSET"]),
    ],
}


class Violation(AssertionError):
    """Something that must never be."""


@contextmanager
def connected(wire: Wire) -> Iterator[None]:
    """Every connection is this wire; and what is random is not."""
    with (
        mock.patch.object(mailprobe.conversation.network, "connect_unix", return_value=wire),
        mock.patch.object(mailprobe.stream.select, "poll", return_value=wire),
        mock.patch.object(mailprobe.sasl.secrets, "token_urlsafe", return_value="n" * 24),
    ):
        yield


def converse(protocol: str, data: bytes) -> str:
    """Hold the conversation of an input; the state that comes of it. Raises `Violation`."""
    asks = ASKS[protocol]
    ask = asks[(data[0] if data else 0) % len(asks)]
    spec, options = CHECKS[protocol], _options(protocol, asks.index(ask))
    wire = Wire(data[1:])
    check, resource = common.build(spec, options, {}, {})
    started = time.process_time()
    with connected(wire):
        check()
    report = resource.report
    if time.process_time() - started > MAX_SECONDS:
        raise Violation(f"it took {time.process_time() - started:.1f} s")
    if report is None or not wire.closed:
        raise Violation("no report, or a connection that was not closed")
    state = str(check.state)
    if state not in ("ok", "warning", "critical") or state != report.state or state not in (*STATES, "ok"):
        raise Violation(f"the check is {state}, the report {report.state}")
    if state == "ok":
        wrong = complaint(protocol, wire.turns, ask.needed) if ask.possible else "there was no TLS"
        if wrong:
            raise Violation(f"OK, but {wrong}")
    texts = [present.as_text(check, report, verbose) for verbose in range(3)]
    look_at(present.as_json(check, report), *texts, secrets=options.secrets)
    return state


@cache
def _options(protocol: str, place: int) -> PromiseOptions:
    options = ASKS[protocol][place].options
    name = {"tls_server_name": "mail.example.org"} if options.get("tls") else {}
    made: PromiseOptions = CHECKS[protocol].options(host=HOST, timeout=10.0, **options, **name)
    return made


FORMS = {secret: forms(secret) for secret in (CANARY, TOKEN)}


def look_at(document: str, *texts: str, secrets: tuple[str, ...] = ()) -> None:
    """The output is bounded and inert, and none of these secrets is in it; a server may guess one that is not used."""
    if len(document) > MAX_REPORT:
        raise Violation(f"the report has {len(document)} characters")
    _inert_all(json.loads(document))
    for limit, text in zip((present.MAX_OUTPUT, present.MAX_OUTPUT, present.MAX_TRANSCRIPT), texts):
        if len(text) > limit + (present.TAIL + 1) * present.MAX_LINE:
            raise Violation(f"the output has {len(text)} characters")
        status, *rest = text.rstrip("\n").split("\n")
        words, bar, perfdata = status.partition(" | ")
        if not bar or not all(PERFDATUM.fullmatch(datum) for datum in perfdata.split(" ")):
            raise Violation(f"performance data: {status!r}")
        for line in (words, *rest):
            _inert(line)
    for secret in secrets:
        for text in (document, *texts):
            for leak in leaks(text, FORMS[secret]):
                raise Violation(f"a secret got out: {leak!r}")


def _inert(text: str) -> None:
    for character in set(text):
        if character == "|" or unicodedata.category(character) in ("Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"):
            raise Violation(f"{character!r} in {text!r}")


def _inert_all(value: Any) -> None:
    if isinstance(value, str):
        _inert(value)
    for inner in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        _inert_all(inner)

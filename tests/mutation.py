"""Sane conversations with one reply spoiled: made from the scripts in tests/conversations that end in OK.

Each reply in turn is replaced by a refusal, cut, kept back, followed by too much ... and the check must notice. After
the spoiled reply the server forgives: it answers whatever is said as well as it can, so that a verdict that leaves OK
does so because of that reply.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Callable

from .scripted import Script, Step

CONVERSATIONS = Path(__file__).parent / "conversations"
# Those that between them have every kind of reply; MAILPROBE_ALL=1 takes all scripts that end in OK.
CHOSEN = (
    *("imap/ok-folder-as-literal", "imap/ok-greeting-preauth", "imap/ok-login-command", "imap/ok-oauthbearer"),
    *("imap/ok-quota", "imap/ok-search-beyond-ascii", "imap/ok-starttls-everything"),
    *("pop3/ok-apop", "pop3/ok-auth-xoauth2", "pop3/ok-mailbox", "pop3/ok-starttls-mailbox"),
    *("pop3/ok-starttls-without-capa", "pop3/ok-without-capa"),
    *("sieve/ok-oauthbearer", "sieve/ok-scripts", "sieve/ok-script-checked", "sieve/ok-starttls-everything"),
    *("smtp/ok-helo-after-ehlo", "smtp/ok-lmtp-two-recipients", "smtp/ok-message-sent", "smtp/ok-recipient-251"),
    "smtp/ok-starttls-login-and-message",
)

# What each protocol says for no, for now, and for yes; of IMAP, what it says where there is no tag yet.
REFUSALS = {"smtp": b"550 5.7.1 No", "pop3": b"-ERR No", "imap": b"{tag} NO No", "sieve": b'NO "No"'}
DEFERRALS = {
    "smtp": b"451 4.3.0 Not now",
    "pop3": b"-ERR [SYS/TEMP] Not now",
    "imap": b"{tag} NO [UNAVAILABLE] Not now",
    "sieve": b'NO (TRYLATER) "Not now"',
}
ENDS = {"smtp": b"421 4.3.2 Going down", "imap": b"* BYE Going down", "sieve": b'BYE "Going down"'}
ENDS["pop3"] = b"-ERR [SYS/TEMP] Going down"
AGREEMENTS = {"smtp": b"250 2.0.0 Ok", "pop3": b"+OK", "imap": b"{tag} OK done", "sieve": b"OK"}
OTHERS = {"smtp": b"+OK ready", "pop3": b"* OK ready", "imap": b"220 ready", "sieve": b"SSH-2.0-OpenSSH_9.2"}
GARBAGE = b"\x00\xfe\x1b[31m|\xe2\x80\xae garbage"
FLOOD_MIB = 2  # more than the probe hears out, and quick

CRLF = b"\r\n"


@dataclass(frozen=True)
class Mutant:
    """A script with one reply spoiled; `place` counts the replies from 0. `farewell` tells whether it is the reply to
    QUIT or LOGOUT, `last` whether it is the one before that.
    """

    protocol: str
    source: str
    mutation: str
    place: int
    reply: bytes
    farewell: bool
    last: bool
    script: Script

    @property
    def leaves_after(self) -> bool:
        """Whether the server goes when all was done, so that only the farewell fails."""
        return self.last and self.mutation == CUT_AFTER

    @property
    def name(self) -> str:
        """Such as `smtp/ok-message-sent: silence instead of reply 3 '250 2.1.5 Ok'`."""
        first = self.reply.partition(CRLF)[0].decode("utf-8", "backslashreplace")
        return f"{self.source}: {self.mutation}, reply {self.place} '{first}'"


Spoil = Callable[[str, bytes], list[Step]]


def _said(text: bytes, *rest: str) -> list[Step]:
    return [*([Step("say", text)] if text else []), *(Step(do) for do in rest)]


def _line_of(table: dict[str, bytes]) -> Spoil:
    """One line in place of the reply; IMAP greets without a tag."""

    def spoil(protocol: str, reply: bytes) -> list[Step]:
        line = table[protocol]
        if protocol == "imap" and reply.startswith(b"* ") and b"{tag}" not in reply:
            line = re.sub(rb"^\{tag\} (NO|OK)", rb"* BYE", line)
        return _said(line + CRLF)

    return spoil


def _too_many(protocol: str, reply: bytes) -> list[Step]:
    return _said(reply + AGREEMENTS[protocol] + CRLF)


def _half_too_many(protocol: str, reply: bytes) -> list[Step]:
    return _said(reply + AGREEMENTS[protocol][:2])


def _too_early(protocol: str, reply: bytes) -> list[Step]:
    return _said(AGREEMENTS[protocol] + CRLF + reply)


CUT_AFTER = "cut after it"
MUTATIONS: dict[str, Spoil] = {
    "refused": _line_of(REFUSALS),
    "refused for now": _line_of(DEFERRALS),
    "going down": lambda protocol, reply: _said(ENDS[protocol] + CRLF, "close"),
    "another protocol": _line_of(OTHERS),
    "garbage": lambda protocol, reply: _said(GARBAGE + CRLF),
    "an empty line": lambda protocol, reply: _said(CRLF),
    "silence": lambda protocol, reply: _said(b"", "silence"),
    "closed instead": lambda protocol, reply: _said(b"", "close"),
    "reset instead": lambda protocol, reply: _said(b"", "reset"),
    "cut in mid line": lambda protocol, reply: _said(reply[: reply.index(CRLF) // 2 + 1], "cut"),
    "cut before the line end": lambda protocol, reply: _said(reply[: -len(CRLF)], "cut"),
    CUT_AFTER: lambda protocol, reply: _said(reply, "cut"),
    "flood of lines": lambda protocol, reply: [Step("flood", reply, FLOOD_MIB)],
    "flood without an end": lambda protocol, reply: [Step("flood", b"x", FLOOD_MIB)],
    "said twice": lambda protocol, reply: _said(reply + reply),
    "a reply too many": _too_many,
    "half a reply too many": _half_too_many,
    "a reply too early": _too_early,
}


def mutants(source: str, mutation: str) -> Iterator[Mutant]:
    """All mutants of a script (`smtp/ok-message-sent`) by one mutation, the replies in their order."""
    script = Script.read(CONVERSATIONS / f"{source}.txt")
    protocol = source.partition("/")[0]
    steps = script.sections[0]
    says = [place for place, step in enumerate(steps) if step.do == "say"]
    leaves = [_is_farewell(steps[:place]) for place in says]
    for number, place in enumerate(says):
        reply = steps[place].text
        spoiled = [*steps[:place], Step("forgive"), *MUTATIONS[mutation](protocol, reply), *steps[place + 1 :]]
        last = [*leaves, False][number + 1]
        mutated = replace(script, sections=[spoiled])
        yield Mutant(protocol, source, mutation, number, reply, leaves[number], last, mutated)


def _is_farewell(before: list[Step]) -> bool:
    heard = before[-1].text if before and before[-1].do == "hear" else b""
    return heard.upper().endswith((b"QUIT", b"LOGOUT"))


def sources(everything: bool = False) -> list[str]:
    """The scripts to make mutants of."""
    if not everything:
        return list(CHOSEN)
    found = {f"{path.parent.name}/{path.stem}": Script.read(path) for path in CONVERSATIONS.glob("*/ok-*.txt")}
    return sorted(name for name, script in found.items() if _is_plain(script))


def _is_plain(script: Script) -> bool:
    """Whether there is one connection, with replies in whole lines and in whole segments."""
    steps = script.sections[0]
    whole = all(step.text.endswith(CRLF) for step in steps if step.do == "say")
    return len(script.sections) == 1 and whole and not any(step.do == "segments" for step in steps)

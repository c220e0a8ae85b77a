"""The least that must have been said for a conversation to be OK: each command, and the reply that it wants."""

from __future__ import annotations

import re

from .wire import Turn


def _smtp(*codes: str) -> str:
    code = f"(?:{'|'.join(codes)})"
    return rf"(?P<code>{code})(?:-[^\n]*\n(?P=code))*(?:[ \r][^\n]*)?\n"


_OK = r"\+OK[^\n]*\n"
_LIST = r"\+OK[^\n]*\n(?:[^\n]*\n)*?\.\r?\n"
# Untagged responses and literals, whatever is in them, and the tagged status at the end.
_TAGGED = r"(?:.*\n)?{tag} OK\b[^\n]*\n(?:\* [^\n]*\n)*"
_GO_ON = r"(?:.*\n)?\+(?: [^\n]*)?\r?\n(?:\* [^\n]*\n)*"
_SIEVE_OK = r"(?:.*\n)?OK\b.*\n"
_QUOTED = r"[^\n]*\n(?:.*\n)?"

# For each protocol: what the client says (None: nothing yet), and what must come then. The first that fits counts.
REPLIES: dict[str, list[tuple[str | None, str]]] = {
    "smtp": [
        (None, _smtp("220")),
        (r"EHLO .*", _smtp("250", "500", "502", "504")),
        (r"(HELO|LHLO) .*", _smtp("250")),
        (r"MAIL FROM:.*|RSET", _smtp("250")),
        (r"RCPT TO:.*", _smtp("250", "251")),
        (r"DATA", _smtp("354")),
        (r"VRFY .*", _smtp("252")),
        (r"(?s).*\r\n\.", r"(?:" + _smtp("250").replace("?P<code>", "?:").replace("(?P=code)", "250") + r")+"),
        (r"AUTH .*|[A-Za-z0-9+/=]*", _smtp("235", "334")),
    ],
    "pop3": [
        (None, _OK),
        (r"CAPA", rf"{_LIST}|-ERR[^\n]*\n"),
        (r"LIST", _LIST),
        (r"TOP \d+ 0", rf"{_LIST}|-ERR[^\n]*\n"),
        (r"STAT", r"\+OK [0-9]+ [0-9]+[^\n]*\n"),
        (r"(USER|PASS|APOP) .*", _OK),
        (r"(?:AUTH .*|[A-Za-z0-9+/=]*)", rf"{_OK}|\+ ?[^\n]*\n"),
    ],
    "imap": [
        (None, r"\* (OK|PREAUTH)\b[^\n]*\n(?:\* [^\n]*\n)*"),
        (r"(?P<tag>a\d+) (?:AUTHENTICATE .*|.*\{\d+\})", rf"{_TAGGED}|{_GO_ON}"),
        (r"(?P<tag>a\d+) .*", _TAGGED),
        (r".*", r"(?:.*\n)?(?:a\d+ OK\b|\+)[^\n]*\n(?:\* [^\n]*\n)*"),  # the rest of a command
    ],
    "sieve": [
        (None, r'(?:.*\n)?"IMPLEMENTATION".*\n' + _SIEVE_OK),
        (r'AUTHENTICATE .*|"?[A-Za-z0-9+/=]*"?|\{\d+\+\}.*', rf"{_SIEVE_OK}|{_QUOTED}"),
        (r".*", _SIEVE_OK),
    ],
}
REPLIES["lmtp"] = REPLIES["smtp"]
FAREWELLS = re.compile(rb"QUIT|a\d+ LOGOUT|LOGOUT")
# What breaks a login off that is meant to be refused is no step to success.
FLAGS = re.IGNORECASE | re.DOTALL


def complaint(protocol: str, turns: list[Turn], needed: list[str]) -> str | None:
    """Why a conversation cannot be OK, None when it may; `needed` are commands that it must have."""
    said = [None if turn.said is None else turn.said.rstrip(b"\r\n") for turn in turns]
    for command in needed:
        if not any(each is not None and re.match(command.encode(), each, FLAGS) for each in said):
            return f"{command} was never said"
    for words, turn in zip(said, turns):
        if words is not None and FAREWELLS.fullmatch(words):
            return None
        pattern = _wanted(protocol, words)
        if pattern is None:
            return f"nobody expects {words!r}"
        if not re.fullmatch(pattern, bytes(turn.heard), FLAGS):
            return f"{words!r} was answered by {bytes(turn.heard[:200])!r}"
    return None


def _wanted(protocol: str, words: bytes | None) -> bytes | None:
    for command, reply in REPLIES[protocol]:
        if words is None or command is None:
            if words is command:
                return reply.encode()
            continue
        found = re.fullmatch(command.encode(), words, re.DOTALL)
        if found:
            return reply.encode().replace(b"{tag}", found.groupdict().get("tag") or b"")
    return None

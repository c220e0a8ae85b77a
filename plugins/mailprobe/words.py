"""What the words of servers mean where no code says it; pure functions and patterns, shared by all protocols."""

from __future__ import annotations

import re

from .text import BLOT

# There is no reply code for it; these are the words of Postfix, Exim, Exchange, Gmail and rate-limiting policies.
RATE_WORDS = re.compile(
    r"\brate\b|\btoo (many|much|fast|often)\b|throttl|limit (exceeded|reached)|exceeded .{0,40}limit"
    r"|maximum number of connections",
    re.IGNORECASE,
)


# Words of Cyrus SASL (sasl_errstring) and Postfix that are never about the password, whatever code they come with.
OUTAGE_WORDS = re.compile(
    r"generic failure|no mechanism available|invalid authentication mechanism|connection lost", re.IGNORECASE
)
# Words of a refused login that are not about the password, unless a code says that they are.
TROUBLE_WORDS = re.compile(
    r"temporar|internal|not supported|unsupported|unknown (command|mechanism)|not implemented"
    r"|unavailable|try again|later",
    re.IGNORECASE,
)

# Words of a server without response codes whose mailbox another session has locked (RFC 1939 7); it knows the password.
LOCK_WORDS = re.compile(r"\block (the )?(maildrop|mailbox)|\b(maildrop|mailbox) (is )?(already )?locked", re.IGNORECASE)

GREETINGS = (
    ("* OK", "IMAP"),
    ("* PREAUTH", "IMAP"),
    ("* BYE", "IMAP"),
    ("220", "SMTP or FTP"),
    ("+OK", "POP3"),
    ("-ERR", "POP3"),
    ('"IMPLEMENTATION"', "ManageSieve"),
    ("SSH-", "SSH"),
    ("HTTP/", "HTTP"),
    ("<!DOCTYPE", "HTTP"),
    ("\x16\x03", "TLS from the first byte"),
    ("\x15\x03", "TLS from the first byte"),
)


def guess_protocol(line: str) -> str | None:
    """What a greeting looks like, None when it is like nothing we know."""
    return next((name for start, name in GREETINGS if line.startswith(start)), None)


def without_challenge(line: str) -> str:
    """A line heard in a login, less the challenge in it, as SMTP, POP3, IMAP and ManageSieve write them."""
    found = re.match(r"334[ -]|\+ ", line)
    if found:
        return found[0] + BLOT if line[found.end() :].strip() else line
    if line.strip().startswith('"'):
        return BLOT
    return re.sub(r'(\(SASL +)"[^"]*"', rf"\1{BLOT}", line, flags=re.IGNORECASE)

"""The dialect of SMTP and LMTP: replies of three digits (RFC 5321 4.2), and what is in them."""

from __future__ import annotations

import re
from base64 import b64encode
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from .codes import Code, Severity, Stage
from .conversation import MAX_REPLY_LINES, Conversation, Turn
from .report import Unfinished
from .words import TROUBLE_WORDS

if TYPE_CHECKING:
    from .smtp import SmtpOptions

# The part of a reply in which we look for words: the rest would only cost time, which a hostile reply can make long.
MAX_MATCHED = 512

# The octets of one reply: MAX_REPLY_LINES of 64. Nothing needs more.
MAX_REPLY = 64 * 1024

# What a refusal is called at each stage: for now (4xx), for good (5xx).
REFUSALS = {
    Stage.GREETING: (Code.GREETING_DEFERRED, Code.GREETING_REFUSED),
    Stage.CAPABILITIES: (Code.HELLO_DEFERRED, Code.HELLO_REFUSED),
    Stage.TLS: (Code.STARTTLS_DEFERRED, Code.STARTTLS_REFUSED),
    Stage.AUTH: (Code.AUTH_DEFERRED, Code.AUTH_REJECTED),
    Stage.MAIL: (Code.SENDER_DEFERRED, Code.SENDER_REFUSED),
    Stage.RCPT: (Code.RECIPIENT_DEFERRED, Code.RECIPIENT_REFUSED),
    Stage.DATA: (Code.MESSAGE_DEFERRED, Code.MESSAGE_REFUSED),
}
# Credentials invalid, account disabled (RFC 4954 6, RFC 5248 2.4).
WRONG_PASSWORD = frozenset({"5.7.8", "5.7.13"})
# Refusals of a login that say nothing about the password (RFC 4954 6, RFC 5321 4.2.2).
NOT_THE_PASSWORD = {
    504: Code.MECHANISM_NOT_OFFERED,
    530: Code.AUTH_NOT_OFFERED,
    534: Code.MECHANISM_NOT_OFFERED,
    538: Code.AUTH_NOT_OFFERED,
}


@dataclass(frozen=True)
class Reply:
    """A whole reply: its code, and its lines as they were heard, made inert."""

    code: int
    lines: tuple[str, ...]

    @property
    def text(self) -> str:
        """The words without the codes; lines joined by spaces."""
        return " ".join(line[4:] for line in self.lines)

    @property
    def enhanced(self) -> str | None:
        """The enhanced status code, `5.1.1` (RFC 3463 2, RFC 2034 4), when there is one that fits the code."""
        found = re.match(r"([245])\.[0-9]{1,3}\.[0-9]{1,3}(?=\s|$)", self.lines[0][4:])
        return found[0] if found and found[1] == str(self.code)[0] else None

    def __str__(self) -> str:
        return f"{self.code} {self.text}".rstrip()


class Smtp(Conversation):
    """The dialect: replies of three digits (RFC 5321 4.2)."""

    options: SmtpOptions
    harmless_command = "NOOP"

    @property
    def lmtp(self) -> bool:
        """Whether it is LMTP."""
        return self.options.lmtp

    def greet(self) -> None:
        """220 (RFC 5321 4.3.1)."""
        facts = self.report.facts
        greeting = self.reply()
        facts.banner, facts.greeting_code = greeting.text, greeting.code
        self.require(greeting, 220)
        self.expect_text(facts.banner)

    def ask_capabilities(self) -> None:
        """EHLO or LHLO; an old server without extensions is content with HELO (RFC 5321 3.2)."""
        facts = self.report.facts
        facts.capabilities, facts.auth_mechanisms, facts.size_limit = [], [], None
        if self.lmtp:
            reply = self.ask(f"LHLO {self.hello}", 250)
        else:
            reply = self.ask(f"EHLO {self.hello}", 250, 500, 502, 504)
            if reply.code != 250:
                self.ask(f"HELO {self.hello}", 250)
                return
        facts.capabilities = capabilities(reply)
        facts.auth_mechanisms = [name.upper() for name in parameters(facts.capabilities, "AUTH") or []]
        facts.size_limit = size_limit(facts.capabilities)

    def ask_starttls(self, behind: str = "") -> None:
        """STARTTLS (RFC 3207 4)."""
        if parameters(self.report.facts.capabilities, "STARTTLS") is None:
            raise Unfinished(Code.STARTTLS_NOT_OFFERED, "the server does not offer STARTTLS")
        self.say("STARTTLS", behind=behind)
        self.expect(220)

    def ask(self, line: str, *codes: int, shown: str | None = None) -> Reply:
        """Say a line and hear the reply. With `codes`, any other one ends the conversation as a refusal."""
        self.say(line, shown)
        return self.expect(*codes)

    def expect(self, *codes: int) -> Reply:
        """The next reply; with `codes`, any other one ends the conversation as a refusal."""
        reply = self.reply()
        if codes:
            self.require(reply, *codes)
        return reply

    def require(self, reply: Reply, *codes: int) -> None:
        """End the conversation unless the reply has one of the codes."""
        if reply.code not in codes:
            raise self.refusal(reply)

    def reply(self) -> Reply:
        """The next reply, with all its lines. Raises `Unfinished` for what is none."""
        lines: list[str] = []
        size = 0
        while True:
            line = self.hear()
            parts = parse_reply_line(line)
            if parts is None or (lines and line[:3] != lines[0][:3]):
                raise self.malformed(" ".join([*lines, line]))
            lines.append(line)
            size += len(line)
            if parts.last:
                # After 421 the server closes (RFC 5321 3.8), and 3yz waits for more of the same: no turn to say QUIT.
                self.our_turn = parts.code != 421 and not 300 <= parts.code < 400
                return Reply(parts.code, tuple(lines))
            if len(lines) >= MAX_REPLY_LINES or size > MAX_REPLY:
                raise self.endless(len(lines))

    def malformed(self, said: str) -> Unfinished:
        """A greeting that begins with digits is SMTP, if a broken one."""
        if self.awaited == "the greeting" and said[:3].isdigit():
            return Unfinished(Code.MALFORMED_REPLY, f"the greeting is malformed: {self.quoted(said)}")
        return super().malformed(said)

    def refusal(self, reply: Reply) -> Unfinished:
        """The finding for a reply that is not the one wanted."""
        if self._stage is Stage.AUTH and reply.code >= 500:
            rejected = reply.code == 535 and not TROUBLE_WORDS.search(reply.text[:MAX_MATCHED])
            usual = Code.AUTH_REJECTED if rejected or reply.enhanced in WRONG_PASSWORD else Code.AUTH_FAILED
            return self.refused(str(reply), NOT_THE_PASSWORD.get(reply.code, usual), limits=False)
        deferred, refused = REFUSALS.get(self._stage, (Code.UNEXPECTED_REPLY, Code.UNEXPECTED_REPLY))
        if 400 <= reply.code < 500:
            return self.refused(str(reply), Code.BUSY if reply.code == 421 else deferred, Severity.TEMPORARY)
        if reply.code >= 500 and refused is not Code.UNEXPECTED_REPLY:
            return self.refused(str(reply), refused, limits=False)
        return self.unexpected(str(reply))

    def refuse(self, reply: Reply) -> None:
        """Note a refusal and go on, unless the server ends the conversation with it (421)."""
        refusal = self.refusal(reply)
        if reply.code == 421 or refusal.code is Code.UNEXPECTED_REPLY:
            raise refusal
        self.problem(refusal.code, refusal.words, refusal.severity)

    def begin_login(self, mechanism: str, initial: bytes | None) -> Turn:
        """AUTH (RFC 4954 4); an empty initial response is a `=`."""
        if initial is None:
            return self._turn(self.ask(f"AUTH {mechanism}", 235, 334))
        line = f"AUTH {mechanism} {b64encode(initial).decode() or '='}"
        return self._turn(self.ask(line, 235, 334, shown=f"AUTH {mechanism} ***"))

    def continue_login(self, response: bytes) -> Turn:
        """A line of base64."""
        return self._turn(self.ask(b64encode(response).decode(), 235, 334, shown="***"))

    def _turn(self, reply: Reply) -> Turn:
        return Turn(done=reply.code == 235, challenge=reply.text if reply.code == 334 else "")

    def cancel_login(self) -> None:
        """A line with an asterisk (RFC 4954 4)."""
        self.ask("*")

    def interrupted(self, line: str) -> Unfinished:
        """A 421 may come at any time (RFC 5321 3.8); anything else unasked breaks the pairing."""
        parts = parse_reply_line(line)
        if parts is not None and parts.code == 421:
            return self.refusal(Reply(421, (line,)))
        return super().interrupted(line)

    @property
    def hello(self) -> str:
        """The name to say hello with: this host's if it has a domain, else its address as a literal (RFC 5321 4.1.4).

        No look-up is made: DNS has no business in the middle of a conversation.
        """
        import socket

        if self.options.helo is not None:
            return self.options.helo

        name = socket.gethostname()
        if re.fullmatch(r"[A-Za-z0-9-]+(\.[A-Za-z0-9-]+)+", name):
            return name
        address = self.own_address()
        if address is None:
            return "localhost"
        return f"[IPv6:{address}]" if ":" in address else f"[{address}]"

    def send_message(self, data: bytes) -> None:
        """Send a message and the line that ends it."""
        self.send(data + b".\r\n", [*data.decode("ascii").split("\r\n")[:-1], "."])

    def farewell(self) -> None:
        """QUIT (RFC 5321 4.1.1.10)."""
        reply = self.ask("QUIT")
        if reply.code != 221:
            # It may belong to an earlier command, which then had the reply of the one before, and so on.
            raise self.unexpected(str(reply), Severity.FLAW)


# Pure helpers.


_REPLY_LINE = re.compile(r"([2-5][0-9][0-9])(?:([ -]).*)?", re.DOTALL)


class ReplyLine(NamedTuple):
    """One line of a reply: its code, and whether it is the last."""

    code: int
    last: bool


def parse_reply_line(line: str) -> ReplyLine | None:
    """RFC 5321 4.2: a code, a hyphen when more lines follow, a text; None if it is none. Codes up to 599 are in use."""
    found = _REPLY_LINE.fullmatch(line)
    return ReplyLine(int(found[1]), found[2] != "-") if found else None


def capabilities(reply: Reply) -> list[str]:
    """The extensions of an EHLO reply, a line each (RFC 5321 4.1.1.1)."""
    return [line[4:] for line in reply.lines[1:] if line[4:]]


def parameters(offered: list[str], keyword: str) -> list[str] | None:
    """The parameters of an extension, None when it is not offered. The old form `AUTH=LOGIN` counts, too."""
    found: list[str] | None = None
    for line in offered:
        if line[: len(keyword)].upper() != keyword:
            continue
        first, *rest = line.replace("=", " ", 1).split(" ") if line.upper().startswith("AUTH=") else line.split(" ")
        if first.upper() == keyword:
            found = (found or []) + [word for word in rest if word]
    return found


def size_limit(offered: list[str]) -> int | None:
    """The fixed maximum message size in octets (RFC 1870 4); None when there is none."""
    values = parameters(offered, "SIZE") or []
    if not values or not re.fullmatch(r"[0-9]{1,18}", values[0]):  # the RFC's 20 digits do not fit into 64 bits
        return None
    return int(values[0]) or None


QUEUE_IDS = (
    r"queued as ([\w.-]{1,100})",  # Postfix
    r"\bid=([\w.-]{1,100})",  # Exim
    r"<[^<>]{0,250}> \[InternalId=(\d{1,30})",  # Exchange
    r"\b([\w.-]{1,100}) Message accepted",  # Sendmail, OpenSMTPD
    r"\bqp (\d{1,30})",  # qmail
    r"^[\d.]{0,10} ?OK +(\d{1,30} [\w.-]{1,100})",  # Gmail
    r"<[^<>]{0,250}> (\S{1,100}) Saved",  # Dovecot LMTP
)


def queue_id(text: str) -> str | None:
    """The queue id that the server named when it took a message; None when it named none we know."""
    found = next((match for form in QUEUE_IDS if (match := re.search(form, text[:MAX_MATCHED], re.IGNORECASE))), None)
    return found[1] if found else None

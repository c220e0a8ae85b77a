"""POP3 (RFC 1939): the conversation up to a look into the mailbox. Nothing is ever deleted."""

from __future__ import annotations

import re
from base64 import b64encode
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import ClassVar

from .codes import Code, Severity, Stage
from .conversation import MAX_REPLY_LINES, Conversation, Turn
from .families import PromiseOptions
from .login import log_in
from .mailtime import age_of_message
from .options import option
from .report import Facts, Report, Unfinished
from .run import hold
from .sasl import MECHANISMS, Credentials
from .speech import MAX_WORDS
from .words import LOCK_WORDS

# A longer list costs the server more than it tells us: 10,000 lines are 120 kB.
MAX_LISTED = 10_000


@dataclass(frozen=True)
class Pop3Options(PromiseOptions):
    """What can be asked of a POP3 server."""

    PROTOCOL: ClassVar[str] = "pop3"
    PORTS: ClassVar[Mapping[str, int]] = {"none": 110, "starttls": 110, "implicit": 995}

    mechanism: str | None = option(
        "SASL mechanism, or APOP or USER (with PASS), to log in with; by default the strongest that the server offers.",
        default=None,
        choices=tuple(MECHANISMS),
    )


@dataclass
class Pop3Facts(Facts):
    """What the server told. Sizes are octets, ages seconds; None for what was not measured."""

    messages: int | None = None
    mailbox_bytes: int | None = None
    largest_bytes: int | None = None
    oldest_age: int | None = None
    newest_age: int | None = None


def probe(options: Pop3Options) -> Report[Pop3Facts]:
    """Talk to a POP3 server and report what it said. Raises `UsageError` before anything is connected."""
    return hold(Pop3, options, Pop3Facts(), _talk)


def _talk(pop3: Pop3, options: Pop3Options, facts: Pop3Facts) -> None:
    pop3.begin()
    if options.username is None or pop3.inspecting:
        return
    if not log_in(pop3, facts, {"APOP": pop3.apop, "USER": pop3.user_pass}):
        return
    with pop3.stage(Stage.MAILBOX):
        _look_into_the_mailbox(pop3, facts)


def _look_into_the_mailbox(pop3: Pop3, facts: Pop3Facts) -> None:
    stat = pop3.ask("STAT")
    pop3.require(stat)
    numbers = two_numbers(stat.text)
    if numbers is None:
        pop3.problem(Code.MALFORMED_REPLY, f"the reply to STAT is malformed: {pop3.quoted(stat.text)}")
        return
    facts.messages, facts.mailbox_bytes = numbers
    if not facts.messages:
        return
    if facts.messages <= MAX_LISTED:
        facts.largest_bytes = _largest(pop3)
    facts.oldest_age = _age(pop3, 1, facts)
    facts.newest_age = _age(pop3, facts.messages, facts)


def _fine(pop3: Pop3, reply: Reply) -> bool:
    """Note a refusal and go on: other things may still be measured."""
    if reply.ok and reply.challenge is None:
        return True
    refusal = pop3.refusal(reply)
    pop3.problem(refusal.code, refusal.words, refusal.severity)
    return False


def _largest(pop3: Pop3) -> int | None:
    if not _fine(pop3, pop3.ask("LIST")):
        return None
    sizes = []
    for line in pop3.lines(MAX_LISTED + 1):
        numbers = two_numbers(line)
        if numbers is None:
            pop3.problem(Code.MALFORMED_REPLY, f"a line of LIST is malformed: {pop3.quoted(line)}")
            return None
        sizes.append(numbers[1])
    return max(sizes, default=None)


def _age(pop3: Pop3, number: int, facts: Pop3Facts) -> int | None:
    """Seconds since a message arrived; None when the server does not know TOP (it is optional) or the date is none."""
    reply = pop3.ask(f"TOP {number} 0")
    optional = reply.response_code is None and not _offers(facts.capabilities, "TOP")
    if (not reply.ok and optional) or not _fine(pop3, reply):
        return None
    return age_of_message(pop3.header())


# The dialect.

# What -ERR is called at each stage.
REFUSALS = {
    Stage.GREETING: Code.GREETING_REFUSED,
    Stage.TLS: Code.STARTTLS_REFUSED,
    Stage.AUTH: Code.AUTH_REJECTED,
    Stage.MAILBOX: Code.MAILBOX_UNAVAILABLE,
}
# The response codes of RFC 2449 8 and RFC 3206 that tell more.
RESPONSE_CODES = {
    "AUTH": (Code.AUTH_REJECTED, Severity.FAILURE),
    "IN-USE": (Code.MAILBOX_IN_USE, Severity.TEMPORARY),
    "LOGIN-DELAY": (Code.LOGIN_DELAY, Severity.TEMPORARY),
    "SYS/TEMP": (Code.SYSTEM_TEMPORARY, Severity.TEMPORARY),
    "SYS/PERM": (Code.SYSTEM_PERMANENT, Severity.FAILURE),
}


@dataclass(frozen=True)
class Reply:
    """The first line of a reply: whether it is `+OK`, the words behind it, and the response code in them, if any.

    `challenge` is the base64 of a SASL challenge, None for every other reply.
    """

    ok: bool
    text: str
    response_code: str | None = None
    challenge: str | None = None

    def __str__(self) -> str:
        mark = "+" if self.challenge is not None else "+OK" if self.ok else "-ERR"
        return f"{mark} {self.text}".rstrip()


class Pop3(Conversation):
    """The dialect: `+OK` and `-ERR` (RFC 1939 3), `+ ` for a challenge (RFC 5034 4)."""

    plaintext_logins = ("PLAIN", "LOGIN", "USER")
    harmless_command = "CAPA"

    def greet(self) -> None:
        """`+OK` (RFC 1939 4)."""
        greeting = self.reply()
        self.report.facts.banner = greeting.text
        self.require(greeting)
        self.expect_text(greeting.text)

    def ask_capabilities(self) -> None:
        """CAPA (RFC 2449 5), which is optional."""
        facts = self.report.facts
        reply = self.ask("CAPA")
        if reply.response_code is not None:
            _fine(self, reply)  # not unknown to the server: it says why it does not answer
        facts.capabilities = self.lines() if reply.ok and reply.challenge is None else []
        mechanisms = [name.upper() for line in facts.capabilities for name in _parameters(line, "SASL")]
        if apop_timestamp(facts.banner):
            mechanisms.append("APOP")
        # RFC 2449 6.3: USER is offered by its capability; a server without CAPA (RFC 1939) has nothing else.
        if not facts.capabilities or _offers(facts.capabilities, "USER"):
            mechanisms.append("USER")
        facts.auth_mechanisms = mechanisms

    @property
    def offered_logins(self) -> list[str]:
        """Without CAPA, USER is a guess."""
        facts = self.report.facts
        return [name for name in facts.auth_mechanisms if name != "USER" or facts.capabilities]

    def ask_starttls(self, behind: str = "") -> None:
        """STLS (RFC 2595 4); a server without CAPA may know it all the same."""
        offered = self.report.facts.capabilities
        if offered and not _offers(offered, "STLS"):
            raise Unfinished(Code.STARTTLS_NOT_OFFERED, "the server does not offer STLS")
        self.say("STLS", behind=behind)
        self.require(self.reply())

    def ask(self, line: str, shown: str | None = None) -> Reply:
        """Say a line and hear the first line of the reply."""
        self.say(line, shown)
        return self.reply()

    def reply(self) -> Reply:
        """The first line of the next reply. Raises `Unfinished` for what is none."""
        line = self.hear()
        reply = parse_reply(line)
        if reply is None:
            raise self.malformed(line)
        self.our_turn = True
        return reply

    def lines(self, limit: int = MAX_REPLY_LINES) -> list[str]:
        """The lines that follow the first of a multi-line reply, to the one with the dot (RFC 1939 3)."""
        lines: list[str] = []
        for line in self._to_the_dot():
            lines.append(line)
            if len(lines) > limit:
                raise self.endless(len(lines))
        return lines

    def header(self) -> list[str]:
        """The header of a message, of which the transcript has only the size: it is somebody's mail.

        Whoever writes to the mailbox decides how long it is and how long its lines are, so what is too much is left out
        and is no fault of the server's.
        """
        self.long_lines()
        lines = list(self._to_the_dot(shown=False))
        self.note(f"the header of the message, {len(lines)} lines")
        return lines[:MAX_REPLY_LINES]

    def _to_the_dot(self, shown: bool = True) -> Iterator[str]:
        self.our_turn = False
        line = self.hear(shown)
        if re.match(r"(\+OK|-ERR)( |$)", line, re.IGNORECASE):
            raise self.unexpected(line)  # the reply before it was to something else
        while line != ".":
            yield line.removeprefix(".")
            line = self.hear(shown)
        self.our_turn = True

    def require(self, reply: Reply) -> None:
        """End the conversation unless the reply is `+OK`."""
        if not reply.ok or reply.challenge is not None:
            raise self.refusal(reply)

    def refusal(self, reply: Reply) -> Unfinished:
        """The finding for a reply that is not `+OK`."""
        if reply.ok:
            return self.unexpected(str(reply))
        usual = (self.usual_refusal(REFUSALS, reply.text), Severity.FAILURE)
        if usual[0] is Code.AUTH_REJECTED and LOCK_WORDS.search(reply.text[:MAX_WORDS]):
            usual = RESPONSE_CODES["IN-USE"]
        elif usual[0] is Code.AUTH_REJECTED and _offers(self.report.facts.capabilities, "AUTH-RESP-CODE"):
            usual = (Code.AUTH_FAILED, Severity.FAILURE)  # RFC 3206 6: of a wrong password it would say [AUTH]
        code, severity = response_code_meaning(reply.response_code) or usual
        return self.refused(str(reply), code, severity, limits=reply.response_code is None)

    def apop(self, login: Credentials) -> None:
        """RFC 1939 7: the MD5 of timestamp and password. Raises `Unfinished` where Python has no MD5 (FIPS)."""
        import hashlib

        timestamp = apop_timestamp(self.report.facts.banner)
        try:
            digest = hashlib.md5((timestamp + login.password).encode()).hexdigest()  # noqa: S324  the protocol's choice
        except ValueError as error:
            raise Unfinished(Code.MECHANISM_UNAVAILABLE, f"APOP: {error}") from None
        self.keep_secret(digest)
        self.require(self.ask(f"APOP {login.username} {digest}", shown=f"APOP {login.username} ***"))

    def user_pass(self, login: Credentials) -> None:
        """USER and PASS (RFC 1939 7)."""
        reply = self.ask(f"USER {login.username}")
        if not reply.ok and reply.response_code is None:
            raise self.refused(str(reply), Code.AUTH_FAILED)  # there was no password to be judged
        self.require(reply)
        self.require(self.ask(f"PASS {login.password}", shown="PASS ***"))

    def begin_login(self, mechanism: str, initial: bytes | None) -> Turn:
        """AUTH (RFC 5034 4); an empty initial response is a `=`."""
        if mechanism == "USER":
            self.require(self.ask("USER mailprobe"))  # of nobody: it is asked whether this may be said at all
            return Turn(done=True)
        if initial is None:
            return self._turn(self.ask(f"AUTH {mechanism}"))
        encoded = b64encode(initial).decode() or "="
        if len(mechanism) + len(encoded) > MAX_AUTH_LINE:
            # RFC 5034 4: what does not fit into the line is given as the answer to an empty challenge.
            turn = self._turn(self.ask(f"AUTH {mechanism}"))
            return turn if turn.done else self.continue_login(initial)
        return self._turn(self.ask(f"AUTH {mechanism} {encoded}", shown=f"AUTH {mechanism} ***"))

    def continue_login(self, response: bytes) -> Turn:
        """A line of base64."""
        return self._turn(self.ask(b64encode(response).decode(), shown="***"))

    def cancel_login(self) -> None:
        """A line with an asterisk (RFC 5034 4)."""
        self.ask("*")

    def _turn(self, reply: Reply) -> Turn:
        if reply.challenge is not None:
            return Turn(done=False, challenge=reply.challenge)
        self.require(reply)
        return Turn(done=True)

    def farewell(self) -> None:
        """QUIT (RFC 1939 6)."""
        reply = self.ask("QUIT")
        if not reply.ok:
            # It may belong to an earlier command, since POP3 has no tags.
            raise self.unexpected(str(reply), Severity.FLAW)


# RFC 2449 4: 255 octets a command, with AUTH, a space and CRLF.
MAX_AUTH_LINE = 247


# Pure helpers.


def parse_reply(line: str) -> Reply | None:
    """The first line of a reply; None if it is none. Servers differ in case."""
    if line == "+" or line.startswith("+ "):
        return Reply(True, line[2:], challenge=line[2:].strip())
    status, dummy, text = line.partition(" ")
    if status.upper() not in ("+OK", "-ERR"):
        return None
    code = re.match(r"\[([A-Za-z0-9/-]+)\]", text)
    return Reply(status.upper() == "+OK", text, code[1].upper() if code else None)


def response_code_meaning(code: str | None) -> tuple[Code, Severity] | None:
    """The finding for a response code; its levels go from the general to the particular (RFC 3206 3)."""
    while code:
        if code in RESPONSE_CODES:
            return RESPONSE_CODES[code]
        code = code.rpartition("/")[0]
    return None


def apop_timestamp(banner: str) -> str:
    """The timestamp of a greeting (RFC 1939 7); empty when the server does not offer APOP."""
    found = re.search(r"<[!-;=?-~]+@[!-;=?-~]+>", banner)
    return found[0] if found else ""


def two_numbers(text: str) -> tuple[int, int] | None:
    """The numbers of STAT or a line of LIST: ASCII digits, and not too many of them; None for everything else."""
    found = re.match(r"([0-9]{1,10}) ([0-9]{1,18})(?: |$)", text)
    return (int(found[1]), int(found[2])) if found else None


def _offers(capabilities: list[str], keyword: str) -> bool:
    return any(line.split(" ")[0].upper() == keyword for line in capabilities)


def _parameters(line: str, keyword: str) -> list[str]:
    first, *rest = line.split(" ")
    return [word for word in rest if word] if first.upper() == keyword else []

"""SMTP (RFC 5321), submission (RFC 6409) and LMTP (RFC 2033): the conversation of a postmaster with telnet."""

from __future__ import annotations

import binascii
import re
from base64 import b64decode, b64encode
from dataclasses import dataclass, field

from .conversation import Conversation, hold, quoted
from .options import MAX_ADDRESS, LoginOptions, UsageError, option
from .report import Code, Facts, Report, Severity, Stage, Unfinished
from .sasl import MECHANISMS, choose
from .text import printable

# Limits of one reply, for lines see conversation.MAX_LINE. 200 EHLO lines are legal; nothing needs more than these.
MAX_REPLY_LINES = 1000
MAX_REPLY = 64 * 1024
# RFC 5321 4.5.3.1.4 counts the CRLF into the 512 octets of a command line.
MAX_COMMAND = 510
# The part of a reply that a user's regular expression sees; a hostile reply must not feed its backtracking.
MAX_MATCHED = 4096

LMTP_PORT = 24
# What the conversation itself says, and what would deliver, leak or derail when said in between.
RESERVED_COMMANDS = frozenset({"AUTH", "BDAT", "DATA", "EHLO", "HELO", "LHLO", "QUIT", "STARTTLS", "TURN", "ETRN"})


@dataclass(frozen=True)
class SmtpOptions(LoginOptions):
    """What can be asked of an SMTP or LMTP server."""

    helo: str | None = option(
        "Name to say hello with; by default the name of this host if it has a domain, else its address in brackets.",
        default=None,
        metavar="NAME",
    )
    lmtp: bool = option("Speak LMTP: say LHLO, and judge the reply for each recipient.", default=False)
    expect: str | None = option("Text that the greeting must contain.", default=None, metavar="TEXT")
    command: tuple[str, ...] = option(
        "Extra command to say before the transaction; may be given more than once. Its reply must match the {response}"
        " of the same place, or else be positive.",
        default=(),
        metavar="COMMAND",
    )
    response: tuple[str, ...] = option(
        "Regular expression that the reply to the {command} of the same place must match; may be given more than once.",
        default=(),
        metavar="REGEX",
    )
    mail_from: str | None = option(
        "Sender to say in MAIL FROM; <> is the null sender, and the default when there is a {rcpt_to}.",
        default=None,
        metavar="ADDRESS",
    )
    rcpt_to: tuple[str, ...] = option(
        "Recipient to say in RCPT TO; may be given more than once. Nothing is delivered without {send}.",
        default=(),
        metavar="ADDRESS",
    )
    send: bool = option(
        "Deliver a test message to all of {rcpt_to} that the server accepts.", default=False, effect=True
    )
    subject: str = option("Subject of the test message.", default="mailprobe test message", metavar="TEXT")
    body: str = option(
        "Text of the test message.",
        default="This message was sent by mailprobe to see whether mail gets through. It can be deleted.",
        multiline=True,
        metavar="TEXT",
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.helo is not None and not re.fullmatch(r"[!-~]{1,255}", self.helo):
            raise UsageError("helo", f"'{printable(self.helo, limit=80)}' is no host name or address in brackets")
        self._check_commands()
        if self.mail_from is not None and self.mail_from not in ("", "<>"):
            _check_address("mail_from", self.mail_from, "")
        for place, address in enumerate(self.rcpt_to, start=1):
            _check_address("rcpt_to", address, f"value {place}: " if len(self.rcpt_to) > 1 else "")
        if self.send and not self.rcpt_to:
            raise UsageError("send", "needs a recipient: give {rcpt_to}")

    def _check_commands(self) -> None:
        for place, command in enumerate(self.command, start=1):
            verb = command.split(" ")[0].upper()
            if verb in RESERVED_COMMANDS:
                raise UsageError("command", f"value {place}: {verb} is not for here; the conversation says it itself")
            if not verb or not command.isascii() or len(command) > MAX_COMMAND:
                raise UsageError("command", f"value {place} is no command of at most {MAX_COMMAND} ASCII characters")
        if len(self.response) > len(self.command):
            raise UsageError("response", f"there are {len(self.response)}, but only {len(self.command)} of {{command}}")
        for place, pattern in enumerate(self.response, start=1):
            try:
                re.compile(pattern)
            except (re.error, OverflowError, RecursionError) as error:
                raise UsageError(
                    "response", f"value {place}: '{printable(pattern, limit=80)}' is no regular expression: {error}"
                ) from None

    @property
    def protocol(self) -> str:
        """`smtp` or `lmtp`."""
        return "lmtp" if self.lmtp else "smtp"

    @property
    def effective_port(self) -> int | None:
        """The port, by mode when none is given: 25, 587 when logging in with STARTTLS, 465 implicit, LMTP 24."""
        if self.port is not None or self.is_socket:
            return self.port
        if self.lmtp:
            return LMTP_PORT
        if self.tls == "implicit":
            return 465
        return 587 if self.tls == "starttls" and self.username is not None else 25


# RFC 5321 4.1.2, less what nobody could tell from a mistake: spaces inside quotes. "_" is no host name, but in use.
ADDRESS = re.compile(
    r"""(?:[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+(?:\.[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+)*|"[!#-\[\]-~]+")"""
    r"@(?:[A-Za-z0-9_-]+(?:\.[A-Za-z0-9_-]+)*\.?|\[[A-Za-z0-9:.-]+\])"
    r"|postmaster",
    re.IGNORECASE,
)


def _check_address(name: str, address: str, place: str) -> None:
    bare = _bare(address)
    if not ADDRESS.fullmatch(bare) or len(bare) > MAX_ADDRESS:
        raise UsageError(
            name, f"{place}'{printable(address, limit=80)}' is not one plain address like postmaster@example.org"
        )


def _bare(address: str) -> str:
    return address[1:-1] if address.startswith("<") and address.endswith(">") else address


@dataclass
class Recipient:
    """What the server said to one recipient, at RCPT TO or after the message. `code` as in RFC 5321 4.2, `enhanced` as
    in RFC 3463 or None, `text` its words; `accepted` is our judgement.
    """

    address: str
    accepted: bool
    code: int
    enhanced: str | None
    text: str


@dataclass
class Command:
    """What the server said to an extra command; `accepted` when that was what the response asked for."""

    command: str
    accepted: bool
    code: int
    enhanced: str | None
    text: str


@dataclass
class SmtpFacts(Facts):
    """What the server told. `capabilities` are the lines of its last EHLO reply, `size_limit` octets (RFC 1870)."""

    banner: str | None = None
    greeting_code: int | None = None
    capabilities: list[str] = field(default_factory=list)
    auth_mechanisms: list[str] = field(default_factory=list)
    size_limit: int | None = None
    mechanism: str | None = None
    commands: list[Command] = field(default_factory=list)
    recipients: list[Recipient] = field(default_factory=list)
    message_id: str | None = None
    deliveries: list[Recipient] = field(default_factory=list)
    queue_id: str | None = None


def probe(options: SmtpOptions) -> Report[SmtpFacts]:
    """Talk to an SMTP or LMTP server and report what it said. Raises `UsageError` before anything is connected."""
    report = Report(options.protocol, options.host, options.effective_port, SmtpFacts())
    hold(Smtp, report, options, lambda smtp: _talk(smtp, options, report.facts))
    return report


def _talk(smtp: Smtp, options: SmtpOptions, facts: SmtpFacts) -> None:
    smtp.connect()
    with smtp.stage(Stage.GREETING):
        greeting = smtp.reply()
        facts.banner, facts.greeting_code = greeting.text, greeting.code
        smtp.require(greeting, 220)
        if options.expect is not None and printable(options.expect) not in facts.banner:
            smtp.problem(Code.GREETING_UNEXPECTED, f"the greeting lacks '{options.expect}': {quoted(facts.banner)}")
    hello = options.helo or smtp.own_name()
    with smtp.stage(Stage.CAPABILITIES):
        _say_hello(smtp, hello, facts)
    if options.tls == "starttls":
        with smtp.stage(Stage.TLS):
            if parameters(facts.capabilities, "STARTTLS") is None:
                raise Unfinished(Code.STARTTLS_NOT_OFFERED, "the server does not offer STARTTLS")
            smtp.ask("STARTTLS", 220)
            smtp.start_tls()
        with smtp.stage(Stage.CAPABILITIES):
            _say_hello(smtp, hello, facts)  # RFC 3207 4.2: what was said before TLS is forgotten
    if options.username is not None and options.password is not None:
        if smtp.inspecting:
            return  # Nothing secret goes over this connection, and without a login the rest would be misjudged.
        with smtp.stage(Stage.AUTH):
            _log_in(smtp, options.username, options.password, options.mechanism, facts)
    for place, command in enumerate(options.command):
        with smtp.stage(Stage.COMMAND):
            _say_command(smtp, command, options.response[place] if place < len(options.response) else None, facts)
    if options.mail_from is not None or options.rcpt_to:
        _transact(smtp, options, hello, facts)


def _say_hello(smtp: Smtp, name: str, facts: SmtpFacts) -> None:
    facts.capabilities, facts.auth_mechanisms, facts.size_limit = [], [], None
    if smtp.lmtp:
        reply = smtp.ask(f"LHLO {name}", 250)
    else:
        reply = smtp.ask(f"EHLO {name}", 250, 500, 502, 504)
        if reply.code != 250:
            smtp.ask(f"HELO {name}", 250)  # RFC 5321 3.2: an old server, without extensions
            return
    facts.capabilities = capabilities(reply)
    facts.auth_mechanisms = [name.upper() for name in parameters(facts.capabilities, "AUTH") or []]
    facts.size_limit = size_limit(facts.capabilities)


def _log_in(smtp: Smtp, username: str, password: str, wanted: str | None, facts: SmtpFacts) -> None:
    """RFC 4954. One mechanism, one try: a second after a refusal could lock the account."""
    if not facts.auth_mechanisms:
        raise Unfinished(Code.AUTH_NOT_OFFERED, "the server offers no login (AUTH)")
    mechanism = choose(facts.auth_mechanisms, wanted)
    if mechanism is None:
        offered = quoted(" ".join(facts.auth_mechanisms))
        raise Unfinished(
            Code.MECHANISM_NOT_OFFERED, f"the server offers login by {offered}, not by {wanted or ' '.join(MECHANISMS)}"
        )
    facts.mechanism = mechanism
    exchange = MECHANISMS[mechanism](username, password)
    initial = next(exchange)
    if initial is None:
        reply = smtp.ask(f"AUTH {mechanism}", 235, 334)
    else:
        reply = smtp.ask(f"AUTH {mechanism} {b64encode(initial).decode()}", 235, 334, shown=f"AUTH {mechanism} ***")
    while reply.code == 334:
        try:
            response = exchange.send(b64decode(reply.text, validate=True))
        except StopIteration:
            raise smtp.cancel_login(Code.UNEXPECTED_REPLY, f"{mechanism} is complete, but the server asks on") from None
        except binascii.Error:
            raise smtp.cancel_login(
                Code.MALFORMED_REPLY, f"the challenge is not base64: {quoted(reply.text)}"
            ) from None
        except ValueError as error:
            raise smtp.cancel_login(Code.MECHANISM_UNAVAILABLE, f"{mechanism}: {error}") from None
        reply = smtp.ask(b64encode(response or b"").decode(), 235, 334, shown="***")
    if next(exchange, None) is not None:
        raise Unfinished(Code.UNEXPECTED_REPLY, f"the server accepted the login before {mechanism} was complete")


def _say_command(smtp: Smtp, command: str, pattern: str | None, facts: SmtpFacts) -> None:
    reply = smtp.ask(command)
    heard = "\n".join(reply.lines)[:MAX_MATCHED]
    good = reply.code < 400 if pattern is None else re.search(pattern, heard) is not None
    facts.commands.append(Command(command, good, reply.code, reply.enhanced, reply.text))
    if not good:
        wanted = "a positive reply" if pattern is None else f"'{pattern}'"
        smtp.problem(Code.COMMAND_UNEXPECTED_REPLY, f"{command} was not answered by {wanted}: {quoted(str(reply))}")
    if not smtp.our_turn:
        raise smtp.refusal(reply)


def _transact(smtp: Smtp, options: SmtpOptions, hello: str, facts: SmtpFacts) -> None:
    sender = _bare(options.mail_from or "")
    with smtp.stage(Stage.MAIL):
        smtp.ask(f"MAIL FROM:<{sender}>", 250)
    for address in map(_bare, options.rcpt_to):
        with smtp.stage(Stage.RCPT):
            reply = smtp.ask(f"RCPT TO:<{address}>")
            facts.recipients.append(_answer(address, reply, 250, 251))
            if not facts.recipients[-1].accepted:
                smtp.refuse(reply)
    accepted = [recipient.address for recipient in facts.recipients if recipient.accepted]
    if options.send and accepted and not smtp.inspecting:
        with smtp.stage(Stage.DATA):
            _deliver(smtp, options, hello, accepted, facts)
    else:
        with smtp.stage(Stage.RESET):
            smtp.ask("RSET", 250)


def _answer(address: str, reply: Reply, *codes: int) -> Recipient:
    return Recipient(address, reply.code in codes, reply.code, reply.enhanced, reply.text)


def _deliver(smtp: Smtp, options: SmtpOptions, hello: str, accepted: list[str], facts: SmtpFacts) -> None:
    from .message import compose, on_the_wire

    message = compose(_bare(options.mail_from or ""), accepted, hello, options.subject, options.body)
    facts.message_id = printable(str(message["Message-ID"]))
    smtp.ask("DATA", 354)
    smtp.send_message(on_the_wire(message))
    # RFC 2033 4.2: LMTP answers once for each recipient that it accepted, SMTP once for all.
    for recipient in accepted if options.lmtp else [", ".join(accepted)]:
        smtp.awaited = f"the reply to the message for {recipient}"
        reply = smtp.reply()
        facts.deliveries.append(_answer(recipient, reply, 250))
        if facts.deliveries[-1].accepted:
            facts.queue_id = facts.queue_id or queue_id(reply.text)
        else:
            smtp.refuse(reply)


# The dialect.

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
# There is no reply code for it; these are the words of Postfix, Exim, Exchange, Gmail and rate-limiting policies.
RATE_WORDS = re.compile(
    r"\brate\b|\btoo (many|much|fast|often)\b|throttl|limit (exceeded|reached)|exceeded .*limit", re.IGNORECASE
)


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

    @property
    def lmtp(self) -> bool:
        """Whether it is LMTP."""
        return self.options.lmtp

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
                raise self._no_reply(line, bool(lines))
            lines.append(line)
            size += len(line)
            if parts.last:
                # After 421 the server closes (RFC 5321 3.8), and 354 waits for a message: no turn to say QUIT.
                self.our_turn = parts.code not in (354, 421)
                return Reply(parts.code, tuple(lines))
            if len(lines) >= MAX_REPLY_LINES or size > MAX_REPLY:
                raise Unfinished(Code.REPLY_TOO_LONG, f"{self.awaited} does not end after {len(lines)} lines")

    def _no_reply(self, line: str, continued: bool) -> Unfinished:
        if self.awaited == "the greeting" and not continued and not line[:3].isdigit():
            guess = next((name for start, name in GREETINGS if line.startswith(start)), None)
            looks = f", this looks like {guess}" if guess else ""
            name = self.options.protocol.upper()
            return Unfinished(Code.WRONG_PROTOCOL, f"the server does not speak {name}{looks}: {quoted(line)}")
        return Unfinished(Code.MALFORMED_REPLY, f"{self.awaited} is malformed: {quoted(line)}")

    def refusal(self, reply: Reply) -> Unfinished:
        """The finding for a reply that is not the one wanted."""
        asked = self.awaited.replace("the reply to ", "").replace("the greeting", "greeting")
        words = quoted(str(reply))
        if 400 <= reply.code < 500:
            deferred = REFUSALS[self._stage][0] if self._stage in REFUSALS else Code.UNEXPECTED_REPLY
            code = Code.BUSY if reply.code == 421 else deferred
            if RATE_WORDS.search(reply.text):
                code = Code.RATE_LIMITED
            return Unfinished(code, f"{asked} refused for now: {words}", Severity.TEMPORARY)
        if reply.code >= 500 and self._stage in REFUSALS:
            return Unfinished(REFUSALS[self._stage][1], f"{asked} refused: {words}")
        return Unfinished(Code.UNEXPECTED_REPLY, f"unexpected reply to {asked}: {words}")

    def refuse(self, reply: Reply) -> None:
        """Note a refusal and go on, unless the server ends the conversation with it (421)."""
        refusal = self.refusal(reply)
        if reply.code == 421 or refusal.code is Code.UNEXPECTED_REPLY:
            raise refusal
        self.problem(refusal.code, refusal.words, refusal.severity)

    def cancel_login(self, code: Code, words: str) -> Unfinished:
        """Break off an AUTH exchange as RFC 4954 4 wants it, and return the finding."""
        try:
            self.ask("*")
        except (Unfinished, OSError):
            self.our_turn = False
        return Unfinished(code, words)

    def interrupted(self, line: str) -> Unfinished:
        """A 421 may come at any time (RFC 5321 3.8); anything else unasked breaks the pairing."""
        parts = parse_reply_line(line)
        if parts is not None and parts.code == 421:
            return self.refusal(Reply(421, (line,)))
        return super().interrupted(line)

    def own_name(self) -> str:
        """The name to say hello with: this host's if it has a domain, else its address as a literal (RFC 5321 4.1.4).

        No look-up is made: DNS has no business in the middle of a conversation.
        """
        import socket

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
        self.ask("QUIT", 221)


# Pure helpers.

GREETINGS = (
    ("* OK", "IMAP"),
    ("* PREAUTH", "IMAP"),
    ("* BYE", "IMAP"),
    ("+OK", "POP3"),
    ("-ERR", "POP3"),
    ('"IMPLEMENTATION"', "ManageSieve"),
    ("SSH-", "SSH"),
    ("HTTP/", "HTTP"),
    ("<!DOCTYPE", "HTTP"),
    ("\\x16\\x03", "TLS from the first byte"),
    ("\\x15\\x03", "TLS from the first byte"),
)


@dataclass(frozen=True)
class ReplyLine:
    """One line of a reply: its code, and whether it is the last."""

    code: int
    last: bool


def parse_reply_line(line: str) -> ReplyLine | None:
    """RFC 5321 4.2: a code, a hyphen when more lines follow, a text; None if it is none. Codes up to 599 are in use."""
    found = re.fullmatch(r"([2-5][0-9][0-9])(?:([ -]).*)?", line, re.DOTALL)
    return ReplyLine(int(found[1]), found[2] != "-") if found else None


def capabilities(reply: Reply) -> list[str]:
    """The extensions of an EHLO reply, a line each (RFC 5321 4.1.1.1)."""
    return [line[4:] for line in reply.lines[1:] if line[4:]]


def parameters(offered: list[str], keyword: str) -> list[str] | None:
    """The parameters of an extension, None when it is not offered. The old form `AUTH=LOGIN` counts, too."""
    found: list[str] | None = None
    for line in offered:
        first, *rest = line.replace("=", " ", 1).split(" ") if line.upper().startswith("AUTH=") else line.split(" ")
        if first.upper() == keyword:
            found = (found or []) + [word for word in rest if word]
    return found


def size_limit(offered: list[str]) -> int | None:
    """The fixed maximum message size in octets (RFC 1870 4); None when there is none."""
    values = parameters(offered, "SIZE") or []
    if not values or not re.fullmatch(r"[0-9]{1,20}", values[0]):
        return None
    return int(values[0]) or None


QUEUE_IDS = (
    r"queued as ([\w.-]+)",  # Postfix
    r"\bid=([\w.-]+)",  # Exim
    r"<[^>]*> \[InternalId=(\d+)",  # Exchange
    r"([\w.-]+) Message accepted",  # Sendmail, OpenSMTPD
    r"\bqp (\d+)",  # qmail
    r"^[\d.]* ?OK +(\d+ [\w.-]+)",  # Gmail
    r"<[^>]*> (\S+) Saved",  # Dovecot LMTP
)


def queue_id(text: str) -> str | None:
    """The queue id that the server named when it took a message; None when it named none we know."""
    found = next((match for form in QUEUE_IDS if (match := re.search(form, text, re.IGNORECASE))), None)
    return found[1] if found else None

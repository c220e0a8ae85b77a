"""SMTP (RFC 5321), submission (RFC 6409) and LMTP (RFC 2033): the conversation of a postmaster with telnet."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Callable, ClassVar

from . import smtp_promises
from .codes import Code, Severity, Stage
from .families import PromiseOptions
from .login import log_in
from .lookup import require_dnspython
from .mailaddress import bare, check_address, is_domain
from .options import UsageError, option, shown
from .report import Facts, Report, Unfinished
from .run import hold
from .smtp_dialect import Reply, Smtp, queue_id
from .text import printable

# RFC 5321 4.5.3.1.4 counts the CRLF into the 512 octets of a command line.
MAX_COMMAND = 510
# The part of a reply that a user's regular expression sees; a hostile reply must not feed its backtracking.
MAX_RESPONSE = 4096

LMTP_PORT = 24
# What the conversation itself says, and what would deliver, leak or derail when said in between.
RESERVED_COMMANDS = frozenset({"AUTH", "BDAT", "DATA", "EHLO", "HELO", "LHLO", "QUIT", "STARTTLS", "TURN", "ETRN"})


# Whether an expression is found in a text, in so many seconds; raises `socket.timeout` when they do not do.
Search = Callable[[str, str, float], bool]


@dataclass(frozen=True)
class SmtpOptions(PromiseOptions):
    """What can be asked of an SMTP or LMTP server."""

    PORTS: ClassVar[Mapping[str, int]] = {"none": 25, "starttls": 25, "implicit": 465}

    helo: str | None = option(
        "Name to say hello with; by default the name of this host if it has a domain, else its address in brackets.",
        default=None,
        metavar="NAME",
    )
    lmtp: bool = option("Speak LMTP: say LHLO, and judge the reply for each recipient.", default=False)
    command: tuple[str, ...] = option(
        "Extra command to say before the transaction. Its reply must match the {response} of the same place, or else be"
        " positive.",
        default=(),
        metavar="COMMAND",
    )
    response: tuple[str, ...] = option(
        "Regular expression that the reply to the {command} of the same place must match.",
        default=(),
        metavar="REGEX",
    )
    mail_from: str | None = option(
        "Sender to say in MAIL FROM; <> is the null sender, and the default when there is a {rcpt_to}.",
        default=None,
        metavar="ADDRESS",
    )
    rcpt_to: tuple[str, ...] = option(
        "Recipient to say in RCPT TO. Nothing is delivered without {send}.",
        default=(),
        metavar="ADDRESS",
    )
    send: bool = option(
        "Deliver a test message to all of {rcpt_to} that the server accepts.", default=False, effect=True
    )
    refuse_rcpt: tuple[str, ...] = option(
        "Recipient that must be refused before a login, since nobody here is meant to relay for it.",
        default=(),
        metavar="ADDRESS",
    )
    refuse_bare_newline: bool = option(
        "Line ends without CR or LF, with which mail is smuggled in, must not end a message. Needs {send}: each of them"
        " is tried with a test message of its own to the first of {rcpt_to}.",
        default=False,
        effect=True,
    )
    require_name_agreement: bool = option(
        "The greeting must tell the name that reverse DNS (PTR) gives the address, and that name must lead back to the"
        " address; needs dnspython.",
        default=False,
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
        if self.helo is not None and not is_domain(self.helo):
            raise UsageError("helo", f"{shown(self.helo)} is no host name or address in brackets")
        self._check_commands()
        if self.mail_from is not None and self.mail_from not in ("", "<>"):
            check_address("mail_from", self.mail_from, "")
        for place, address in enumerate(self.rcpt_to, start=1):
            check_address("rcpt_to", address, f"value {place}: " if len(self.rcpt_to) > 1 else "")
        for place, address in enumerate(self.refuse_rcpt, start=1):
            check_address("refuse_rcpt", address, f"value {place}: " if len(self.refuse_rcpt) > 1 else "")
            if bare(address) in map(bare, self.rcpt_to):
                raise UsageError("refuse_rcpt", f"{shown(address)} is among {{rcpt_to}}, too")
        if self.send and not self.rcpt_to:
            raise UsageError("send", "needs a recipient: give {rcpt_to}")
        if self.refuse_bare_newline and not self.send:
            raise UsageError("refuse_bare_newline", "needs {send}, since a server may deliver what it must not end")
        if self.refuse_bare_newline and self.expect_login_refused:
            raise UsageError("refuse_bare_newline", "contradicts {expect_login_refused}, behind which nothing is done")
        if self.require_name_agreement and self.is_socket:
            raise UsageError("require_name_agreement", "goes with a host, and {host} is the path of a Unix socket")

    def prepare(self) -> None:
        """Also: see whether dnspython is there when it is needed."""
        super().prepare()
        if self.require_name_agreement:
            require_dnspython("require_name_agreement")

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
                    "response", f"value {place}: {shown(pattern)} is no regular expression: {error}"
                ) from None

    @cached_property
    def search(self) -> Search:
        """How the {response} to a command is looked for."""
        return _search

    def search_by(self, search: Search) -> None:
        """Search in another way. On a thread, the usual one holds up all others, and no alarm ends it."""
        vars(self)["search"] = search

    @property
    def protocol(self) -> str:
        """`smtp` or `lmtp`."""
        return "lmtp" if self.lmtp else "smtp"

    @property
    def usual_port(self) -> int:
        """587 when logging in with STARTTLS (RFC 6409), 24 for LMTP."""
        if self.lmtp:
            return LMTP_PORT
        return 587 if self.tls == "starttls" and self.username is not None else self.PORTS[self.tls]


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

    def __str__(self) -> str:
        return f"{self.address}: {self.code} {self.text}"


@dataclass
class Command:
    """What the server said to an extra command; `accepted` when that was what the response asked for."""

    command: str
    accepted: bool
    code: int
    enhanced: str | None
    text: str

    def __str__(self) -> str:
        return f"{self.command}: {self.code} {self.text}"


@dataclass
class SmtpFacts(Facts):
    """What the server told. `size_limit` are octets (RFC 1870)."""

    greeting_code: int | None = None
    size_limit: int | None = None
    commands: list[Command] = field(default_factory=list)
    recipients: list[Recipient] = field(default_factory=list)
    message_id: str | None = None
    deliveries: list[Recipient] = field(default_factory=list)
    queue_id: str | None = None


def probe(options: SmtpOptions) -> Report[SmtpFacts]:
    """Talk to an SMTP or LMTP server and report what it said. Raises `UsageError` before anything is connected."""
    return hold(Smtp, options, SmtpFacts(), _talk, smtp_promises.of_smtp, smtp_promises.judge_names)


def _talk(smtp: Smtp, options: SmtpOptions, facts: SmtpFacts) -> None:
    smtp.begin()
    if options.refuse_rcpt:
        _try_to_relay(smtp, options)
    if options.username is not None and (smtp.inspecting or not log_in(smtp, facts)):
        return  # Without a good certificate no login, and nothing of what would come after it.
    for place, command in enumerate(options.command):
        with smtp.stage(Stage.COMMAND):
            pattern = options.response[place] if place < len(options.response) else None
            _say_command(smtp, options, command, pattern, facts)
    if options.mail_from is not None or options.rcpt_to:
        _transact(smtp, options, facts)


def _try_to_relay(smtp: Smtp, options: SmtpOptions) -> None:
    """Name recipients that must be refused to whoever has not logged in."""
    with smtp.stage(Stage.MAIL):
        reply = smtp.ask(f"MAIL FROM:<{bare(options.mail_from or '')}>")
        if reply.code != 250:
            if reply.code < 500:
                raise smtp.refusal(reply)
            smtp.note(f"as wanted: {reply}")
            return
    for address in map(bare, options.refuse_rcpt):
        with smtp.stage(Stage.RCPT):
            reply = smtp.ask(f"RCPT TO:<{address}>")
            if 200 <= reply.code < 300:
                smtp.problem(Code.RELAY_NOT_REFUSED, f"mail for {address} is accepted: {smtp.quoted(str(reply))}")
            elif reply.code < 500:
                smtp.refuse(reply)  # for now is no answer
    with smtp.stage(Stage.RESET):
        smtp.ask("RSET", 250)


def _search(pattern: str, text: str, dummy: float) -> bool:
    return re.search(pattern, text) is not None


def _say_command(smtp: Smtp, options: SmtpOptions, command: str, pattern: str | None, facts: SmtpFacts) -> None:
    reply = smtp.ask(command)
    heard = "\n".join(reply.lines)[:MAX_RESPONSE]
    good = 200 <= reply.code < 300 if pattern is None else options.search(pattern, heard, smtp.seconds_left())
    facts.commands.append(Command(command, good, reply.code, reply.enhanced, reply.text))
    if good and smtp.our_turn:
        return
    if good or reply.code == 421:
        raise smtp.refusal(reply)  # there is no going on, wanted or not
    wanted = "a positive reply" if pattern is None else f"'{pattern}'"
    words = f"{command} was not answered by {wanted}: {smtp.quoted(str(reply))}"
    severity = Severity.TEMPORARY if pattern is None and 400 <= reply.code < 500 else Severity.FAILURE
    if not smtp.our_turn:
        raise Unfinished(Code.COMMAND_UNEXPECTED_REPLY, words, severity)
    smtp.problem(Code.COMMAND_UNEXPECTED_REPLY, words, severity)


def _transact(smtp: Smtp, options: SmtpOptions, facts: SmtpFacts) -> None:
    sender = bare(options.mail_from or "")
    with smtp.stage(Stage.MAIL):
        smtp.ask(f"MAIL FROM:<{sender}>", 250)
    for address in map(bare, options.rcpt_to):
        with smtp.stage(Stage.RCPT):
            reply = smtp.ask(f"RCPT TO:<{address}>")
            facts.recipients.append(_answer(address, reply, 250, 251))
            if not facts.recipients[-1].accepted:
                smtp.refuse(reply)
    accepted = [recipient.address for recipient in facts.recipients if recipient.accepted]
    if options.send and accepted and not smtp.inspecting:
        with smtp.stage(Stage.DATA):
            _deliver(smtp, options, accepted, facts)
    else:
        with smtp.stage(Stage.RESET):
            smtp.ask("RSET", 250)


def _answer(address: str, reply: Reply, *codes: int) -> Recipient:
    return Recipient(address, reply.code in codes, reply.code, reply.enhanced, reply.text)


def _deliver(smtp: Smtp, options: SmtpOptions, accepted: list[str], facts: SmtpFacts) -> None:
    from .message import compose, on_the_wire

    message = compose(bare(options.mail_from or ""), accepted, smtp.hello, options.subject, options.body)
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

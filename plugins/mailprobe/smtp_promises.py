"""What an SMTP server must refuse beside what all servers must, and whether its names agree."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from functools import partial
from typing import TYPE_CHECKING, Any

from .codes import Code, Stage
from .login import log_in
from .lookup import Resolver, addresses, names
from .mailaddress import bare
from .promises import UNPAIRED, Promise
from .report import Report, Unfinished

if TYPE_CHECKING:
    from .network import Deadline
    from .smtp import SmtpOptions
    from .smtp_dialect import Smtp

# What some servers took for the end of a message (https://www.postfix.org/smtp-smuggling.html). <CRLF>.<LF> and its kin
# are not here: a sending server doubles the dot of such a line, so they prove nothing.
SMUGGLED_ENDS = {
    "<LF>.<LF>": "\n.\n",
    "<LF>.<CRLF>": "\n.\r\n",
    "<LF>.<CR><CR><LF>": "\n.\r\r\n",
    "<CR>.<CR>": "\r.\r",
    "<CR>.<CRLF>": "\r.\r\n",
}
# As many names or addresses are told; a hostile zone has more, and long ones.
MAX_TOLD = 5
# With less time than this there is no use in asking a name server, and no saying that it did not answer.
MIN_SECONDS = 0.1
# What comes behind, which is no command; were the message over, the server would answer it.
_REST = "This line is part of the message."


def of_smtp(options: SmtpOptions) -> Iterator[Promise]:
    """The promises of SMTP that need a connection."""
    if not options.refuse_bare_newline:
        return
    for name in SMUGGLED_ENDS:
        yield Promise(
            Code.BARE_NEWLINE_NOT_REFUSED,
            f"to see whether {name} ends a message",
            Stage.DATA,
            partial(_smuggle, name),
            frozenset({Code.MESSAGE_REFUSED, Code.CONNECTION_CLOSED, Code.CONNECTION_RESET}),
            None if options.tls == "none" else options.contexts.client(options),
            needs_login=options.username is not None,
        )


def _smuggle(name: str, smtp: Smtp, broken: list[str]) -> None:
    """Send a message with a wrong end in its middle. There is one reply to it, or it was one message too many.

    Nothing that could be a command is ever behind the wrong end.
    """
    from .message import compose, on_the_wire

    options = smtp.options
    sender, recipient = bare(options.mail_from or ""), bare(options.rcpt_to[0])
    smtp.begin()
    if options.username is not None:
        log_in(smtp, smtp.report.facts)
    with smtp.stage(Stage.MAIL):
        smtp.ask(f"MAIL FROM:<{sender}>", 250)
    with smtp.stage(Stage.RCPT):
        smtp.ask(f"RCPT TO:<{recipient}>", 250, 251)
    with smtp.stage(Stage.DATA):
        smtp.ask("DATA", 354)
        message = compose(sender, [recipient], smtp.hello, f"{options.subject}: {name}", options.body)
        smtp.send_message(on_the_wire(message) + f"Behind this line is {name}{SMUGGLED_ENDS[name]}{_REST}\r\n".encode())
        smtp.awaited = "the reply to the message"
        reply = smtp.reply()
        if reply.code == 421 or not 200 <= reply.code < 300:
            raise smtp.refusal(reply)
    with smtp.stage(Stage.RESET):
        try:
            smtp.ask("RSET", 250)
        except Unfinished as unfinished:
            if unfinished.code not in UNPAIRED:
                raise  # It has hung up, or has no time any more: nobody knows what it took the message for.
            broken.append(f"{name} ends a message: the line behind it was taken for a command ({unfinished.words})")
            smtp.our_turn = False


def judge_names(options: SmtpOptions, report: Report[Any], deadline: Deadline) -> None:
    """See whether greeting, reverse and forward DNS tell the same name (RFC 1912 2.1, RFC 5321 4.3.1)."""
    if not options.require_name_agreement or report.address is None:
        return
    told = (report.facts.banner or "").partition(" ")[0].rstrip(".").lower()
    try:
        if deadline.left() < MIN_SECONDS:
            raise socket.timeout("no time left")
        resolver = Resolver(options.nameserver, deadline)
        pointers = [name.lower() for name in names(report.address, resolver)]
        words = _disagreement(told, pointers, report.address, resolver)
    except Unfinished as unfinished:
        report.find(unfinished.code, Stage.GREETING, f"to see whether the names agree: {unfinished.words}")
    except OSError:
        report.find(Code.TIMEOUT, Stage.GREETING, "there was no time left to see whether the names agree")
    else:
        if words:
            report.find(Code.NAME_DISAGREEMENT, Stage.GREETING, words)


def _disagreement(told: str, pointers: list[str], address: str, resolver: Resolver) -> str | None:
    if not pointers:
        return f"reverse DNS has no name for {address}, and the greeting tells '{told}'"
    if told not in pointers:
        return f"the greeting tells '{told}', and reverse DNS of {address} '{', '.join(pointers[:MAX_TOLD])}'"
    try:
        found = addresses(told, "any", resolver)
    except Unfinished as unfinished:
        if unfinished.code not in (Code.NAME_UNKNOWN, Code.NO_ADDRESS):
            raise
        return f"greeting and reverse DNS of {address} tell '{told}', which has no address"
    if address.partition("%")[0] not in found:
        return (
            f"greeting and reverse DNS of {address} tell '{told}', which has the address {', '.join(found[:MAX_TOLD])}"
        )
    return None

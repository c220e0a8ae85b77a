"""Everything of the demo's mail host that speaks POP3."""
# Twisted ships as typed, but most of twisted.mail has no annotations:
# mypy: allow-untyped-calls

from __future__ import annotations

from functools import partial
from io import BytesIO
from typing import TYPE_CHECKING, Any

from twisted.internet.protocol import Factory
from twisted.mail import pop3
from twisted.mail.interfaces import IMailboxPOP3
from twisted.protocols.tls import TLSMemoryBIOFactory

from . import DOMAIN
from ._shared import portal

if TYPE_CHECKING:
    from twisted.cred.portal import Portal

    from .mailbox import Mail

BEFORE_TLS = b"CAPA", b"STLS", b"QUIT"


class Maildrop(pop3.Mailbox):
    """The mails as Twisted's server wants to see them, which calls `sync` and `undeleteMessages` in vain."""

    def __init__(self, mails: tuple[Mail, ...]) -> None:
        self.mails = mails

    def mail(self, i: int) -> Mail:
        if i >= len(self.mails):
            raise ValueError(i)
        return self.mails[i]

    def listMessages(self, i: int | None = None) -> Any:
        return [len(mail.raw) for mail in self.mails] if i is None else len(self.mail(i).raw)

    def getMessage(self, i: int) -> Any:
        return BytesIO(self.mail(i).raw.replace(b"\r\n", b"\n"))  # Twisted puts the CR back

    def getUidl(self, i: int) -> bytes:
        return b"%d" % self.mail(i).uid


class Server(pop3.POP3):
    """Twisted's POP3 with STLS, which Twisted has not, and with TLS before login.

    `tls` is the context for STLS; there is none on a connection that has TLS already.
    """

    # The greeting. Twisted's own is an APOP challenge with this machine's name, and no answer to it would be right:
    # it compares text with bytes.
    magic = DOMAIN + b" POP3 mailprobe demo"
    transport: Any

    def __init__(self, users: Portal, tls: Any = None) -> None:
        self.portal: Any = users
        self.tls = tls
        self.AUTH_CMDS = [*self.AUTH_CMDS, b"STLS"]  # commands before login

    def listCapabilities(self) -> list[bytes]:
        return [b"TOP", b"UIDL", b"RESP-CODES", b"PIPELINING", b"STLS" if self.tls else b"USER"]

    def processCommand(self, command: bytes, *args: bytes) -> Any:
        if self.tls and command.upper() not in BEFORE_TLS:
            return self.failResponse(b"Must issue a STLS command first")
        return super().processCommand(command, *args)

    def do_STLS(self) -> None:
        if self.tls:
            self.successResponse(b"Begin TLS negotiation now")
            self.transport.startTLS(self.tls)
            self.tls = None
        else:
            self.failResponse(b"Command not permitted when TLS is active")  # RFC 2595 section 4

    def do_DELE(self, i: bytes) -> None:
        self.failResponse(b"[SYS/PERM] This mailbox is read-only")  # RFC 3206 section 4


class Locked(Server):
    """Knows the user, but another session has the mailbox."""

    def _cbMailbox(self, result: object, user: bytes) -> None:
        self.failResponse(b"[IN-USE] Do you have another POP session running?")  # RFC 2449 section 8.1.2


def services(password: str, good: Any, mails: tuple[Mail, ...]) -> dict[str, Any]:
    """Service name to Twisted factory; `good` is the context of a certificate."""
    users = portal(password, IMailboxPOP3, partial(Maildrop, mails))
    pop3s: Any = Factory.forProtocol(partial(Server, users))
    return {
        "pop3": Factory.forProtocol(partial(Server, users, good)),
        "pop3s": TLSMemoryBIOFactory(good, False, pop3s),
        "pop3_locked": Factory.forProtocol(partial(Locked, users, good)),
    }

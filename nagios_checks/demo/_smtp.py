"""Everything of the demo's mail host that speaks, or ought to speak, SMTP."""
# Twisted ships as typed, but most of twisted.mail has no annotations:
# mypy: allow-untyped-calls

from __future__ import annotations

import re
import secrets
from functools import partial
from typing import TYPE_CHECKING, Any

from twisted.internet.defer import Deferred, succeed
from twisted.internet.protocol import Factory, Protocol
from twisted.mail import smtp
from twisted.mail.interfaces import IMessageDelivery
from twisted.protocols.tls import TLSMemoryBIOFactory

from . import DOMAIN
from ._shared import MECHANISMS, TurnAway, portal

if TYPE_CHECKING:
    from collections.abc import Callable

    from twisted.cred.portal import Portal

SIZE_LIMIT = 10 * 1024 * 1024  # Postfix's default message_size_limit is 10,240,000; a round one looks set on purpose


class Message:
    """One mail for one recipient, who throws it away."""

    def lineReceived(self, line: bytes) -> None:
        """Not kept."""

    def eomReceived(self) -> Deferred[bytes]:
        return succeed(secrets.token_hex(5).upper().encode())  # the queue id

    def connectionLost(self) -> None:
        """The client went away before the end of its mail: nothing to clean up."""


class FromAnyone:
    """What a stranger may do: write to the postmaster."""

    def validateFrom(self, helo: object, origin: smtp.Address) -> smtp.Address:
        return origin

    def validateTo(self, user: smtp.User) -> Callable[[], Message]:
        if user.dest.domain.lower() != DOMAIN:
            raise smtp.SMTPBadRcpt(user, 554, f"5.7.1 <{user}>: Relay access denied")
        if user.dest.local.lower() != b"postmaster":
            raise smtp.SMTPBadRcpt(user, 550, f"5.1.1 <{user}>: Recipient address rejected: User unknown")
        return Message

    def receivedHeader(self, helo: object, origin: object, recipients: object) -> bytes:
        date: bytes = smtp.rfc822date()
        return b"Received: by " + DOMAIN + b"; " + date


class FromNobody(FromAnyone):
    """What one may do at submission before logging in."""

    def validateFrom(self, helo: object, origin: smtp.Address) -> smtp.Address:
        raise smtp.SMTPServerError(530, "5.7.0 Authentication required")  # RFC 4954 section 6


class FromUser(FromAnyone):
    """What one may do after logging in: write to everybody."""

    def validateTo(self, user: smtp.User) -> Callable[[], Message]:
        return Message


class Server(smtp.ESMTP):
    """Twisted's ESMTP, with the words of a real mail host where Twisted's own are too peculiar."""

    def __init__(self, tls: Any = None) -> None:
        super().__init__(contextFactory=tls)
        self.host = DOMAIN
        self.delivery = FromAnyone()

    def greeting(self) -> bytes:
        return DOMAIN + b" ESMTP mailprobe demo"

    def extensions(self) -> dict[bytes, list[bytes] | None]:
        return {b"SIZE": [b"%d" % SIZE_LIMIT], b"8BITMIME": None, **super().extensions()}

    def do_MAIL(self, rest: bytes) -> None:
        size = re.search(rb"\sSIZE=(\d+)", rest, re.IGNORECASE)
        if size and int(size.group(1)) > SIZE_LIMIT:
            self.sendCode(552, b"5.3.4 Message size exceeds fixed limit")  # RFC 1870 section 6.1
        else:
            super().do_MAIL(rest)

    def _messageHandled(self, resultList: list[tuple[bool, bytes]]) -> None:
        _, queue_id = resultList[0]
        self.sendCode(250, b"2.0.0 Ok: queued as " + queue_id)


class Submission(Server):
    """Requires login, and TLS before it: Twisted offers and takes AUTH only when there are `challengers`."""

    def __init__(self, users: Portal, tls: Any = None) -> None:
        super().__init__(tls)
        self.portal: Any = users
        self.delivery = FromNobody()

    def ext_STARTTLS(self, rest: bytes) -> None:
        super().ext_STARTTLS(rest)
        if self.startedTLS:
            self.challengers = MECHANISMS


class Submissions(Submission):
    """Submission on a connection that has TLS from the start."""

    startedTLS = True

    def __init__(self, users: Portal) -> None:
        super().__init__(users)
        self.challengers = MECHANISMS


def services(password: str, good: Any, expired: Any) -> dict[str, Any]:
    """Service name to Twisted factory; `good` and `expired` are the contexts of two certificates."""
    users = portal(password, IMessageDelivery, FromUser)
    submissions: Any = Factory.forProtocol(partial(Submissions, users))
    busy = b"421 4.3.2 " + DOMAIN + b" All server ports are busy, try again later"
    return {
        "smtp": Factory.forProtocol(partial(Server, good)),
        "submission": Factory.forProtocol(partial(Submission, users, good)),
        "submissions": TLSMemoryBIOFactory(good, False, submissions),
        "expired": Factory.forProtocol(partial(Server, expired)),
        "no_starttls": Factory.forProtocol(Server),
        "busy": Factory.forProtocol(partial(TurnAway, busy)),
        "silent": Factory.forProtocol(Protocol),  # accepts, and that is all
    }

"""A mail host on loopback for the first five minutes: good services, and beside them the usual broken ones.

`DemoHost` needs the standard library only. Everything below it runs in a child process, because Twisted's reactor
starts once in a process and never again. The child writes one line of JSON, where it listens, to its standard output
and ends when its standard input closes: with the `with` block, or with a parent that did not live to leave it.
"""
# Twisted ships as typed, but most of twisted.mail has no annotations:
# mypy: allow-untyped-calls

from __future__ import annotations

import json
import re
import secrets
import socket
import subprocess
import sys
from datetime import datetime, timedelta, timezone
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, final

if TYPE_CHECKING:
    from collections.abc import Callable

    from trustme import CA

REQUIREMENTS = "twisted", "OpenSSL", "service_identity", "trustme"  # import names of the extra `demo`
STOP_SECONDS = 5  # it takes some 50 ms; longer only if someone forked and still holds the child's standard input

LOOPBACK = "127.0.0.1"
DOMAIN = b"demo.example"
USER = "demo"
SIZE_LIMIT = 10 * 1024 * 1024  # Postfix's default message_size_limit is 10,240,000; a round one looks set on purpose


class DemoError(Exception):
    """The demo mail host cannot start; the message says what to do about it."""


@final
class DemoHost:
    """The mail host while the `with` block lasts.

    `ports` has the port on 127.0.0.1 of each service: `smtp`, `submission` and `submissions` are well; `expired`,
    `no_starttls`, `busy`, `silent` and `closed` are each ill in the way their name says. `ca_file` is the PEM file of
    the authority behind the certificates, which are for `localhost`. `USER` logs in to submission with `password`.

    Raises `DemoError`.
    """

    ca_file: Path
    password: str
    ports: dict[str, int]

    def __enter__(self) -> DemoHost:
        if any(find_spec(name) is None for name in REQUIREMENTS):
            raise DemoError("the demo mail host needs Twisted and trustme: pip install 'mailprobe[demo]'")
        self._child = subprocess.Popen(
            [sys.executable, "-m", "nagios_checks.demo.host"],
            cwd=Path(__file__).resolve().parents[2],  # so that -m finds this very package, installed or not
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            start_new_session=True,  # Ctrl-C is for the parent, which then leaves the `with` block
        )
        try:
            started = self._child.stdout.readline() if self._child.stdout else b""
            if not started:
                raise DemoError("the demo mail host did not start; its own words are on standard error")
        except BaseException:
            self.__exit__()
            raise
        facts = json.loads(started)
        self.ca_file, self.password, self.ports = Path(facts["ca_file"]), facts["password"], facts["ports"]
        return self

    def __exit__(self, *exc_info: object) -> None:
        try:
            self._child.communicate(timeout=STOP_SECONDS)  # closes its standard input and waits for the end
        except subprocess.TimeoutExpired:
            self._child.terminate()
            self._child.communicate()


# What follows runs in the child.


def main() -> None:
    """Serve until standard input closes."""
    from trustme import CA
    from twisted.internet import task

    authority = CA()
    with authority.cert_pem.tempfile() as ca_file:  # gone with us, on SIGTERM and SIGINT too: the reactor handles them
        task.react(serve, (authority, ca_file))


async def serve(reactor: Any, authority: CA, ca_file: str) -> None:
    """Open all services, say where they are, and wait for standard input to close."""
    from twisted.internet.defer import Deferred
    from twisted.internet.protocol import Protocol
    from twisted.internet.stdio import StandardIO

    parent_gone: Deferred[None] = Deferred()

    class Parent(Protocol):
        """The process at the other end of standard input and output."""

        transport: Any

        def connectionMade(self) -> None:
            started = json.dumps({"ca_file": ca_file, "password": password, "ports": ports})
            self.transport.write(started.encode() + b"\n")

        def connectionLost(self, reason: object = None) -> None:
            parent_gone.callback(None)

    password = secrets.token_hex(8)
    services = smtp_services(authority, password)
    ports = {
        name: reactor.listenTCP(0, factory, interface=LOOPBACK).getHost().port for name, factory in services.items()
    }
    with socket.socket() as closed:
        closed.bind((LOOPBACK, 0))  # nobody else gets the port, and without listen() connections are refused
        ports["closed"] = closed.getsockname()[1]
        StandardIO(Parent(), reactor=reactor)
        await parent_gone


def tls_context(authority: CA, days_left: int) -> Any:
    """A context with a 90-day certificate for `localhost` that ends in `days_left` days, or ended so long ago."""
    from twisted.internet.ssl import PrivateCertificate

    end = datetime.now(timezone.utc) + timedelta(days=days_left)
    begin = end - timedelta(days=90)
    leaf = authority.issue_cert("localhost", common_name="localhost", not_before=begin, not_after=end)
    return PrivateCertificate.loadPEM(leaf.private_key_and_cert_chain_pem.bytes()).options()


def smtp_services(authority: CA, password: str) -> dict[str, Any]:
    """Everything that speaks, or ought to speak, SMTP: service name to Twisted factory."""
    from twisted.cred.checkers import InMemoryUsernamePasswordDatabaseDontUse
    from twisted.cred.credentials import CramMD5Credentials
    from twisted.cred.portal import Portal
    from twisted.internet.defer import Deferred, succeed
    from twisted.internet.protocol import Factory, Protocol
    from twisted.mail import imap4, smtp
    from twisted.mail.interfaces import IMessageDelivery
    from twisted.protocols.tls import TLSMemoryBIOFactory

    mailbox: list[bytes] = []

    class Message:
        """One mail for one recipient, on its way into the mailbox."""

        def __init__(self) -> None:
            self.lines: list[bytes] = []

        def lineReceived(self, line: bytes) -> None:
            self.lines.append(line)

        def eomReceived(self) -> Deferred[bytes]:
            mailbox.append(b"\n".join(self.lines))
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

    class Realm:
        """What Twisted's portal gives to who has logged in."""

        def requestAvatar(self, user: object, mind: object, *interfaces: object) -> tuple[Any, Any, Callable[[], None]]:
            return IMessageDelivery, FromUser(), lambda: None

    realm: Any = Realm()  # Any: only with a plugin does mypy know that a class implements a zope interface
    users: Any = InMemoryUsernamePasswordDatabaseDontUse(**{USER: password.encode()})
    mechanisms = {
        b"PLAIN": imap4.PLAINCredentials,
        b"LOGIN": smtp.LOGINCredentials,
        b"CRAM-MD5": partial(CramMD5Credentials, DOMAIN),
    }

    class Submission(Server):
        """Requires login, and TLS before it: Twisted offers and takes AUTH only when there are `challengers`."""

        portal: Any = Portal(realm, [users])

        def __init__(self, tls: Any = None) -> None:
            super().__init__(tls)
            self.delivery = FromNobody()

        def ext_STARTTLS(self, rest: bytes) -> None:
            super().ext_STARTTLS(rest)
            if self.startedTLS:
                self.challengers = mechanisms

    class Submissions(Submission):
        """Submission on a connection that has TLS from the start."""

        startedTLS = True

        def __init__(self) -> None:
            super().__init__()
            self.challengers = mechanisms

    class Busy(Protocol):
        """Turns everybody away."""

        transport: Any

        def connectionMade(self) -> None:
            self.transport.write(b"421 4.3.2 " + DOMAIN + b" All server ports are busy, try again later\r\n")
            self.transport.loseConnection()

    submissions: Any = Factory.forProtocol(Submissions)
    good, expired = tls_context(authority, days_left=60), tls_context(authority, days_left=-3)
    return {
        "smtp": Factory.forProtocol(partial(Server, good)),
        "submission": Factory.forProtocol(partial(Submission, good)),
        "submissions": TLSMemoryBIOFactory(good, False, submissions),
        "expired": Factory.forProtocol(partial(Server, expired)),
        "no_starttls": Factory.forProtocol(Server),
        "busy": Factory.forProtocol(Busy),
        "silent": Factory.forProtocol(Protocol),  # accepts, and that is all
    }


if __name__ == "__main__":
    main()

"""A mail host on loopback for the first five minutes: good services, and beside them the usual broken ones.

`DemoHost` needs the standard library only. Everything below it runs in a child process, because Twisted's reactor
starts once in a process and never again. The child writes one line of JSON, where it listens, to its standard output
and ends when its standard input closes: with the `with` block, or with a parent that did not live to leave it.
"""
# Twisted ships as typed, but much of it has no annotations:
# mypy: allow-untyped-calls

from __future__ import annotations

import json
import secrets
import socket
import subprocess
import sys
from datetime import datetime, timedelta, timezone
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, final

if TYPE_CHECKING:
    from trustme import CA

REQUIREMENTS = "twisted", "OpenSSL", "service_identity", "trustme"  # import names of the extra `demo`
STOP_SECONDS = 5  # it takes some 50 ms; longer only if someone forked and still holds the child's standard input

LOOPBACK = "127.0.0.1"


class DemoError(Exception):
    """The demo mail host cannot start; the message says what to do about it."""


@final
class DemoHost:
    """The mail host while the `with` block lasts.

    `ports` has the port on 127.0.0.1 of each service. `smtp`, `submission`, `submissions`, `pop3`, `pop3s`, `imap` and
    `imaps` are well. The SMTP servers `expired`, `no_starttls` and `busy`, and `pop3_locked`, `imap_bye`,
    `imaps_expired`, `silent` and `closed` are each ill in the way their name says. `ca_file` is the PEM file of the
    authority behind the certificates, which are for `localhost`. `USER` logs in with `password`, and only over TLS.
    The mail that POP3 and IMAP show stays as it is, whatever a client does.

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

    from . import _imap, _pop3, _smtp  # all three import Twisted, which is why they are not at the top
    from .mailbox import folders

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
    good, expired = tls_context(authority, days_left=60), tls_context(authority, days_left=-3)
    mails = folders(datetime.now(timezone.utc))
    services = {
        **_smtp.services(password, good, expired),
        **_pop3.services(password, good, mails["INBOX"]),
        **_imap.services(password, good, expired, mails),
    }
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


if __name__ == "__main__":
    main()

"""What the demo's servers share: who may log in and how, and the server that turns everybody away."""
# Twisted ships as typed, but most of it has no annotations:
# mypy: allow-untyped-calls

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

from twisted.cred.checkers import InMemoryUsernamePasswordDatabaseDontUse
from twisted.cred.credentials import CramMD5Credentials
from twisted.cred.portal import Portal
from twisted.internet.protocol import Protocol
from twisted.mail import imap4, smtp

from . import DOMAIN, USER

if TYPE_CHECKING:
    from collections.abc import Callable

MECHANISMS = {
    b"PLAIN": imap4.PLAINCredentials,
    b"LOGIN": smtp.LOGINCredentials,
    b"CRAM-MD5": partial(CramMD5Credentials, DOMAIN),
}


class Realm:
    """What Twisted's portal gives to who has logged in: for each login an avatar of its own."""

    def __init__(self, interface: object, avatar: Callable[[], object]) -> None:
        self.interface, self.avatar = interface, avatar

    def requestAvatar(self, user: object, mind: object, *interfaces: object) -> tuple[Any, Any, Callable[[], None]]:
        return self.interface, self.avatar(), lambda: None


def portal(password: str, interface: object, avatar: Callable[[], object]) -> Portal:
    """Let `USER` in with `password`, and give them an `avatar`, which is what Twisted's server calls an `interface`."""
    realm: Any = Realm(interface, avatar)  # Any: only with a plugin does mypy know that a class implements an interface
    users: Any = InMemoryUsernamePasswordDatabaseDontUse(**{USER: password.encode()})
    return Portal(realm, [users])


class TurnAway(Protocol):
    """Says one line to everybody, and closes."""

    transport: Any

    def __init__(self, line: bytes) -> None:
        self.line = line

    def connectionMade(self) -> None:
        self.transport.write(self.line + b"\r\n")
        self.transport.loseConnection()

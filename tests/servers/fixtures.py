"""The servers as fixtures, each started when the first test asks for it and stopped at the end of the session."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from . import AnyServer
from .certificates import CertificateAuthority
from .cyrus import Cyrus
from .dovecot import Dovecot
from .exim import Exim
from .nsd import NameServer
from .postfix import Postfix


def running(server: AnyServer) -> Iterator[AnyServer]:
    """Start a server for the rest of the session, or skip the tests of one that this machine does not have."""
    reason = server.missing()
    if reason:
        pytest.skip(reason)
    server.start()
    try:
        yield server
    finally:
        server.stop()


@pytest.fixture(scope="session")
def ca() -> Iterator[CertificateAuthority]:
    """The issuer of the servers' certificates; `ca.issue()` gives more of them."""
    authority = CertificateAuthority()
    yield authority
    authority.remove()


@pytest.fixture(scope="session")
def dovecot(ca: CertificateAuthority) -> Iterator[Dovecot]:
    """Dovecot on loopback."""
    yield from running(Dovecot(ca))


@pytest.fixture(scope="session")
def postfix(ca: CertificateAuthority, dovecot: Dovecot) -> Iterator[Postfix]:
    """Postfix on loopback."""
    yield from running(Postfix(ca, dovecot.auth_socket))


@pytest.fixture(scope="session")
def submission(ca: CertificateAuthority, exim: Exim) -> Iterator[Dovecot]:
    """A Dovecot that relays what is submitted to Exim."""
    yield from running(Dovecot(ca, exim.starttls))


@pytest.fixture(scope="session")
def exim(ca: CertificateAuthority) -> Iterator[Exim]:
    """Exim on loopback."""
    yield from running(Exim(ca))


@pytest.fixture(scope="session")
def cyrus(ca: CertificateAuthority) -> Iterator[Cyrus]:
    """Cyrus on loopback."""
    yield from running(Cyrus(ca))


@pytest.fixture(scope="session")
def name_server() -> Iterator[NameServer]:
    """NSD on loopback with the zones of nsd.ZONES."""
    yield from running(NameServer())

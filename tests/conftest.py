"""Fixtures for all tests; the real mail servers are in tests/servers."""

from __future__ import annotations

import ssl
from pathlib import Path

import pytest
import trustme

from .canary import CANARY
from .playing import Files

pytest_plugins = ["tests.servers.fixtures", "tests.collection", "tests.watching"]


@pytest.fixture(scope="session")
def localhost_tls(tmp_path_factory: pytest.TempPathFactory) -> tuple[ssl.SSLContext, Path]:
    """A server's context with a good certificate for localhost and 127.0.0.1, and the file of its authority."""
    authority = trustme.CA()
    ca_file = tmp_path_factory.mktemp("tls") / "ca.pem"
    authority.cert_pem.write_to_path(str(ca_file))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("localhost", "127.0.0.1", "::1").configure_cert(context)
    return context, ca_file


@pytest.fixture
def password_file(tmp_path: Path) -> Path:
    """A file with the canary password."""
    path = tmp_path / "password"
    path.write_text(CANARY + "\n", encoding="utf-8")
    return path


@pytest.fixture
def files(localhost_tls: tuple[ssl.SSLContext, Path], tmp_path: Path) -> Files:
    """The files that a script may need."""
    return Files.write(tmp_path, localhost_tls[1])

"""Certificates for the servers of the tests, good and bad ones."""

from __future__ import annotations

import shutil
from datetime import datetime, timedelta, timezone
from functools import cached_property
from pathlib import Path
from typing import NamedTuple, Optional

import trustme
from cryptography import x509
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from . import run_directory
from .issuing import KINDS, LIFETIME, Issued, Kind, issue

LOCAL_NAMES = ("localhost", "127.0.0.1", "::1")


class Certificate(NamedTuple):
    """The files of a certificate and its key; anybody can read them, since servers do so as many a user."""

    cert_path: Path
    key_path: Path


class CertificateAuthority:
    """Issues certificates; who trusts `pem_path` trusts all of them."""

    def __init__(self) -> None:
        self.directory = run_directory("certificates")
        self.pem_path = self.directory / "ca.pem"
        self._authority = trustme.CA()
        self._authority.cert_pem.write_to_path(str(self.pem_path))
        self.pem_path.chmod(0o644)

    def issue(
        self,
        *names: str,
        not_before: Optional[datetime] = None,
        not_after: Optional[datetime] = None,
        key_type: trustme.KeyType = trustme.KeyType.ECDSA,
        known_issuer: bool = True,
        common_name: Optional[str] = None,
    ) -> Certificate:
        """Issue a certificate for host names and addresses, by default for this host and for the next 90 days.

        known_issuer=False: by an authority that nobody has heard of. common_name: whose certificate it is, if a user's.
        """
        now = datetime.now(timezone.utc)
        issued = (self._authority if known_issuer else trustme.CA()).issue_cert(
            *(names or LOCAL_NAMES),
            not_before=not_before or now - timedelta(hours=1),
            not_after=not_after or now + LIFETIME,
            key_type=key_type,
            common_name=common_name,
        )
        chain = [pem.bytes() for pem in issued.cert_chain_pems]
        return self._store(chain, issued.private_key_pem.bytes())

    def make(self, kind: str, *names: str) -> Certificate:
        """Make a certificate of one of KINDS, by default for this host."""
        return self.make_special(KINDS[kind], *names)

    def make_special(self, kind: Kind, *names: str) -> Certificate:
        """Make a certificate such as there is none among KINDS, by default for this host."""
        issuer = {"known": self._root, "unknown": as_issuer(trustme.CA()), "self": None}[kind.issuer]
        intermediates: list[Issued] = []
        for number, ends in enumerate(kind.intermediates, start=1):
            authority = Kind(begins=min(-LIFETIME, ends - LIFETIME), ends=ends)
            issuer = issue(authority, (f"Intermediate authority {number}",), issuer, authority=True)
            intermediates.append(issuer)
        leaf = issue(kind, names or LOCAL_NAMES, issuer)
        return self._store([leaf.pem, *(intermediates[index].pem for index in kind.sends)], leaf.key_pem)

    def issue_expired(self) -> Certificate:
        """Issue a certificate for this host that expired yesterday."""
        return self.make("expired")

    def self_signed(self) -> Certificate:
        """Make a certificate for this host that nobody issued."""
        return self.make("selfsigned")

    def remove(self) -> None:
        """Remove all files."""
        shutil.rmtree(self.directory, ignore_errors=True)

    @cached_property
    def _root(self) -> Issued:
        return as_issuer(self._authority)

    def _store(self, chain: list[bytes], key: bytes) -> Certificate:
        number = len(list(self.directory.glob("*.cert"))) + 1
        certificate = Certificate(self.directory / f"{number}.cert", self.directory / f"{number}.key")
        certificate.cert_path.write_bytes(b"".join(chain))
        certificate.key_path.write_bytes(key)
        for path in certificate:
            path.chmod(0o644)
        return certificate


def as_issuer(authority: trustme.CA) -> Issued:
    """Hand an authority of trustme's over to `issuing.issue()`."""
    certificate = x509.load_pem_x509_certificate(authority.cert_pem.bytes())
    key = load_pem_private_key(authority.private_key_pem.bytes(), password=None)
    return Issued(certificate, key)

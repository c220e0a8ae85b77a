"""Certificates for the servers of the tests, good and bad ones."""

from __future__ import annotations

import shutil
import subprocess
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import NamedTuple, Optional

import trustme

from . import run_directory

LOCAL_NAMES = ("localhost", "127.0.0.1", "::1")
LIFETIME = timedelta(days=90)

SELF_SIGN = (
    f"openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days {LIFETIME.days}"
    " -subj /CN=localhost -addext subjectAltName=DNS:localhost,IP:127.0.0.1,IP:::1"
)


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
        certificate = self._new_paths()
        for pem in issued.cert_chain_pems:
            pem.write_to_path(str(certificate.cert_path), append=True)
        issued.private_key_pem.write_to_path(str(certificate.key_path))
        return self._readable(certificate)

    def issue_expired(self) -> Certificate:
        """Issue a certificate for this host that expired yesterday."""
        yesterday = datetime.now(timezone.utc) - timedelta(days=1)
        return self.issue(not_before=yesterday - LIFETIME, not_after=yesterday)

    def self_signed(self) -> Certificate:
        """Make a certificate for this host that nobody issued; trustme has none, so it is a matter for openssl."""
        certificate = self._new_paths()
        subprocess.run(
            [*SELF_SIGN.split(), "-out", str(certificate.cert_path), "-keyout", str(certificate.key_path)],
            check=True,
            capture_output=True,
        )
        return self._readable(certificate)

    def remove(self) -> None:
        """Remove all files."""
        shutil.rmtree(self.directory, ignore_errors=True)

    def _new_paths(self) -> Certificate:
        number = len(list(self.directory.glob("*.cert"))) + 1
        return Certificate(self.directory / f"{number}.cert", self.directory / f"{number}.key")

    @staticmethod
    def _readable(certificate: Certificate) -> Certificate:
        for path in certificate:
            path.chmod(0o644)
        return certificate

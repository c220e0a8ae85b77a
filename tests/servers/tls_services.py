"""What TLS a server of the tests can have: a service for each kind of certificate and for each version."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from typing import NamedTuple

from . import Server
from .certificates import Certificate, CertificateAuthority
from .issuing import KINDS

# Everything that the local OpenSSL has ever known, however weak.
ANY_CIPHER = "ALL:@SECLEVEL=0"

VERSIONS = ("TLSv1", "TLSv1.1", "TLSv1.2", "TLSv1.3")


class TlsService(NamedTuple):
    """The certificates of a service and the versions that it speaks."""

    kinds: tuple[str, ...] = ("ec",)
    oldest: str = VERSIONS[0]
    newest: str = VERSIONS[-1]

    def certificates(self, ca: CertificateAuthority, *names: str) -> Iterator[Certificate]:
        """Make the certificates, by default for this host."""
        return (ca.make(kind, *names) for kind in self.kinds)


# For each certificate: the service has the name of its kind.
TLS_CERTIFICATES = {
    **{kind: TlsService((kind,)) for kind in KINDS},
    "rsa_and_ec": TlsService(("rsa2048", "ec")),
}
# That version and later ones.
TLS_FROM = {
    "from_tls1": TlsService(oldest="TLSv1"),
    "from_tls1_2": TlsService(oldest="TLSv1.2"),
    "from_tls1_3": TlsService(oldest="TLSv1.3"),
}
# That version and nothing else.
TLS_ONLY = {
    "tls1": TlsService(oldest="TLSv1", newest="TLSv1"),
    "tls1_1": TlsService(oldest="TLSv1.1", newest="TLSv1.1"),
    "tls1_2": TlsService(oldest="TLSv1.2", newest="TLSv1.2"),
    "tls1_3": TlsService(oldest="TLSv1.3", newest="TLSv1.3"),
}


class OpensslServer(Server):
    """OpenSSL's own test server on 127.0.0.1, with any of its options, for one connection at a time.

    It sends only the first certificate of the file. The first who connects is told `says`, others are told nothing, and
    what clients say gets no answer.
    """

    name = "OpenSSL"
    program = "openssl"
    services = ("tls",)
    stdin = subprocess.PIPE

    def __init__(self, certificate: Certificate, *options: str, says: str = "", ciphers: str = ANY_CIPHER) -> None:
        self._certificate = certificate
        self._options = options
        self._ciphers = ciphers
        self._says = says

    @classmethod
    def missing(cls) -> str:
        return "" if cls.find_program() else f"{cls.name} is not installed (tests/install-servers does it)"

    def configure(self) -> None:
        pass  # it is all in the command

    def command(self) -> list[str]:
        files = ["-cert", str(self._certificate.cert_path), "-key", str(self._certificate.key_path)]
        where = ["-accept", f"127.0.0.1:{self.tls}"]
        return [str(self.find_program()), "s_server", *where, *files, "-cipher", self._ciphers, *self._options]

    def start(self) -> None:
        super().start()
        if self.process.stdin:
            # Whatever comes from there, OpenSSL reads when it has a client.
            self.process.stdin.write(self._says.encode())
            self.process.stdin.flush()

    def stop(self) -> None:
        super().stop()
        if self._guard and self.process.stdin:  # as it is when the server has been started
            self.process.stdin.close()

    def _answers(self) -> bool:
        output = (self.directory / "output").read_text(errors="replace")
        if self.process.poll() is not None:
            raise RuntimeError(f"{self.name} did not start: {output}")
        return "ACCEPT\n" in output

"""TLS contexts and certificate facts; the only importer of cryptography, and that inside functions.

Without cryptography a probe still verifies and reports: what the standard library tells of a verified certificate. The
key, and anything of an unverified certificate, is then unknown.
"""

from __future__ import annotations

import os
import ssl
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from typing import Any

from .options import TlsOptions, UsageError
from .report import Certificate, Code
from .text import printable

# What OpenSSL's verification errors mean to a postmaster (openssl/x509_vfy.h).
_VERIFY_CODES = {
    9: Code.CERTIFICATE_NOT_YET_VALID,
    10: Code.CERTIFICATE_EXPIRED,
    18: Code.CERTIFICATE_UNKNOWN_ISSUER,  # self-signed leaf
    19: Code.CERTIFICATE_UNKNOWN_ISSUER,  # self-signed authority that is not trusted
    20: Code.CERTIFICATE_UNKNOWN_ISSUER,  # unable to get local issuer
    21: Code.CERTIFICATE_UNKNOWN_ISSUER,  # unable to verify the first certificate
    62: Code.CERTIFICATE_WRONG_NAME,
    64: Code.CERTIFICATE_WRONG_NAME,  # IP address mismatch
}
# OpenSSL's reasons for a first record that is none; 3.x and 1.1 have different words.
NOT_TLS = frozenset({"WRONG_VERSION_NUMBER", "UNKNOWN_PROTOCOL", "HTTP_REQUEST", "RECORD_LAYER_FAILURE"})
# A hostile certificate may carry thousands of names.
MAX_NAMES = 100
MAX_NAME = 256


def context(options: TlsOptions, verify: bool) -> ssl.SSLContext:
    """A client's context, the same on every Python: TLS 1.2 and up, chain and name verified if `verify`.

    Raises `UsageError` when a file that the options name cannot be used.
    """
    if verify:
        made = ssl.create_default_context()
    else:
        made = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # without the 20 ms to load authorities that nobody will ask
        made.check_hostname = False
        made.verify_mode = ssl.CERT_NONE
    # Python 3.9 has no minimum here, and from 3.13 VERIFY_X509_STRICT refuses private authorities that all mail servers
    # accept: one server must not pass on one node and fail on another.
    made.minimum_version = ssl.TLSVersion.TLSv1_2
    made.verify_flags = ssl.VERIFY_X509_TRUSTED_FIRST
    # RFC 6125 6.4.4, RFC 9525 2: a name counts in the subject alternative names, and nowhere else.
    made.hostname_checks_common_name = False
    if options.ca_file is not None:
        with _loading("ca_file", options.ca_file, "holds no certificate in PEM form"):
            made.load_verify_locations(cafile=options.ca_file)
    if options.client_cert is not None:
        wrong = "and its key are not a matching pair in PEM form, or the key has a passphrase"
        with _loading("client_cert", options.client_cert, wrong):
            # Without a function for it, OpenSSL would ask for the passphrase on the terminal, and wait.
            made.load_cert_chain(options.client_cert, options.client_key, password=lambda: "")
    return made


@contextmanager
def _loading(name: str, path: str, wrong: str) -> Iterator[None]:
    """Say of a file that cannot be used which option named it."""
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):
            raise UsageError(name, f"'{printable(path)}' is not a file")  # OpenSSL would wait for a FIFO's writer
        yield
    except ssl.SSLError:
        raise UsageError(name, f"'{printable(path)}' {wrong}") from None
    except OSError as error:
        raise UsageError(name, f"'{printable(path)}' cannot be read: {error.strerror}") from None


def fault(error: ssl.SSLCertVerificationError) -> Code:
    """The finding for a certificate that OpenSSL did not accept."""
    return _VERIFY_CODES.get(error.verify_code, Code.CERTIFICATE_INVALID)


def reason(error: ssl.SSLError) -> str:
    """OpenSSL's words without its file names and line numbers."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return printable(error.verify_message, limit=200)
    if error.reason:
        return printable(error.reason.lower().replace("_", " "), limit=200)
    return printable(str(error.args[-1] if error.args else error), limit=200)


@dataclass(frozen=True)
class Peer:
    """The server's certificate as the ssl module gives it: `der`, and `parsed`, which is empty when not verified."""

    der: bytes
    parsed: dict[str, Any]


def peer(sock: ssl.SSLSocket) -> Peer:
    """The certificate of the server at the other end."""
    try:
        parsed = sock.getpeercert() or {}
    except ValueError:
        parsed = {}  # Python reads names as UTF-8, which a private authority may not have written.
    return Peer(sock.getpeercert(binary_form=True) or b"", parsed)


def certificate(peer: Peer, notes: list[str]) -> Certificate:
    """The facts of the peer's certificate; a note is added to `notes` when cryptography is not there to tell all."""
    try:
        return _from_der(peer.der, notes)
    except ImportError:
        notes.append(
            "the Python package cryptography is not installed: the certificate's key is unknown,"
            " and so is everything about a certificate that was not verified"
        )
    except Exception as error:
        # OpenSSL took it, cryptography is stricter, with exceptions of many kinds; TLS itself is not at fault.
        notes.append(f"the certificate cannot be read: {printable(str(error), limit=200)}")
    return _from_mapping(peer.parsed)


def _from_der(der: bytes, notes: list[str]) -> Certificate:
    from cryptography import x509

    parsed = x509.load_der_x509_certificate(der)
    facts = Certificate()
    for read in (_read_times, _read_subject, _read_issuer, _read_names, _read_key):
        try:
            read(parsed, facts)
        except Exception as error:  # each fact by itself: a strange name must not cost the date
            notes.append(f"the certificate cannot be read in full: {printable(str(error), limit=200)}")
    return facts


def _read_times(parsed: Any, facts: Certificate) -> None:
    after = _utc(parsed, "not_valid_after")
    facts.not_before, facts.not_after = _utc(parsed, "not_valid_before").isoformat(), after.isoformat()
    facts.days_left = _days_left(after)


def _read_subject(parsed: Any, facts: Certificate) -> None:
    facts.subject = printable(parsed.subject.rfc4514_string(), limit=MAX_NAME)


def _read_issuer(parsed: Any, facts: Certificate) -> None:
    facts.issuer = printable(parsed.issuer.rfc4514_string(), limit=MAX_NAME)


def _utc(parsed: Any, name: str) -> datetime:
    # cryptography has the aware attributes from version 42 on; distributions still ship older ones.
    aware = getattr(parsed, f"{name}_utc", None)
    found: datetime = aware if aware is not None else getattr(parsed, name).replace(tzinfo=timezone.utc)
    return found


def _read_names(parsed: Any, facts: Certificate) -> None:
    from cryptography import x509

    try:
        names = parsed.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return
    facts.names = [
        printable(str(name.value), limit=MAX_NAME)
        for name in list(names)[:MAX_NAMES]
        if isinstance(name, (x509.DNSName, x509.IPAddress, x509.RFC822Name))
    ]


def _read_key(parsed: Any, facts: Certificate) -> None:
    from cryptography.hazmat.primitives.asymmetric import dsa, ec, ed448, ed25519, rsa

    key = parsed.public_key()
    for kind, name in ((rsa.RSAPublicKey, "RSA"), (ec.EllipticCurvePublicKey, "EC"), (dsa.DSAPublicKey, "DSA")):
        if isinstance(key, kind):
            facts.key_type, facts.key_bits = name, key.key_size
    if isinstance(key, ed25519.Ed25519PublicKey):
        facts.key_type, facts.key_bits = "Ed25519", 256
    if isinstance(key, ed448.Ed448PublicKey):
        facts.key_type, facts.key_bits = "Ed448", 456


def _from_mapping(parsed: dict[str, Any]) -> Certificate:
    """From `getpeercert()`, which is empty for a certificate that was not verified."""
    if not parsed:
        return Certificate()
    after = _cert_time(parsed["notAfter"])
    return Certificate(
        subject=_distinguished_name(parsed.get("subject", ())),
        issuer=_distinguished_name(parsed.get("issuer", ())),
        names=[printable(value, limit=MAX_NAME) for dummy, value in parsed.get("subjectAltName", ())[:MAX_NAMES]],
        not_before=_cert_time(parsed["notBefore"]).isoformat(),
        not_after=after.isoformat(),
        days_left=_days_left(after),
    )


_SHORT = {
    "commonName": "CN",
    "organizationName": "O",
    "organizationalUnitName": "OU",
    "countryName": "C",
    "localityName": "L",
    "stateOrProvinceName": "ST",
}


def _distinguished_name(name: Any) -> str:
    parts = [f"{_SHORT.get(key, key)}={value}" for relative in reversed(name) for key, value in relative]
    return printable(",".join(parts), limit=MAX_NAME)


def _cert_time(text: str) -> datetime:
    return datetime.fromtimestamp(ssl.cert_time_to_seconds(text), timezone.utc)


def _days_left(after: datetime) -> int:
    return (after - datetime.now(timezone.utc)) // timedelta(days=1)

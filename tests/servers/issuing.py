"""Certificates as good and as bad as anybody ever made them, each described by a line of KINDS."""

from __future__ import annotations

import ipaddress
import subprocess
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from functools import cache
from pathlib import Path
from typing import NamedTuple, Optional, Union

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import AuthorityInformationAccessOID, ExtendedKeyUsageOID, NameOID

from . import DOMAIN

LIFETIME = timedelta(days=90)
LEAF_LIFETIME = timedelta(days=60)  # below an authority that ends at another time
HOUR = timedelta(hours=1)
DAY = timedelta(days=1)
SOON = 5 * DAY + HOUR  # with the hour there are still five days when a slow test looks

OTHER_NAME = "other.example"
# Nobody is there: whoever completes a chain must do so without a web server.
AIA_URL = f"http://ca.{DOMAIN}/intermediate.der"
# Escape sequence, Nagios's separator, HTML, an override of the direction of writing, and a line of its own.
HOSTILE_TEXT = "mail\x1b[31m|<script>alert(1)</script>\u202etxt.exe\nOK - all is well"

SIGN_WITH_SHA1 = (
    "openssl x509 -in own.pem -CA ca.pem -CAkey ca.key -CAcreateserial -sha1 -preserve_dates -extfile extensions"
)

Key = Union[ec.EllipticCurvePrivateKey, rsa.RSAPrivateKey]


class Issued(NamedTuple):
    """A certificate and its key; with them, an authority if it is one."""

    certificate: x509.Certificate
    key: Key

    @property
    def pem(self) -> bytes:
        return self.certificate.public_bytes(Encoding.PEM)

    @property
    def key_pem(self) -> bytes:
        return self.key.private_bytes(Encoding.PEM, PrivateFormat.TraditionalOpenSSL, NoEncryption())


@dataclass(frozen=True)
class Kind:
    """What is special about a certificate; one with all defaults has nothing wrong with it."""

    key: str = "ec"  # or rsa2048, rsa1024
    begins: timedelta = -HOUR  # from now, as all times here
    ends: timedelta = LIFETIME
    names: Optional[tuple[str, ...]] = None  # None: those for which it is wanted; (): no subjectAltName at all
    common_name: str = ""  # by default the first of the names for which it is wanted
    sha1: bool = False
    aia: str = ""  # where the certificate says that its issuer's can be had
    issuer: str = "known"  # or unknown, self
    intermediates: tuple[timedelta, ...] = ()  # the end of each authority between it and the root, the highest first
    sends: tuple[int, ...] = ()  # which of these the server sends, and in what order


THROUGH_ONE = {"intermediates": (LIFETIME,), "ends": LEAF_LIFETIME}
THROUGH_TWO = {"intermediates": (LIFETIME, LIFETIME), "ends": LEAF_LIFETIME}

KINDS: dict[str, Kind] = {
    "ec": Kind(),
    "rsa2048": Kind(key="rsa2048"),
    "rsa1024": Kind(key="rsa1024"),
    "sha1": Kind(key="rsa2048", sha1=True),
    "expired": Kind(begins=-LIFETIME, ends=-DAY),
    "expiring": Kind(begins=SOON - LIFETIME, ends=SOON),
    "not_yet_valid": Kind(begins=DAY),
    "wrong_name": Kind(names=(OTHER_NAME,), common_name=OTHER_NAME),
    "no_san": Kind(names=()),
    "unknown_issuer": Kind(issuer="unknown"),
    "selfsigned": Kind(issuer="self"),
    "chain": Kind(**THROUGH_ONE, sends=(0,)),
    "chain_of_two": Kind(**THROUGH_TWO, sends=(1, 0)),
    "intermediate_missing": Kind(**THROUGH_ONE),
    "out_of_order": Kind(**THROUGH_TWO, sends=(0, 1)),
    "intermediate_expired": Kind(intermediates=(-DAY,), ends=LEAF_LIFETIME, sends=(0,)),
    "intermediate_expiring": Kind(intermediates=(SOON,), ends=LEAF_LIFETIME, sends=(0,)),
    "aia": Kind(**THROUGH_ONE, aia=AIA_URL),
    "hostile": Kind(common_name=HOSTILE_TEXT),
    "hopeless": Kind(
        begins=-LIFETIME, ends=-DAY, names=(OTHER_NAME,), common_name=OTHER_NAME, issuer="unknown"
    ),  # expired, for somebody else, and by nobody knows whom
}


def issue(kind: Kind, names: tuple[str, ...], issuer: Optional[Issued], authority: bool = False) -> Issued:
    """Issue a certificate for names (see `general_names()`), or an authority's; without an issuer it is self-signed."""
    key = new_key(kind.key)
    subject = distinguished_name(kind.common_name or names[0])
    now = datetime.now(timezone.utc)
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer.certificate.subject if issuer and not kind.sha1 else subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now + kind.begins)
        .not_valid_after(now + kind.ends)
        # Self-signed ones are authorities in practice, since it is their own roots that people make of them.
        .add_extension(x509.BasicConstraints(authority or not issuer, None), critical=True)
        .add_extension(key_usage(authority or not issuer), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    )
    if issuer and not kind.sha1:
        identifier = issuer.certificate.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
        builder = builder.add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(identifier), critical=False
        )
    if not authority:
        builder = builder.add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        valid_for = names if kind.names is None else kind.names
        if valid_for:
            builder = builder.add_extension(x509.SubjectAlternativeName(general_names(valid_for)), critical=False)
    if kind.aia:
        location = x509.UniformResourceIdentifier(kind.aia)
        description = x509.AccessDescription(AuthorityInformationAccessOID.CA_ISSUERS, location)
        builder = builder.add_extension(x509.AuthorityInformationAccess([description]), critical=False)
    if issuer and kind.sha1:
        return Issued(sign_with_sha1(builder, key, issuer), key)
    return Issued(builder.sign(issuer.key if issuer else key, SHA256()), key)


def sign_with_sha1(builder: x509.CertificateBuilder, key: Key, issuer: Issued) -> x509.Certificate:
    """Sign with what `cryptography` refuses to sign with.

    openssl(1) signs anew only what is self-signed, so this is what the builder must be about to build.
    """
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        (directory / "ca.pem").write_bytes(issuer.pem)
        (directory / "ca.key").write_bytes(issuer.key_pem)
        (directory / "extensions").write_text("authorityKeyIdentifier = keyid")
        (directory / "own.pem").write_bytes(builder.sign(key, SHA256()).public_bytes(Encoding.PEM))
        signed = subprocess.run(SIGN_WITH_SHA1.split(), cwd=directory, check=True, capture_output=True)
    return x509.load_pem_x509_certificate(signed.stdout)


def new_key(kind: str) -> Key:
    if kind == "ec":
        return ec.generate_private_key(ec.SECP256R1())
    return rsa_key(int(kind[len("rsa") :]))


@cache
def rsa_key(bits: int) -> rsa.RSAPrivateKey:
    """An RSA key, always the same one, since making one takes time."""
    return rsa.generate_private_key(65537, bits)


def distinguished_name(common_name: str) -> x509.Name:
    attributes = {
        NameOID.ORGANIZATION_NAME: "mailprobe tests",
        NameOID.COMMON_NAME: common_name[:64],  # no more letters are allowed
    }
    return x509.Name([x509.NameAttribute(oid, value) for oid, value in attributes.items()])


def general_names(names: Iterable[str]) -> list[x509.GeneralName]:
    """By their looks: addresses of hosts and of people, URIs, names in a directory (`CN=...`), and names of hosts."""
    found: list[x509.GeneralName] = []
    for name in names:
        if name.startswith("CN="):
            found.append(x509.DirectoryName(x509.Name.from_rfc4514_string(name)))
        elif "://" in name:
            found.append(x509.UniformResourceIdentifier(name))
        elif "@" in name:
            found.append(x509.RFC822Name(name))
        else:
            try:
                found.append(x509.IPAddress(ipaddress.ip_address(name)))
            except ValueError:
                found.append(x509.DNSName(name))
    return found


def key_usage(authority: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=True,
        content_commitment=False,
        key_encipherment=not authority,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=authority,
        crl_sign=authority,
        encipher_only=False,
        decipher_only=False,
    )

"""What is in the certificates that a server sent, and what is wrong with them; the only importer of cryptography.

It is imported inside functions. Without it a probe still verifies and reports: what the standard library tells of a
verified certificate. The key, the chain, and anything of an unverified certificate are then unknown.
"""

from __future__ import annotations

import hashlib
import ipaddress
import re
import ssl
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import datetime, timedelta, timezone
from typing import Any, Callable

from .codes import Code
from .options import MissingPackage
from .report import Certificate, Report, Tls
from .text import printable
from .tls import Peer

# A hostile certificate may carry thousands of names.
MAX_NAMES = 100
MAX_NAME = 256
# As many certificates of a chain are read; sane ones have two or three.
MAX_CHAIN = 10
# How many certificates are kept as they were read: the checks of a run often meet the same, and issuers even more so.
# It is their octets that they are known by, so nothing of one run can show in another.
MAX_KNOWN = 256
# What Mozilla's and OpenSSL's (level 2) rules ask for: 112 bits of security (NIST SP 800-57 5.6.1).
MIN_BITS = {"RSA": 2048, "DSA": 2048, "EC": 224}
WEAK_HASHES = ("md2", "md4", "md5", "sha1")
# id-ad-caIssuers (RFC 5280 4.2.2.1): where the issuer's certificate can be fetched, which names that there is one.
_CA_ISSUERS = "1.3.6.1.5.5.7.48.2"
# What those are called that sign servers' certificates, and need another's signature themselves.
_IN_BETWEEN = re.compile(r"intermediate|issuing|subordinate|\bsub-?ca\b", re.IGNORECASE)


def get_ready() -> None:
    """Import now what the first certificate would, so that processes that are made afterwards share its memory."""
    with suppress(MissingPackage):
        require_cryptography("")


def require_cryptography(option: str) -> None:
    """Raise `MissingPackage` for the option that needs cryptography where it is not installed."""
    try:
        from cryptography import x509  # noqa: F401
    except ImportError:
        raise MissingPackage(option, "cryptography") from None


def read(peer: Peer, report: Report[Any], known: dict[bytes, Any]) -> list[Certificate]:
    """Note the facts of the certificates that the server sent; a note says when cryptography is not there to tell all.

    `known` has those that were read before, by their octets. Returns those that lead from the server's own up to an
    authority: what is sent besides is nobody's fault.
    """
    try:
        report.chain = [_from_der(der, report.notes, known) for der in (peer.sent or (peer.der,))[:MAX_CHAIN]]
        report.certificate = report.chain[0]
        return [report.chain[place] for place in _judge_the_chain(peer, report, known)]
    except ImportError:
        report.notes.append(
            "the Python package cryptography is not installed: the certificate's key and chain are unknown,"
            " and so is everything about a certificate that was not verified"
        )
    except Exception as error:
        # OpenSSL took it, cryptography is stricter, with exceptions of many kinds; TLS itself is not at fault.
        report.notes.append(f"the certificate cannot be read: {printable(str(error), limit=200)}")
    report.certificate = _from_mapping(peer)
    report.chain = [report.certificate]
    return report.chain


def _judge_the_chain(peer: Peer, report: Report[Any], known: dict[bytes, Any]) -> list[int]:
    """Whether what was sent is in order, and leads up to an authority; when the first of it expires.

    Returns the places of those that lead there.
    """
    if not peer.sent:
        return [0]  # Python 3.9 tells of the first certificate only.
    sent = [_parsed(der, known) for der in peer.sent[:MAX_CHAIN]]
    session = report.tls
    session.chain_in_order = all(child.issuer == parent.subject for child, parent in zip(sent, sent[1:]))
    path = _path(sent)
    if peer.verified:
        # What leads to the trusted authority, and was not among what was sent, must be that authority itself.
        missing = [_parsed(der, known) for der in peer.verified if der not in peer.sent]
        session.chain_complete = all(_is_self_signed(each) for each in missing)
        path = [each for each, der in zip(sent, peer.sent) if der in peer.verified] or path
    elif _is_self_signed(path[-1]):
        session.chain_complete = True
    elif len(path) == 1 and _is_from_in_between(path[0]):
        session.chain_complete = False
    session.chain_days = min(_days_left(_utc(each, "not_valid_after")) for each in path)
    return [place for place, each in enumerate(sent) if each in path]


def _path(sent: Sequence[Any]) -> list[Any]:
    """The way from the server's certificate up, through those that were sent."""
    path = [sent[0]]
    while not _is_self_signed(path[-1]):
        parent = next((each for each in sent if each.subject == path[-1].issuer and each not in path), None)
        if parent is None:
            break
        path.append(parent)
    return path


def _is_self_signed(parsed: Any) -> bool:
    return bool(parsed.issuer == parsed.subject)


def _is_from_in_between(parsed: Any) -> bool:
    """Whether the issuer is known to be no authority of its own: it calls itself so, or can be fetched somewhere."""
    from cryptography import x509

    if _IN_BETWEEN.search(parsed.issuer.rfc4514_string()):
        return True
    try:
        access = parsed.extensions.get_extension_for_class(x509.AuthorityInformationAccess).value
    except Exception:  # there is none, or an extension cannot be read
        return False
    return any(each.access_method.dotted_string == _CA_ISSUERS for each in access)


@dataclass(frozen=True)
class Fault:
    """What is wrong with a certificate, in the words of a finding."""

    code: Code
    words: str


def faults(path: Sequence[Certificate], session: Tls, server_name: str | None) -> Iterator[Fault]:
    """All that is wrong with the certificates of a path, the server's own first; OpenSSL stops at the first fault.

    `server_name` is None when no name is to be looked for.
    """
    leaf = path[0]
    for place, each in enumerate(path):
        who = "the certificate" if place == 0 else f"the issuer's certificate ({each.subject})"
        if each.days_left is not None and each.days_left < 0:
            yield Fault(Code.CERTIFICATE_EXPIRED, f"{who} expired on {each.not_after}")
        if each.not_before is not None and datetime.fromisoformat(each.not_before) > datetime.now(timezone.utc):
            yield Fault(Code.CERTIFICATE_NOT_YET_VALID, f"{who} is not valid before {each.not_before}")
        if each.key_bits is not None and each.key_bits < MIN_BITS.get(each.key_type or "", 0):
            words = f"{who} has a key of {each.key_type} with {each.key_bits} bits only"
            yield Fault(Code.CERTIFICATE_WEAK_KEY, words)
        algorithm = each.signature_algorithm or ""
        # What an authority says of itself is not looked at: it is trusted or not.
        if not each.self_signed and any(weak in algorithm.lower().replace("-", "") for weak in WEAK_HASHES):
            yield Fault(Code.CERTIFICATE_WEAK_SIGNATURE, f"{who} is signed with {algorithm}")
    all_names = leaf.not_after is not None and len(leaf.names) < MAX_NAMES  # else it may be one that was left out
    if server_name is not None and all_names and not matches(leaf.names, server_name):
        names = ", ".join(leaf.names[:5]) or "no name at all"
        yield Fault(Code.CERTIFICATE_WRONG_NAME, f"the certificate is not for {server_name}, but for {names}")
    if not session.verified and path[-1].self_signed is False:
        words = f"the server does not send the certificate of the issuer, {path[-1].issuer}"
        if session.chain_complete is False:
            yield Fault(Code.CERTIFICATE_CHAIN_INCOMPLETE, f"the chain is incomplete: {words}")
        else:
            yield Fault(Code.CERTIFICATE_UNKNOWN_ISSUER, f"{words}: it is not trusted, or the chain is incomplete")


def matches(names: Sequence[str], wanted: str) -> bool:
    """Whether a name or an address is among the alternative names (RFC 9525 6.3: a `*` is the whole first label)."""
    try:
        address = ipaddress.ip_address(wanted)
    except ValueError:
        wanted = wanted.encode("idna").decode().lower().rstrip(".")
        stars = {wanted, f"*.{wanted.partition('.')[2]}"}
        return any(name.lower().rstrip(".") in stars for name in names)
    return str(address) in names


@dataclass(frozen=True)
class _Known:
    """A certificate as it was read: what it says at any time, and notes of what it says in no readable way."""

    parsed: Any
    facts: Certificate
    notes: tuple[str, ...]


def _parsed(der: bytes, known: dict[bytes, Any]) -> Any:
    return _lasting(der, known).parsed


def _from_der(der: bytes, notes: list[str], known: dict[bytes, Any]) -> Certificate:
    lasting = _lasting(der, known)
    facts = replace(lasting.facts, names=[*lasting.facts.names])
    notes += [*_read(_read_times, lasting.parsed, facts), *lasting.notes]
    return facts


def _lasting(der: bytes, known: dict[bytes, Any]) -> _Known:
    from cryptography import x509

    found: _Known | None = known.get(der)
    if found is None:
        parsed = x509.load_der_x509_certificate(der)
        facts = Certificate(fingerprint_sha256=_fingerprint(der))
        readers = (_read_subject, _read_issuer, _read_names, _read_key, _read_signature)
        found = _Known(parsed, facts, tuple(note for reader in readers for note in _read(reader, parsed, facts)))
        if len(known) >= MAX_KNOWN:
            known.clear()
        known[der] = found
    return found


def _read(reader: Callable[[Any, Certificate], None], parsed: Any, facts: Certificate) -> list[str]:
    """Read some facts by themselves, since a strange name must not cost the date; returns notes of what is wrong."""
    try:
        reader(parsed, facts)
    except Exception as error:
        return [f"the certificate cannot be read in full: {printable(str(error), limit=200)}"]
    return []


def _fingerprint(der: bytes) -> str:
    digest = hashlib.sha256(der).hexdigest().upper()
    return ":".join(digest[place : place + 2] for place in range(0, len(digest), 2))


def _read_times(parsed: Any, facts: Certificate) -> None:
    _note_times(facts, _utc(parsed, "not_valid_before"), _utc(parsed, "not_valid_after"))


def _note_times(facts: Certificate, before: datetime, after: datetime) -> None:
    facts.not_before, facts.not_after = before.isoformat(), after.isoformat()
    facts.days_left = _days_left(after)
    if after > before:
        facts.lifetime_percent = round((after - datetime.now(timezone.utc)) / (after - before) * 100, 2)


def _read_subject(parsed: Any, facts: Certificate) -> None:
    facts.subject = printable(parsed.subject.rfc4514_string(), limit=MAX_NAME)


def _read_issuer(parsed: Any, facts: Certificate) -> None:
    facts.issuer = printable(parsed.issuer.rfc4514_string(), limit=MAX_NAME)
    facts.self_signed = _is_self_signed(parsed)


def _read_signature(parsed: Any, facts: Certificate) -> None:
    facts.serial = _hexadecimal(parsed.serial_number)
    facts.signature_algorithm = printable(parsed.signature_algorithm_oid._name, limit=MAX_NAME)


def _hexadecimal(number: int) -> str:
    digits = f"{number:X}"
    return digits if len(digits) % 2 == 0 else f"0{digits}"  # whole octets, as OpenSSL prints them


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
        for name in names
        if isinstance(name, (x509.DNSName, x509.IPAddress, x509.RFC822Name))
    ][:MAX_NAMES]


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


def _from_mapping(peer: Peer) -> Certificate:
    """From `getpeercert()`, which is empty for a certificate that was not verified."""
    facts = Certificate(fingerprint_sha256=_fingerprint(peer.der) if peer.der else None)
    parsed = peer.parsed
    if not parsed:
        return facts
    facts.subject = _distinguished_name(parsed.get("subject", ()))
    facts.issuer = _distinguished_name(parsed.get("issuer", ()))
    facts.self_signed = parsed.get("subject") == parsed.get("issuer")
    facts.names = [
        _name(kind, value)
        for kind, value in parsed.get("subjectAltName", ())
        if kind in ("DNS", "IP Address", "email")  # a directory's name is no text but a tuple
    ][:MAX_NAMES]
    facts.serial = printable(parsed.get("serialNumber", ""), limit=MAX_NAME) or None
    _note_times(facts, _cert_time(parsed["notBefore"]), _cert_time(parsed["notAfter"]))
    return facts


def _name(kind: str, value: str) -> str:
    """A name as cryptography tells it: OpenSSL writes an IPv6 address with all its zeros."""
    try:
        return str(ipaddress.ip_address(value)) if kind == "IP Address" else printable(value, limit=MAX_NAME)
    except ValueError:  # neither 4 nor 16 octets
        return printable(value, limit=MAX_NAME)


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

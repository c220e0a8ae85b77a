"""TLS contexts, the facts of a session, and what OpenSSL's errors mean."""

from __future__ import annotations

import os
import re
import ssl
import stat
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from .codes import Code
from .families import USUAL_TLS_MIN, TlsOptions
from .options import UsageError
from .report import Tls
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
    66: Code.CERTIFICATE_WEAK_KEY,
    67: Code.CERTIFICATE_WEAK_KEY,  # an authority's
    68: Code.CERTIFICATE_WEAK_SIGNATURE,
}
# OpenSSL's reasons for a first record that is none; 3.x and 1.1 have different words.
NOT_TLS = frozenset({"WRONG_VERSION_NUMBER", "UNKNOWN_PROTOCOL", "HTTP_REQUEST", "RECORD_LAYER_FAILURE"})
# TLS 1.0 and 1.1 sign with MD5 and SHA-1, which OpenSSL does only at its lowest security level.
_OLD = ("TLSv1", "TLSv1.1")
_ANY_STRENGTH = "@SECLEVEL=0"
# From version 3 on OpenSSL does not talk to a server without secure renegotiation (RFC 5746), unless told to.
_DEMANDS_RFC_5746 = ssl.OPENSSL_VERSION_INFO[0] >= 3


class Contexts:
    """TLS contexts, each made once: to load the system's authorities costs 20 ms of CPU time. Safe to share among
    threads.
    """

    def __init__(self) -> None:
        self._made: dict[tuple[object, ...], ssl.SSLContext] = {}
        self.certificates: dict[bytes, Any] = {}
        """What was read of certificates, by their octets: see `certificate.read()`."""
        # Without it, the first checks of a run, all at once, would each make the same.
        self._making = threading.Lock()

    def client(self, options: TlsOptions, verify: bool = True) -> ssl.SSLContext:
        """For a conversation: chain and name verified as the options want it, but never if not `verify`.

        Raises `UsageError` when a file that the options name cannot be used, or a version or cipher is not known.
        """
        return self._get(_context, options, verify and options.validate_certs)

    def only(self, options: TlsOptions, version: str) -> ssl.SSLContext:
        """For a handshake with this version only, and with anybody. Raises `UsageError` when OpenSSL cannot do that."""
        return self._get(_only, options, version)

    def _get(self, make: Any, options: TlsOptions, particular: object) -> ssl.SSLContext:
        files = (options.ca_file, options.ca_path, options.client_cert, options.client_key)
        key = (make, particular, *files, options.tls_min, options.tls_max, options.ciphers, options.alpn)
        with self._making:
            if key not in self._made:
                self._made[key] = make(options, particular)
            return self._made[key]


def _context(options: TlsOptions, verify: bool) -> ssl.SSLContext:
    """A client's context, the same on every Python: TLS 1.2 and up."""
    if verify:
        made = ssl.create_default_context()
        # From 3.13 on VERIFY_X509_STRICT refuses private authorities that all mail servers accept: one server must not
        # pass on one node and fail on another.
        made.verify_flags = ssl.VERIFY_X509_TRUSTED_FIRST
        # RFC 6125 6.4.4, RFC 9525 2: a name counts in the subject alternative names, and nowhere else.
        made.hostname_checks_common_name = False
        _trust(made, options)
    else:
        made = _unverified()
    # Python 3.9 has no minimum here.
    oldest = options.tls_min or USUAL_TLS_MIN
    if oldest in _OLD or not verify:
        made.set_ciphers(f"DEFAULT:{_ANY_STRENGTH}")  # without verification, to learn as much as can be
    _set_versions(made, oldest, options.tls_max)
    if options.ciphers is not None:
        try:
            made.set_ciphers(options.ciphers)
        except ssl.SSLError as error:
            words = f"'{printable(options.ciphers, limit=80)}' means no cipher to the local OpenSSL: {reason(error)}"
            raise UsageError("ciphers", words) from None
    if options.alpn:
        made.set_alpn_protocols(list(options.alpn))
    _identify(made, options)
    if (options.tls_min, options.tls_max, options.ciphers) != (None, None, None):
        _rehearse(made, "tls_max" if options.tls_max else "tls_min" if options.tls_min else "ciphers")
    return made


def _only(options: TlsOptions, version: str) -> ssl.SSLContext:
    made = _unverified()
    made.set_ciphers(f"ALL:{_ANY_STRENGTH}")
    _set_versions(made, version, version)
    _identify(made, options)
    _rehearse(made, "refuse_tls", f"the local OpenSSL cannot speak {version}, so nothing would be learned")
    return made


def _unverified() -> ssl.SSLContext:
    made = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # without the 20 ms to load authorities that nobody will ask
    made.check_hostname = False
    made.verify_mode = ssl.CERT_NONE
    return made


def _set_versions(made: ssl.SSLContext, oldest: str, newest: str | None) -> None:
    made.minimum_version = _version(oldest)
    if newest is not None:
        made.maximum_version = _version(newest)


def _version(name: str) -> ssl.TLSVersion:
    return ssl.TLSVersion[name.replace(".", "_")]


def _rehearse(made: ssl.SSLContext, name: str, words: str = "") -> None:
    """See whether OpenSSL has anything to say hello with: its configuration or security level may forbid a version."""
    hello = made.wrap_bio(ssl.MemoryBIO(), ssl.MemoryBIO(), server_hostname="localhost")
    try:
        hello.do_handshake()
    except ssl.SSLWantReadError:
        pass  # The hello is written, and an answer awaited.
    except ssl.SSLError as error:
        raise UsageError(name, words or f"the local OpenSSL cannot do that: {reason(error)}") from None


def _trust(made: ssl.SSLContext, options: TlsOptions) -> None:
    if options.ca_file is not None:
        with _loading("ca_file", options.ca_file, "holds no certificate in PEM form"):
            alone = _unverified()
            alone.load_verify_locations(cafile=options.ca_file)
            if not alone.cert_store_stats()["x509"]:
                raise ssl.SSLError  # OpenSSL is content with a list of what was revoked
            made.load_verify_locations(cafile=options.ca_file)
    if options.ca_path is not None:
        try:
            hashed = any(re.fullmatch(r"[0-9a-f]{8}\.[0-9]+", name) for name in os.listdir(options.ca_path))
        except OSError as error:
            raise UsageError("ca_path", f"'{printable(options.ca_path)}' cannot be read: {error.strerror}") from None
        if not hashed:
            words = f"'{printable(options.ca_path)}' has no certificate named by its hash: run openssl rehash on it"
            raise UsageError("ca_path", words)
        made.load_verify_locations(capath=options.ca_path)


def _identify(made: ssl.SSLContext, options: TlsOptions) -> None:
    if options.client_cert is not None:
        wrong = "and its key are not a matching pair in PEM form, or the key has a passphrase"
        if options.client_key is not None:
            with _loading("client_key", options.client_key, ""), open(options.client_key, "rb") as key:
                key.read(1)
        with _loading("client_cert", options.client_cert, wrong):
            # Without a function for it, OpenSSL would ask for the passphrase on the terminal, and wait.
            made.load_cert_chain(options.client_cert, options.client_key, password=lambda: "")


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
    code = getattr(error, "reason", None)  # those that Python raises by itself, as for ciphers, have none
    if code:
        return printable(code.lower().replace("_", " "), limit=200)
    return printable(str(error.args[-1] if error.args else error), limit=200)


@dataclass(frozen=True)
class Peer:
    """The server's certificates as the ssl module gives them, in DER: `der` its own, `sent` all that it sent, and
    `verified` the way from its own to a trusted authority; empty where Python (before 3.10) or the lack of verification
    leaves them unknown. `parsed` is its own, empty when not verified.
    """

    der: bytes
    parsed: dict[str, Any] = field(default_factory=dict)
    sent: tuple[bytes, ...] = ()
    verified: tuple[bytes, ...] = ()


def peer(sock: ssl.SSLSocket) -> Peer:
    """The certificates of the server at the other end."""
    try:
        parsed = sock.getpeercert() or {}
    except ValueError:
        parsed = {}  # Python reads names as UTF-8, which a private authority may not have written.
    verified = sock.context.verify_mode is ssl.CERT_REQUIRED
    der = sock.getpeercert(binary_form=True) or b""
    return Peer(der, parsed, _chain(sock, "unverified"), _chain(sock, "verified") if verified else ())


def _chain(sock: ssl.SSLSocket, kind: str) -> tuple[bytes, ...]:
    """From 3.13 on Python tells the chain, before that (3.10 and up) its inner object does."""
    for teller in (sock, getattr(sock, "_sslobj", None)):
        ask = getattr(teller, f"get_{kind}_chain", None)
        if ask is not None:
            found = ask() or ()
            return tuple(each if isinstance(each, bytes) else each.public_bytes(_DER) for each in found)
    return ()


# _ssl.ENCODING_DER
_DER = 2


def describe(sock: ssl.SSLSocket, session: Tls) -> None:
    """Note the facts of a session."""
    session.version = sock.version()
    session.cipher, dummy, session.cipher_bits = sock.cipher() or (None, None, None)
    session.alpn = sock.selected_alpn_protocol()
    session.compression = sock.compression()
    session.group = getattr(sock, "group", lambda: None)()
    session.verified = sock.context.verify_mode is ssl.CERT_REQUIRED
    allowed = sock.context.options & getattr(ssl, "OP_LEGACY_SERVER_CONNECT", 0x4)
    if session.version == "TLSv1.3" or (_DEMANDS_RFC_5746 and not allowed):
        session.secure_renegotiation = True

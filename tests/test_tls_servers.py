"""Certificates are what their name says, and so is the TLS of the servers that have them, as seen by openssl(1)."""

from __future__ import annotations

import re
import socket
import ssl
import subprocess

import pytest

from .servers.certificates import Certificate
from .servers.dovecot import TLS_SERVICES as DOVECOT_SERVICES
from .servers.issuing import AIA_URL, KINDS
from .servers.tls_services import ANY_CIPHER, TLS_FROM, TLS_ONLY, VERSIONS, OpensslServer

pytestmark = pytest.mark.once

# What openssl says of certificates with which something is wrong; of all others it says OK.
FAULTS = {
    "expired": "certificate has expired",
    "not_yet_valid": "certificate is not yet valid",
    "wrong_name": "hostname mismatch",
    "unknown_issuer": "unable to get local issuer certificate",
    "selfsigned": "self.signed certificate",
    "intermediate_missing": "unable to get local issuer certificate",
    "intermediate_expired": "certificate has expired",
    "aia": "unable to get local issuer certificate",
    "hopeless": "unable to get local issuer certificate",
    "rsa1024": "EE certificate key too weak",
    "sha1": "CA signature digest algorithm too weak",
}


def verify(ca, certificate: Certificate, *options: str) -> str:
    """What `openssl verify` says, at the security level that Debian has."""
    command = ["openssl", "verify", "-x509_strict", "-auth_level", "2", *options, "-verify_hostname", "localhost"]
    files = ["-CAfile", ca.pem_path, "-untrusted", certificate.cert_path, certificate.cert_path]
    result = subprocess.run([*command, *files], capture_output=True, text=True)
    return result.stdout + result.stderr


@pytest.mark.parametrize("kind", KINDS)
def test_certificates_have_the_fault_of_their_name_and_no_other(ca, kind):
    answer = verify(ca, ca.make(kind))
    if kind in FAULTS:
        assert re.search(FAULTS[kind], answer)
        assert answer.count(" lookup: ") == 1
        assert ("CN = Intermediate" in answer) == (kind == "intermediate_expired")
    else:
        assert answer.endswith(": OK\n")


@pytest.mark.parametrize("kind", ["rsa1024", "sha1"])
def test_weak_certificates_are_not_wrong_but_for_their_weakness(ca, kind):
    assert verify(ca, ca.make(kind), "-auth_level", "0").endswith(": OK\n")


# What `openssl x509` prints of some of them.
DESCRIPTIONS = {
    "ec": "id-ecPublicKey",
    "rsa2048": "Public-Key: (2048 bit)",
    "rsa1024": "Public-Key: (1024 bit)",
    "sha1": "Signature Algorithm: ecdsa-with-SHA1",
    "aia": f"CA Issuers - URI:{AIA_URL}",
    "hostile": "mail\\1B[31m|<script>alert(1)</script>\\E2\\80\\AEtxt.exe\\0AOK - all is well",
    "hopeless": "DNS:other.example",
}


def describe(certificate: Certificate, *options: str) -> str:
    command = ["openssl", "x509", "-noout", "-in", str(certificate.cert_path), *(options or ("-subject", "-text"))]
    return subprocess.run(command, capture_output=True, text=True).stdout


@pytest.mark.parametrize("kind", DESCRIPTIONS)
def test_certificates_are_what_their_name_says(ca, kind):
    assert DESCRIPTIONS[kind] in describe(ca.make(kind))


def test_a_certificate_without_names_has_one_only_where_nobody_should_look_for_it(ca):
    text = describe(ca.make("no_san"))
    assert "CN = localhost" in text
    assert "Alternative Name" not in text


def test_a_hopeless_certificate_has_expired_too(ca):
    assert "will expire" in describe(ca.make("hopeless"), "-checkend", "0")


@pytest.mark.parametrize("days", [5, 6])
def test_an_expiring_certificate_does_so_in_five_days(ca, days):
    answer = describe(ca.make("expiring"), "-checkend", str(days * 24 * 3600))
    assert ("will not expire" in answer) == (days == 5)


@pytest.mark.parametrize(
    ("kind", "issuers"),
    [
        ("chain", ["Intermediate authority 1"]),
        ("chain_of_two", ["Intermediate authority 2", "Intermediate authority 1"]),
        ("out_of_order", ["Intermediate authority 1", "Intermediate authority 2"]),
        ("intermediate_missing", []),
        ("aia", []),
    ],
)
def test_chains_have_the_intermediates_that_their_name_says_in_that_order(ca, kind, issuers):
    pems = ca.make(kind).cert_path.read_text().split("-----BEGIN CERTIFICATE-----")[2:]
    command = ["openssl", "x509", "-noout", "-subject"]
    subjects = [
        subprocess.run(command, input=f"-----BEGIN CERTIFICATE-----{pem}", capture_output=True, text=True).stdout
        for pem in pems
    ]
    assert [subject.rpartition("CN = ")[2].strip() for subject in subjects] == issuers


# Servers

# By the names of openssl's options.
OPTIONS = {"TLSv1": "-tls1", "TLSv1.1": "-tls1_1", "TLSv1.2": "-tls1_2", "TLSv1.3": "-tls1_3"}
PROTOCOLS = {
    "imap": "imap",
    "imaps": "",
    "pop3": "pop3",
    "pop3s": "",
    "sieve": "sieve",
    "submission": "smtp",
}


def connect(ca, port: int, *options: str, address: str = "127.0.0.1", starttls: str = "") -> str:
    """What `openssl s_client` says of a handshake with however weak a server, and of its certificate."""
    command = [
        "openssl",
        "s_client",
        "-connect",
        f"{address}:{port}",
        "-cipher",
        ANY_CIPHER,
        "-CAfile",
        str(ca.pem_path),
    ]
    command += ["-auth_level", "2", "-verify_hostname", "localhost", *(["-starttls", starttls] if starttls else [])]
    result = subprocess.run([*command, *options], capture_output=True, stdin=subprocess.DEVNULL, timeout=20)
    return (result.stdout + result.stderr).decode(errors="replace")


def assert_verdict(kind: str, answer: str) -> None:
    if kind in FAULTS:
        assert re.search(f"verify error:.*{FAULTS[kind]}", answer)
    else:
        assert "Verification: OK\nVerified peername: localhost\n" in answer


def version(answer: str) -> str:
    """The version that was agreed on; empty when there was no handshake."""
    found = re.search("^(?:Protocol version: |New, )(.*?)(?:, Cipher.*)?$", answer, re.MULTILINE)
    return found[1] if found else ""


@pytest.mark.parametrize("kind", KINDS)
def test_postfix_has_every_kind_of_certificate_in_both_modes(ca, postfix, kind):
    assert_verdict(kind, connect(ca, postfix.tls_port(kind), "-brief", starttls="smtp"))
    assert_verdict(kind, connect(ca, postfix.tls_port(kind, implicit=True), "-brief"))


@pytest.mark.parametrize("kind", KINDS)
def test_dovecot_has_every_kind_of_certificate_at_its_address(ca, dovecot, kind):
    assert_verdict(kind, connect(ca, dovecot.imaps, "-brief", address=dovecot.tls_address(kind)))


@pytest.mark.parametrize("service", PROTOCOLS)
def test_dovecot_has_its_certificates_in_every_protocol_but_lmtp(ca, dovecot, service):
    address = dovecot.tls_address("wrong_name")
    answer = connect(ca, dovecot.ports[service], "-brief", address=address, starttls=PROTOCOLS[service])
    assert_verdict("wrong_name", answer)


def test_dovecots_certificates_are_for_their_address_too(ca, dovecot):
    address = dovecot.tls_address("chain")
    assert "Verification: OK" in connect(ca, dovecot.imaps, "-brief", "-verify_ip", address, address=address)


@pytest.mark.parametrize(("kind", "numbers"), [("chain_of_two", ["2", "1"]), ("out_of_order", ["1", "2"])])
def test_servers_send_the_chain_in_the_order_in_which_it_is(ca, postfix, dovecot, kind, numbers):
    for answer in (
        connect(ca, postfix.tls_port(kind), starttls="smtp"),
        connect(ca, dovecot.imaps, address=dovecot.tls_address(kind)),
    ):
        assert re.findall(r"^ \d s:.*Intermediate authority (\d)$", answer, re.MULTILINE) == numbers


@pytest.mark.parametrize(("algorithms", "type_"), [("RSA-PSS+SHA256", "RSA-PSS"), ("ECDSA+SHA256", "ECDSA")])
def test_servers_with_two_certificates_have_one_for_each_client(ca, postfix, dovecot, algorithms, type_):
    for answer in (
        connect(ca, postfix.tls_port("rsa_and_ec"), "-brief", "-sigalgs", algorithms, starttls="smtp"),
        connect(ca, dovecot.imaps, "-brief", "-sigalgs", algorithms, address=dovecot.tls_address("rsa_and_ec")),
    ):
        assert f"Signature type: {type_}\n" in answer


@pytest.mark.parametrize("spoken", VERSIONS)
@pytest.mark.parametrize("name", [*TLS_FROM, *TLS_ONLY])
def test_servers_speak_their_versions_of_tls_and_no_other(ca, postfix, dovecot, name, spoken):
    service = {**TLS_FROM, **TLS_ONLY}[name]
    speaks = VERSIONS.index(service.oldest) <= VERSIONS.index(spoken) <= VERSIONS.index(service.newest)
    expected = spoken if speaks else ""
    assert version(connect(ca, postfix.tls_port(name), "-brief", OPTIONS[spoken], starttls="smtp")) == expected
    assert version(connect(ca, postfix.tls_port(name, implicit=True), "-brief", OPTIONS[spoken])) == expected
    if name in DOVECOT_SERVICES:
        answer = connect(ca, dovecot.imaps, "-brief", OPTIONS[spoken], address=dovecot.tls_address(name))
        assert version(answer) == expected


@pytest.mark.parametrize("only", VERSIONS)
def test_openssl_speaks_one_version_of_tls(ca, only):
    with OpensslServer(ca.make("ec"), OPTIONS[only]) as server:
        spoken = [version(connect(ca, server.tls, "-brief", OPTIONS[tried])) for tried in VERSIONS]
    assert spoken == [tried if tried == only else "" for tried in VERSIONS]


@pytest.mark.parametrize("kind", ["rsa1024", "sha1", "expired"])
def test_openssl_has_a_certificate_however_bad(ca, kind):
    with OpensslServer(ca.make(kind)) as server:
        assert_verdict(kind, connect(ca, server.tls, "-brief"))


def test_openssl_says_what_it_is_told_to_its_first_client(ca):
    context = ssl.create_default_context(cafile=str(ca.pem_path))
    with OpensslServer(ca.make("ec"), says="220 hello\n") as server:
        connection = socket.create_connection(("127.0.0.1", server.tls), timeout=5)
        with context.wrap_socket(connection, server_hostname="localhost") as tls:
            assert tls.recv(100) == b"220 hello\n"


def test_openssl_says_what_is_wrong_with_its_options(ca):
    with pytest.raises(RuntimeError, match="-rubbish"):
        OpensslServer(ca.make("ec"), "-rubbish").start()

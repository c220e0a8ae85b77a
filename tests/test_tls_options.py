"""The options of TLS: what each of them does at real servers, and what comes of those that cannot be used."""

from __future__ import annotations

import os
import ssl
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from mailprobe.imap import ImapOptions
from mailprobe.options import UsageError
from mailprobe.smtp import SmtpOptions
from mailprobe.tls import Contexts

from .running import Outcome, check
from .scripted import Scripted
from .servers import USER
from .servers.certificates import CertificateAuthority
from .servers.dovecot import CLIENT_CERTIFICATES, Dovecot
from .servers.postfix import Postfix
from .servers.tls_services import VERSIONS, OpensslServer
from .test_certificates import pems
from .test_check_smtp import report, starttls

PROTOCOLS = ("smtp", "imap", "pop3", "sieve")


def at_postfix(postfix: Postfix, ca: CertificateAuthority, service: str, *arguments: object) -> Outcome:
    where = ("-H", "localhost", "-4", "-p", postfix.tls_port(service), *starttls(ca))
    return check("smtp", *where, *arguments)


# Versions and ciphers.


@pytest.mark.parametrize("spoken", VERSIONS)
def test_a_server_that_speaks_one_version_is_heard_where_that_is_allowed(
    postfix: Postfix, ca: CertificateAuthority, spoken: str
) -> None:
    service = spoken.lower().replace("v", "").replace(".", "_")
    allowed = ("--tls-min", spoken, "--json")
    found = report(at_postfix(postfix, ca, service, *allowed))
    assert found["tls"]["version"] == spoken
    assert found["tls"]["verified"] is True
    old = spoken in VERSIONS[:2]
    outcome = at_postfix(postfix, ca, service, "--json")
    report(outcome, *(("critical", "tls-handshake-failed") if old else ("ok",)))


@pytest.mark.parametrize("newest", VERSIONS)
def test_no_newer_version_is_spoken_than_the_newest_allowed(
    postfix: Postfix, dovecot: Dovecot, ca: CertificateAuthority, newest: str
) -> None:
    allowed = ("--tls-min", "TLSv1", "--tls-max", newest, "--json")
    assert report(at_postfix(postfix, ca, "from_tls1", *allowed))["tls"]["version"] == newest
    where = ("-H", dovecot.tls_address("from_tls1"), "-p", dovecot.pop3s, "--tls", "implicit")
    found = report(check("pop3", *where, "--ca-file", ca.pem_path, *allowed))
    assert found["tls"]["version"] == newest


def test_secure_renegotiation_is_told_where_it_is_known(postfix: Postfix, ca: CertificateAuthority) -> None:
    for version in VERSIONS[1:]:
        allowed = ("--tls-min", "TLSv1.1", "--tls-max", version, "--json")
        session = report(at_postfix(postfix, ca, "from_tls1", *allowed))["tls"]
        known = version == "TLSv1.3" or ssl.OPENSSL_VERSION_INFO[0] >= 3
        assert session["secure_renegotiation"] is (True if known else None)
        assert session["compression"] is None


@pytest.mark.parametrize("cipher", ["ECDHE-ECDSA-AES256-GCM-SHA384", "ECDHE-ECDSA-CHACHA20-POLY1305"])
def test_the_cipher_can_be_chosen(postfix: Postfix, ca: CertificateAuthority, cipher: str) -> None:
    found = report(at_postfix(postfix, ca, "ec", "--tls-max", "TLSv1.2", "--ciphers", cipher, "--json"))
    assert found["tls"]["cipher"] == cipher
    assert found["tls"]["cipher_bits"] == 256


def test_a_server_that_has_none_of_the_ciphers_is_found(postfix: Postfix, ca: CertificateAuthority) -> None:
    only = ("--tls-max", "TLSv1.2", "--ciphers", "ECDHE-RSA-AES128-GCM-SHA256", "--json")
    report(at_postfix(postfix, ca, "ec", *only), "critical", "tls-handshake-failed")


def test_an_application_protocol_can_be_asked_for(ca: CertificateAuthority) -> None:
    tls = ("--tls", "implicit", "--ca-file", ca.pem_path, "--json", "-t", "3")
    for offered, agreed in (("imap", "imap"), ("pop3", None)):
        with OpensslServer(ca.make("ec"), "-alpn", "imap", says="* OK ready\n") as server:
            found = check("imap", "-H", "localhost", "-4", "-p", server.tls, *tls, "--alpn", offered).json
        # RFC 7301 3.2 allows a server to break off where there is none in common, and OpenSSL's goes on.
        assert found["tls"]["alpn"] == agreed or "tls-handshake-failed" in str(found["problems"])
        assert (found["tls"]["alpn"] == "imap") is (offered == "imap")


# Names.


def test_the_server_is_asked_for_the_name_of_the_host_or_the_one_given(ca: CertificateAuthority) -> None:
    asked: list[str | None] = []
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    certificate = ca.issue("localhost", "other.example", "127.0.0.1")
    context.load_cert_chain(str(certificate.cert_path), str(certificate.key_path))
    context.sni_callback = lambda _socket, name, _context: asked.append(name)
    with Scripted("== tls\nS: 220 x\n== any", tls=context) as server:
        tls = ("-p", server.port, "--tls", "implicit", "--ca-file", ca.pem_path, "--json")
        report(check("smtp", "-H", "localhost", "-4", *tls))
        report(check("smtp", "-H", "localhost", "-4", *tls, "--tls-server-name", "other.example"))
        report(check("smtp", "-H", "127.0.0.1", *tls))
    assert asked == ["localhost", "other.example", None]  # RFC 6066 3: an address is no name


# Authorities.


@pytest.fixture
def ca_path(ca: CertificateAuthority, tmp_path: Path) -> Path:
    """A directory with the certificate of the authority, named by its hash."""
    directory = tmp_path / "authorities"
    directory.mkdir()
    hashed = subprocess.run(
        ["openssl", "x509", "-noout", "-hash", "-in", str(ca.pem_path)], capture_output=True, text=True, check=True
    ).stdout.strip()
    (directory / f"{hashed}.0").write_text(ca.pem_path.read_text())
    return directory


def test_a_directory_of_authorities_is_trusted(postfix: Postfix, dovecot: Dovecot, ca_path: Path) -> None:
    for protocol, port in (("smtp", postfix.tls_port("chain")), ("imap", dovecot.imap)):
        tls = ("--tls", "starttls", "--ca-path", ca_path, "--json")
        assert report(check(protocol, "-H", "localhost", "-4", "-p", port, *tls))["tls"]["verified"] is True


def test_a_file_and_a_directory_may_be_given_both(postfix: Postfix, ca_path: Path, localhost_tls: object) -> None:
    assert isinstance(localhost_tls, tuple)
    tls = ("--tls", "starttls", "--ca-path", ca_path, "--ca-file", localhost_tls[1], "--json")
    report(check("smtp", "-H", "localhost", "-4", "-p", postfix.tls_port("chain"), *tls))


# Our own certificate.


@pytest.mark.parametrize("separate", [True, False])
def test_our_own_certificate_is_shown_to_who_asks(
    dovecot: Dovecot, ca: CertificateAuthority, tmp_path: Path, separate: bool
) -> None:
    mine = dovecot.client_certificate(USER.name)
    both = tmp_path / "both.pem"
    both.write_text(mine.key_path.read_text() + mine.cert_path.read_text())
    files = ("--client-cert", mine.cert_path, "--client-key", mine.key_path) if separate else ("--client-cert", both)
    login = ("--username", USER.name, "--mechanism", "EXTERNAL", "--json")
    for protocol in ("imap", "pop3"):
        where = ("-H", CLIENT_CERTIFICATES, "-p", dovecot.ports[protocol], *starttls(ca))
        assert report(check(protocol, *where, *files, *login))["facts"]["mechanism"] == "EXTERNAL"


def test_a_server_that_demands_a_certificate_is_told_from_one_that_is_dead(
    ca: CertificateAuthority,
) -> None:
    with OpensslServer(ca.make("ec"), "-Verify", "1", "-tls1_2", "-CAfile", str(ca.pem_path)) as server:
        tls = ("--tls", "implicit", "--ca-file", ca.pem_path, "--json", "-t", "3")
        found = check("smtp", "-H", "localhost", "-4", "-p", server.tls, *tls).json
    assert [problem["code"] for problem in found["problems"]] == ["tls-handshake-failed"]
    assert "wants a client certificate" in found["problems"][0]["hint"]


# What cannot be used.


@pytest.fixture
def server() -> Iterator[Scripted]:
    """A server that would answer, if somebody came."""
    with Scripted("S: 220 mx.example.org ESMTP\n== any") as scripted:
        yield scripted


def refused(server: Scripted, option: str, *arguments: object, mode: str = "starttls", protocol: str = "smtp") -> str:
    """Run a check on the server, and hold the outcome to all that bad input must come to. Returns what it printed."""
    where = ("-H", "localhost", "-4", "-p", server.port, "-t", "3", "--tls", mode)
    outcome = check(protocol, *where, *arguments)
    assert outcome.code == 3, outcome.output
    assert outcome.errors == ""
    assert outcome.output.startswith(f"{protocol.upper()} UNKNOWN - {option}: "), outcome.output
    assert outcome.output.count("\n") == 1
    assert outcome.output.rstrip("\n").isprintable()
    assert "internal error" not in outcome.output
    server.finish(0)
    assert server.connections == 0
    return outcome.output


FILES = {
    "missing": "No such file or directory",
    "directory": "is not a file",
    "fifo": "is not a file",
    "empty": "",
    "garbage": "",
    "unreadable": "cannot be read",
    "device": "is not a file",
}


@pytest.fixture
def odd_file(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """What may be in the place of a file."""
    path = tmp_path / "odd.pem"
    if request.param == "directory":
        path.mkdir()
    elif request.param == "fifo":
        os.mkfifo(path)
    elif request.param == "empty":
        path.touch()
    elif request.param == "garbage":
        path.write_bytes(os.urandom(1000) + b"\n-----BEGIN CERTIFICATE-----\n!!!\n")
    elif request.param == "unreadable":
        return Path("/proc/self/mem")  # root may read whatever has a mode; this not even root can
    elif request.param == "device":
        return Path("/dev/zero")
    return path


@pytest.mark.parametrize(("odd_file", "kind"), [(kind, kind) for kind in FILES], indirect=["odd_file"])
@pytest.mark.parametrize("option", ["--ca-file", "--client-cert"])
def test_what_is_no_file_of_certificates_is_refused(server: Scripted, odd_file: Path, kind: str, option: str) -> None:
    output = refused(server, option, option, odd_file)
    assert str(odd_file) in output
    assert FILES[kind] in output or kind == "unreadable"


@pytest.mark.parametrize(("odd_file", "kind"), [(kind, kind) for kind in FILES], indirect=["odd_file"])
def test_what_is_no_file_with_a_key_is_refused(
    server: Scripted, ca: CertificateAuthority, odd_file: Path, kind: str
) -> None:
    output = "".join(
        check(
            "smtp",
            *("-H", "localhost", "-p", server.port, "--tls", "starttls"),
            *("--client-cert", ca.issue().cert_path, "--client-key", odd_file),
        ).output
    )
    assert output.startswith(("SMTP UNKNOWN - --client-key: ", "SMTP UNKNOWN - --client-cert: "))
    assert "key" in output
    assert "internal error" not in output
    assert server.connections == 0
    if FILES[kind]:
        assert output.startswith("SMTP UNKNOWN - --client-key: ") or kind == "unreadable"


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize("mode", ["starttls", "implicit"])
def test_a_key_of_somebody_else_is_refused_in_every_protocol(
    server: Scripted, ca: CertificateAuthority, protocol: str, mode: str
) -> None:
    files = ("--client-cert", ca.issue().cert_path, "--client-key", ca.issue().key_path)
    output = refused(server, "--client-cert", *files, mode=mode, protocol=protocol)
    assert "not a matching pair" in output


def test_a_key_without_a_certificate_and_a_certificate_without_a_key_are_refused(
    server: Scripted, ca: CertificateAuthority
) -> None:
    mine = ca.issue()
    refused(server, "--client-key", "--client-key", mine.key_path)
    refused(server, "--client-cert", "--client-cert", mine.cert_path)


def test_a_key_with_a_passphrase_is_refused_and_nobody_is_asked_for_it(
    server: Scripted, ca: CertificateAuthority, tmp_path: Path
) -> None:
    mine = ca.issue()
    for number, options in enumerate((["ec", "-aes128"], ["pkcs8", "-topk8"])):
        locked = tmp_path / f"{number}.pem"
        command = ["openssl", *options, "-passout", "pass:secret", "-in", str(mine.key_path), "-out", str(locked)]
        subprocess.run(command, check=True, capture_output=True)
        output = refused(server, "--client-cert", "--client-cert", mine.cert_path, "--client-key", locked)
        assert "passphrase" in output


@pytest.mark.parametrize("content", ["key", "list"])
def test_a_file_with_anything_but_certificates_is_no_authority(
    server: Scripted, ca: CertificateAuthority, tmp_path: Path, content: str
) -> None:
    path = tmp_path / "ca.pem"
    if content == "key":
        path.write_text(ca.issue().key_path.read_text())
    else:
        path.write_text(revocation_list())
    assert "holds no certificate" in refused(server, "--ca-file", "--ca-file", path)


def revocation_list() -> str:
    """A list of revoked certificates, as empty as one can be."""
    from datetime import datetime, timedelta, timezone

    from cryptography import x509
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.hazmat.primitives.hashes import SHA256
    from cryptography.hazmat.primitives.serialization import Encoding

    now = datetime.now(timezone.utc)
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "authority")])
    builder = x509.CertificateRevocationListBuilder().issuer_name(name).last_update(now)
    signed = builder.next_update(now + timedelta(days=1)).sign(ec.generate_private_key(ec.SECP256R1()), SHA256())
    return signed.public_bytes(Encoding.PEM).decode()


@pytest.mark.parametrize("kind", ["missing", "file", "empty", "unhashed"])
def test_what_is_no_directory_of_authorities_is_refused(
    server: Scripted, ca: CertificateAuthority, tmp_path: Path, kind: str
) -> None:
    path = tmp_path / "authorities"
    if kind == "file":
        path.touch()
    elif kind != "missing":
        path.mkdir()
    if kind == "unhashed":
        (path / "ca.pem").write_text(ca.pem_path.read_text())
    output = refused(server, "--ca-path", "--ca-path", path)
    assert str(path) in output
    if kind in ("empty", "unhashed"):
        assert "openssl rehash" in output


@pytest.mark.parametrize(
    "ciphers", ["NONSENSE", "", "TLS_AES_128_GCM_SHA256", "!ALL", "DEFAULT:@SECLEVEL=9", "x" * 4000]
)
def test_a_cipher_that_the_local_openssl_does_not_know_is_refused(server: Scripted, ciphers: str) -> None:
    output = refused(server, "--ciphers", "--ciphers", ciphers)
    assert len(output) < 400


def test_what_openssl_would_read_as_more_ciphers_is_shown_inertly(server: Scripted) -> None:
    refused(server, "--ciphers", "--ciphers", "x\u202e|{username}")


@pytest.mark.parametrize(
    ("option", "arguments"),
    [
        ("--tls-max", ("--tls-max", "TLSv1.1")),  # below the usual minimum
        ("--tls-max", ("--tls-min", "TLSv1.3", "--tls-max", "TLSv1.2")),
        ("--tls-min", ("--tls-min", "SSLv3")),
        ("--tls-max", ("--tls-max", "TLSv1.4")),
        ("--tls-min", ("--tls-min", "1.2")),
        ("--tls-min", ("--tls-min", "tlsv1.2")),
        ("--refuse-tls", ("--refuse-tls", "SSLv2")),
        ("--alpn", ("--alpn", "")),
        ("--alpn", ("--alpn", "x" * 256)),
        ("--alpn", ("--alpn", "imap", "--alpn", "ïmap")),
        ("--tls-server-name", ("--tls-server-name", "")),
        ("--tls-server-name", ("--tls-server-name", "a..example")),
        ("--tls-server-name", ("--tls-server-name", ".example")),
    ],
)
def test_what_tls_does_not_have_is_refused(server: Scripted, option: str, arguments: tuple[str, ...]) -> None:
    refused(server, option, *arguments)


@pytest.mark.parametrize("protocol", PROTOCOLS)
@pytest.mark.parametrize(
    ("option", "value"),
    [
        *(("--ca-file", "/nowhere"), ("--ca-path", "/nowhere"), ("--client-cert", "/nowhere")),
        *(("--tls-server-name", "x"), ("--tls-min", "TLSv1.2"), ("--tls-max", "TLSv1.2"), ("--ciphers", "ALL")),
        ("--alpn", "imap"),
    ],
)
def test_the_options_of_tls_go_with_tls(server: Scripted, protocol: str, option: str, value: str) -> None:
    assert "set --tls to starttls or implicit" in refused(server, option, option, value, mode="none", protocol=protocol)


# An OpenSSL that cannot do what is asked.


@pytest.fixture
def no_old_versions(tmp_path: Path) -> dict[str, str]:
    """An environment in which OpenSSL speaks nothing older than TLS 1.2, whatever a program asks for."""
    path = tmp_path / "openssl.cnf"
    path.write_text("openssl_conf = a\n[a]\nssl_conf = b\n[b]\nsystem_default = c\n[c]\nProtocol = -TLSv1, -TLSv1.1\n")
    return {"OPENSSL_CONF": str(path)}


@pytest.mark.parametrize(
    ("option", "arguments"),
    [
        ("--refuse-tls", ("--refuse-tls", "TLSv1")),
        ("--refuse-tls", ("--refuse-tls", "TLSv1.3", "--refuse-tls", "TLSv1.1")),
        ("--tls-max", ("--tls-min", "TLSv1", "--tls-max", "TLSv1.1")),
    ],
)
def test_what_openssl_is_configured_not_to_speak_is_no_proof_of_anything(
    server: Scripted, no_old_versions: dict[str, str], option: str, arguments: tuple[str, ...]
) -> None:
    where = ("-H", "localhost", "-4", "-p", server.port, "-t", "3", "--tls", "starttls")
    outcome = check("smtp", *where, *arguments, env=no_old_versions)
    assert outcome.code == 3, outcome.output
    assert outcome.output.startswith(f"SMTP UNKNOWN - {option}: the local OpenSSL cannot ")
    assert server.connections == 0


def test_a_minimum_in_openssls_configuration_is_not_what_refuses(
    postfix: Postfix, ca: CertificateAuthority, tmp_path: Path
) -> None:
    path = tmp_path / "openssl.cnf"
    strict = "MinProtocol = TLSv1.2\nCipherString = DEFAULT:@SECLEVEL=2\n"
    path.write_text(f"openssl_conf = a\n[a]\nssl_conf = b\n[b]\nsystem_default = c\n[c]\n{strict}")
    where = ("-H", "localhost", "-4", "-p", postfix.tls_port("from_tls1"), *starttls(ca), "--json")
    outcome = check("smtp", *where, "--refuse-tls", "TLSv1", env={"OPENSSL_CONF": str(path)})
    report(outcome, "critical", "tls-not-refused")
    outcome = check("smtp", *where, "--tls-min", "TLSv1", "--tls-max", "TLSv1", env={"OPENSSL_CONF": str(path)})
    assert report(outcome)["tls"]["version"] == "TLSv1"


def test_a_maximum_in_openssls_configuration_is_told_where_a_newer_minimum_is_asked_for(
    server: Scripted, tmp_path: Path
) -> None:
    path = tmp_path / "openssl.cnf"
    path.write_text("openssl_conf = a\n[a]\nssl_conf = b\n[b]\nsystem_default = c\n[c]\nMaxProtocol = TLSv1.2\n")
    where = ("-H", "localhost", "-4", "-p", server.port, "-t", "3", "--tls", "starttls", "--tls-min", "TLSv1.3")
    outcome = check("smtp", *where, env={"OPENSSL_CONF": str(path)})
    assert outcome.code == 3, outcome.output
    assert outcome.output.startswith("SMTP UNKNOWN - --tls-min: ")
    assert server.connections == 0


# Contexts.


def smtp(**options: object) -> SmtpOptions:
    return SmtpOptions(host="mx.example", **{"tls": "starttls", **options})  # type: ignore[arg-type]


def test_a_context_is_made_once_for_all_who_ask_for_the_same(ca: CertificateAuthority) -> None:
    contexts = Contexts()
    first, second = smtp(ca_file=str(ca.pem_path)), smtp(ca_file=str(ca.pem_path), username="u", password="p")
    imap = ImapOptions(host="imap.example", tls="implicit", ca_file=str(ca.pem_path))
    assert contexts.client(first) is contexts.client(second) is contexts.client(imap)
    assert contexts.only(first, "TLSv1.2") is contexts.only(imap, "TLSv1.2")


@pytest.mark.parametrize(
    "different",
    [
        {},
        {"validate_certs": False},
        {"tls_min": "TLSv1.3"},
        {"tls_max": "TLSv1.2"},
        {"ciphers": "HIGH"},
        {"alpn": ("smtp",)},
        {"ca_file": "other"},
    ],
)
def test_contexts_that_differ_are_not_shared(
    ca: CertificateAuthority, localhost_tls: tuple[object, Path], different: dict[str, object]
) -> None:
    if "ca_file" in different:
        different = {"ca_file": str(localhost_tls[1])}
    contexts = Contexts()
    plain = smtp(ca_file=str(ca.pem_path))
    other = smtp(**{"ca_file": str(ca.pem_path), **different})
    assert (contexts.client(plain) is contexts.client(other)) is (not different)
    assert contexts.client(plain) is not contexts.client(plain, verify=False)
    assert contexts.only(plain, "TLSv1.2") is not contexts.only(plain, "TLSv1.3")


def test_a_context_verifies_unless_it_is_told_not_to(ca: CertificateAuthority) -> None:
    contexts = Contexts()
    made = contexts.client(smtp())
    assert (made.verify_mode, made.check_hostname) == (ssl.CERT_REQUIRED, True)
    assert made.minimum_version == ssl.TLSVersion.TLSv1_2
    for lax in (contexts.client(smtp(), verify=False), contexts.client(smtp(validate_certs=False))):
        assert (lax.verify_mode, lax.check_hostname) == (ssl.CERT_NONE, False)


def test_options_may_share_the_contexts_of_others_and_have_their_own_otherwise() -> None:
    shared = Contexts()
    first, second, third = smtp(), smtp(), smtp()
    first.share(shared)
    second.share(shared)
    assert first.contexts is second.contexts is shared
    assert third.contexts is not shared
    assert third.contexts is third.contexts


def test_contexts_may_be_made_by_many_threads_at_once(ca: CertificateAuthority) -> None:
    contexts, made, failed = Contexts(), set(), []

    def make() -> None:
        try:
            made.add(id(contexts.client(smtp(ca_file=str(ca.pem_path)))))
        except Exception as error:
            failed.append(error)

    threads = [threading.Thread(target=make) for dummy in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failed
    assert id(contexts.client(smtp(ca_file=str(ca.pem_path)))) in made


def test_a_context_that_cannot_be_made_is_the_callers_mistake(tmp_path: Path) -> None:
    for options, name in (
        ({"ca_file": str(tmp_path / "missing")}, "ca_file"),
        ({"ca_path": str(tmp_path)}, "ca_path"),
        ({"client_cert": str(tmp_path)}, "client_cert"),
        ({"ciphers": "NONSENSE"}, "ciphers"),
    ):
        with pytest.raises(UsageError) as refusal:
            smtp(**options).prepare()
        assert refusal.value.option == name


def test_the_chain_of_a_file_is_what_openssl_reads(ca: CertificateAuthority) -> None:
    # What other tests compare with: a file of two is sent as two.
    assert len(pems(ca.make("chain").cert_path.read_text())) == 2

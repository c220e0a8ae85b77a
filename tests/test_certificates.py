"""What the checks say of certificates, good and bad ones, of real servers: the verdict, the facts, the metrics."""

from __future__ import annotations

import re
import ssl
import subprocess
import sys
import unicodedata
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from mailprobe import certificate
from mailprobe.certificate import MAX_NAMES, matches
from nagios_checks.present import MAX_OUTPUT, MAX_STATUS, MAX_TRANSCRIPT

from .running import Outcome, check
from .scripted import Scripted
from .servers import USER, wait_until
from .servers.certificates import Certificate, CertificateAuthority
from .servers.dovecot import Dovecot
from .servers.issuing import LEAF_LIFETIME, LIFETIME, Kind
from .servers.postfix import Postfix
from .servers.tls_services import OpensslServer
from .test_check_smtp import ADDRESS, context_of, in_order, report, transcript
from .test_tls_servers import connect

# Before 3.10, Python tells of the server's own certificate only.
CHAIN_IS_KNOWN = sys.version_info >= (3, 10)

# The findings for each kind of certificate, the one that OpenSSL stops at first; those that are not here are good.
FINDINGS: dict[str, tuple[str, ...]] = {
    "expired": ("certificate-expired",),
    "not_yet_valid": ("certificate-not-yet-valid",),
    "wrong_name": ("certificate-wrong-name",),
    "no_san": ("certificate-wrong-name",),
    "unknown_issuer": ("certificate-unknown-issuer",),
    "selfsigned": ("certificate-unknown-issuer",),
    "intermediate_missing": ("certificate-chain-incomplete" if CHAIN_IS_KNOWN else "certificate-unknown-issuer",),
    "intermediate_expired": ("certificate-expired",),
    "aia": ("certificate-chain-incomplete" if CHAIN_IS_KNOWN else "certificate-unknown-issuer",),
    "rsa1024": ("certificate-weak-key",),
    "sha1": ("certificate-weak-signature",),
    "hopeless": ("certificate-unknown-issuer", "certificate-expired", "certificate-wrong-name"),
}
GOOD = ("ec", "rsa2048", "expiring", "chain", "chain_of_two", "out_of_order", "intermediate_expiring", "hostile")
KINDS = (*GOOD, *FINDINGS)
# By the service of Dovecot's fixture: the check, the mode of TLS.
PROTOCOLS = {
    "imap": ("imap", "starttls"),
    "imaps": ("imap", "implicit"),
    "pop3": ("pop3", "starttls"),
    "pop3s": ("pop3", "implicit"),
    "sieve": ("sieve", "starttls"),
    "submission": ("smtp", "starttls"),
}


def at_postfix(postfix: Postfix, ca: CertificateAuthority, kind: str, mode: str, *arguments: object) -> Outcome:
    where = ("-H", "localhost", "-4", "-p", postfix.tls_port(kind, mode == "implicit"))
    return check("smtp", *where, "--tls", mode, "--ca-file", ca.pem_path, *arguments)


def at_dovecot(dovecot: Dovecot, ca: CertificateAuthority, kind: str, service: str, *arguments: object) -> Outcome:
    protocol, mode = PROTOCOLS[service]
    where = ("-H", dovecot.tls_address(kind), "-p", dovecot.ports[service])
    return check(protocol, *where, "--tls", mode, "--ca-file", ca.pem_path, *arguments)


def judged(outcome: Outcome, kind: str) -> Any:
    """The report of a run, held to the findings for the kind."""
    found = outcome.json
    codes = [problem["code"] for problem in found["problems"]]
    assert sorted(codes) == sorted(FINDINGS.get(kind, ())), found["problems"]
    assert outcome.state == ("critical" if codes else "ok")
    assert {problem["stage"] for problem in found["problems"]} <= {"tls"}
    assert found["tls"]["verified"] is (not codes)
    assert found["tls"]["version"]
    assert found["certificate"]["subject"]
    return found


def lax_context_of(certificate: Certificate) -> ssl.SSLContext:
    """A server's context for a certificate however weak."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.set_ciphers("DEFAULT:@SECLEVEL=0")
    context.load_cert_chain(str(certificate.cert_path), str(certificate.key_path))
    return context


# The verdict.


@pytest.mark.parametrize("kind", KINDS)
def test_every_fault_of_a_certificate_has_its_own_finding_in_smtp(
    postfix: Postfix, ca: CertificateAuthority, kind: str
) -> None:
    judged(at_postfix(postfix, ca, kind, "starttls", "--json"), kind)


@pytest.mark.parametrize("kind", KINDS)
def test_every_fault_of_a_certificate_has_its_own_finding_in_imap(
    dovecot: Dovecot, ca: CertificateAuthority, kind: str
) -> None:
    judged(at_dovecot(dovecot, ca, kind, "imaps", "--json"), kind)


@pytest.mark.parametrize("service", PROTOCOLS)
@pytest.mark.parametrize("kind", ["chain", "expired", "hopeless"])
def test_the_findings_are_the_same_in_every_protocol(
    dovecot: Dovecot, ca: CertificateAuthority, kind: str, service: str
) -> None:
    judged(at_dovecot(dovecot, ca, kind, service, "--json"), kind)


@pytest.mark.parametrize("kind", ["chain", "wrong_name", "rsa1024", "hopeless"])
def test_the_findings_are_the_same_with_tls_from_the_start(
    postfix: Postfix, ca: CertificateAuthority, kind: str
) -> None:
    judged(at_postfix(postfix, ca, kind, "implicit", "--json"), kind)


@pytest.mark.parametrize("kind", [kind for kind in FINDINGS if kind not in ("rsa1024", "sha1")])
def test_a_bad_certificate_is_bad_in_every_version_of_tls(
    postfix: Postfix, ca: CertificateAuthority, kind: str
) -> None:
    judged(at_postfix(postfix, ca, kind, "starttls", "--json", "--tls-max", "TLSv1.2"), kind)


@pytest.mark.parametrize("kind", ["rsa1024", "sha1"])
def test_a_weak_certificate_is_found_where_openssl_has_been_told_to_take_anything(
    postfix: Postfix, ca: CertificateAuthority, kind: str
) -> None:
    for options in (("--ciphers", "DEFAULT:@SECLEVEL=0"), ("--tls-min", "TLSv1")):
        outcome = at_postfix(postfix, ca, kind, "starttls", "--json", *options)
        assert [problem["code"] for problem in outcome.json["problems"]] == list(FINDINGS[kind])
        assert outcome.state == "critical"
        assert outcome.json["tls"]["verified"] is True  # by OpenSSL, who was told so


def test_the_first_line_has_the_finding_and_how_many_more_there_are(postfix: Postfix, ca: CertificateAuthority) -> None:
    outcome = at_postfix(postfix, ca, "hopeless", "starttls", "-v")
    assert re.match(r"SMTP CRITICAL - localhost:\d+: certificate not accepted: .* \(and 2 more\) \|", outcome.output)
    for code in FINDINGS["hopeless"]:
        assert f"[critical] {code} at tls: " in outcome.output
    assert "the certificate is not for localhost, but for other.example" in outcome.output
    assert re.search(r"the certificate expired on \d{4}-\d\d-\d\dT", outcome.output)


@pytest.mark.parametrize("kind", FINDINGS)
def test_nothing_is_said_of_a_certificate_that_is_not_to_be_validated(
    postfix: Postfix, ca: CertificateAuthority, kind: str
) -> None:
    where = ("-H", "localhost", "-4", "-p", postfix.tls_port(kind), "--tls", "starttls")
    found = report(check("smtp", *where, "--no-validate-certs", "--json"))
    assert found["tls"]["verified"] is False
    assert found["certificate"]["fingerprint_sha256"]


def test_an_issuer_that_nobody_knows_is_no_missing_certificate_when_the_chain_was_sent(
    ca: CertificateAuthority,
) -> None:
    kind = Kind(issuer="unknown", intermediates=(LIFETIME,), ends=LEAF_LIFETIME, sends=(0,))
    with Scripted("== tls\nS: 220 x\n== any", tls=context_of(ca.make_special(kind))) as server:
        where = ("-H", "localhost", "-4", "-p", server.port, "--tls", "implicit", "--ca-file", ca.pem_path)
        report(check("smtp", *where, "--json"), "critical", "certificate-unknown-issuer")


@pytest.mark.parametrize("kind", ["aia", "intermediate_missing"])
def test_a_missing_intermediate_is_known_by_its_name_or_by_the_address_where_it_can_be_had(
    postfix: Postfix, kind: str
) -> None:
    where = ("-H", "localhost", "-4", "--tls", "starttls", "--json")
    code = "certificate-chain-incomplete" if CHAIN_IS_KNOWN else "certificate-unknown-issuer"
    found = report(check("smtp", *where, "-p", postfix.tls_port(kind)), "critical", code)
    assert found["tls"]["chain_complete"] is (False if CHAIN_IS_KNOWN else None)


def test_an_issuer_that_nobody_knows_may_have_been_left_out_or_be_no_issuer_of_ours(
    postfix: Postfix, ca: CertificateAuthority
) -> None:
    found = at_postfix(postfix, ca, "unknown_issuer", "starttls", "--json").json
    assert [problem["code"] for problem in found["problems"]] == ["certificate-unknown-issuer"]
    assert found["tls"]["chain_complete"] is None
    if CHAIN_IS_KNOWN:
        assert "it is not trusted, or the chain is incomplete" in found["summary"]


def test_a_certificate_for_more_names_than_a_report_has_is_good_for_the_last_of_them(ca: CertificateAuthority) -> None:
    names = [f"host{number}.example" for number in range(MAX_NAMES + 10)]
    issued = ca.make_special(Kind(names=("https://mail.example", *names)))  # what is no host's name does not count
    with Scripted("== tls\nS: 220 x\n== any", tls=context_of(issued)) as server:
        where = ("-H", "localhost", "-4", "-p", server.port, "--tls", "implicit", "--ca-file", ca.pem_path)
        found = report(check("smtp", *where, "--tls-server-name", names[-1], "--json"))
    assert found["certificate"]["names"] == names[:MAX_NAMES]


@pytest.mark.parametrize(
    ("name", "asked"),
    [
        ("*.example.test", "mail.example.test"),
        ("xn--bcher-kva.example", "bücher.example"),
        ("MAIL.example.test", "mail.EXAMPLE.test"),
        ("mail.example.test", "mail.example.test."),
    ],
)
def test_names_are_compared_as_openssl_compares_them(ca: CertificateAuthority, name: str, asked: str) -> None:
    with Scripted("== tls\nS: 220 x\n== any", tls=context_of(ca.issue(name))) as server:
        where = ("-H", "localhost", "-4", "-p", server.port, "--tls", "implicit", "--ca-file", ca.pem_path)
        found = report(check("smtp", *where, "--tls-server-name", asked, "--json"))
    assert found["tls"]["verified"] is True


# The facts.


def pems(answer: str) -> list[str]:
    """The certificates in the output of openssl(1)."""
    return re.findall("-----BEGIN CERTIFICATE-----.*?-----END CERTIFICATE-----\n", answer, re.DOTALL)


def as_openssl_has_it(pem: str) -> dict[str, Any]:
    """The facts of a certificate in the report's words, as told by openssl(1)."""
    options = ["-serial", "-fingerprint", "-sha256", "-subject", "-issuer", "-nameopt", "RFC2253", "-dates"]
    printed = subprocess.run(
        ["openssl", "x509", "-noout", "-text", *options], input=pem, capture_output=True, text=True, check=True
    ).stdout
    values = dict(
        re.findall(r"^(serial|sha256 Fingerprint|subject|issuer|notBefore|notAfter)=(.*)$", printed, re.MULTILINE)
    )
    bits = re.search(r"Public-Key: \((\d+) bit\)", printed)
    signature = re.search(r"Signature Algorithm: (\S+)", printed)
    assert bits
    assert signature
    return {
        "serial": values["serial"],
        "fingerprint_sha256": values["sha256 Fingerprint"],
        "subject": values["subject"],
        "issuer": values["issuer"],
        "self_signed": values["subject"] == values["issuer"],
        "not_before": moment(values["notBefore"]),
        "not_after": moment(values["notAfter"]),
        "key_type": "RSA" if "rsaEncryption" in printed else "EC",
        "key_bits": int(bits[1]),
        "signature_algorithm": signature[1],
    }


def moment(text: str) -> str:
    return datetime.strptime(text, "%b %d %H:%M:%S %Y GMT").isoformat() + "+00:00"


@pytest.mark.parametrize("kind", ["ec", "rsa1024", "sha1", "selfsigned", "chain_of_two", "hopeless"])
def test_the_facts_of_every_certificate_sent_are_those_that_openssl_tells(
    postfix: Postfix, ca: CertificateAuthority, kind: str
) -> None:
    sent = pems(connect(ca, postfix.tls_port(kind), "-showcerts", starttls="smtp"))
    found = at_postfix(postfix, ca, kind, "starttls", "--json").json
    assert found["certificate"] == found["chain"][0]
    assert len(found["chain"]) == (len(sent) if CHAIN_IS_KNOWN else 1)
    for facts, pem in zip(found["chain"], sent):
        wanted = as_openssl_has_it(pem)
        assert {name: facts[name] for name in wanted} == wanted
        left = (datetime.fromisoformat(facts["not_after"]) - datetime.now().astimezone()) / timedelta(days=1)
        life = datetime.fromisoformat(facts["not_after"]) - datetime.fromisoformat(facts["not_before"])
        assert facts["days_left"] in (int(left // 1), int((left + 0.01) // 1))
        assert facts["lifetime_percent"] == pytest.approx(left / (life / timedelta(days=1)) * 100, abs=0.1)


@pytest.mark.parametrize(
    ("kind", "complete", "in_order", "days"),
    [
        ("ec", True, True, 89),
        ("chain", True, True, 59),
        ("chain_of_two", True, True, 59),
        ("out_of_order", True, False, 59),
        ("intermediate_expiring", True, True, 5),
        ("intermediate_expired", None, True, -2),
        ("aia", False, True, 59),
        ("selfsigned", True, True, 89),
    ],
)
def test_the_chain_is_described(
    postfix: Postfix, ca: CertificateAuthority, kind: str, complete: bool | None, in_order: bool, days: int
) -> None:
    session = at_postfix(postfix, ca, kind, "starttls", "--json").json["tls"]
    told = (session["chain_complete"], session["chain_in_order"], session["chain_days"])
    assert told == ((complete, in_order, days) if CHAIN_IS_KNOWN else (None, None, None))


def test_an_intermediate_of_our_own_hides_from_nobody_that_it_was_not_sent(
    postfix: Postfix, ca: CertificateAuthority, tmp_path: Path
) -> None:
    # Ours trusts it, others will not: the facts say so, and there is no finding, since verification succeeded.
    sent = ca.make_special(Kind(intermediates=(LIFETIME,), ends=LEAF_LIFETIME, sends=(0,)))
    leaf, intermediate = pems(sent.cert_path.read_text())
    alone = Certificate(tmp_path / "leaf.pem", sent.key_path)
    alone.cert_path.write_text(leaf)
    trusted = tmp_path / "ca.pem"
    trusted.write_text(ca.pem_path.read_text() + intermediate)
    with Scripted("== tls\nS: 220 x\n== any", tls=context_of(alone)) as server:
        where = ("-H", "localhost", "-4", "-p", server.port, "--tls", "implicit", "--ca-file", trusted)
        found = report(check("smtp", *where, "--json"))
    assert found["tls"]["chain_complete"] is (False if CHAIN_IS_KNOWN else None)


def test_an_authority_that_is_sent_besides_is_nobodys_fault(ca: CertificateAuthority, tmp_path: Path) -> None:
    issued, stranger = ca.issue(), ca.make("expired")
    both = Certificate(tmp_path / "both.pem", issued.key_path)
    both.cert_path.write_text(issued.cert_path.read_text() + stranger.cert_path.read_text())
    with Scripted("== tls\nS: 220 x\n== any", tls=context_of(both)) as server:
        where = ("-H", "localhost", "-4", "-p", server.port, "--tls", "implicit", "--ca-file", ca.pem_path)
        found = report(check("smtp", *where, "--json"))
    if CHAIN_IS_KNOWN:
        assert len(found["chain"]) == 2
        assert (found["tls"]["chain_in_order"], found["tls"]["chain_days"]) == (False, 89)


@pytest.mark.parametrize(("family", "key_type"), [("ECDHE-RSA", "RSA"), ("ECDHE-ECDSA", "EC")])
def test_of_two_certificates_the_ciphers_choose(
    postfix: Postfix, dovecot: Dovecot, ca: CertificateAuthority, family: str, key_type: str
) -> None:
    options = ("--json", "--tls-max", "TLSv1.2", "--ciphers", f"{family}-AES128-GCM-SHA256")
    for outcome in (
        at_postfix(postfix, ca, "rsa_and_ec", "starttls", *options),
        at_dovecot(dovecot, ca, "rsa_and_ec", "imap", *options),
    ):
        found = report(outcome)
        assert found["certificate"]["key_type"] == key_type
        assert found["tls"]["cipher"] == f"{family}-AES128-GCM-SHA256"


def test_a_session_has_its_facts(postfix: Postfix, ca: CertificateAuthority) -> None:
    session = report(at_postfix(postfix, ca, "chain", "starttls", "--json"))["tls"]
    assert session["version"] == "TLSv1.3"
    assert session["cipher"].startswith("TLS_")
    assert session["cipher_bits"] >= 128
    assert session["compression"] is None
    assert session["secure_renegotiation"] is True
    assert session["alpn"] is None
    assert session["verify_error"] is None
    assert session["group"] is None or isinstance(session["group"], str)


def test_the_facts_come_with_v(postfix: Postfix, ca: CertificateAuthority) -> None:
    found = at_postfix(postfix, ca, "chain", "starttls", "--json").json["certificate"]
    output = at_postfix(postfix, ca, "chain", "starttls", "-v").output
    assert f"certificate: {found['subject']}, issued by {found['issuer']}\n" in output
    assert "certificate names: localhost, 127.0.0.1, ::1\n" in output
    assert f"certificate fingerprint: SHA-256 {found['fingerprint_sha256']}, serial {found['serial']}\n" in output
    assert "certificate key: EC 256, signed with ecdsa-with-SHA256\n" in output
    assert ("\nchain: CN=Intermediate authority 1,O=mailprobe tests, issued by " in output) is CHAIN_IS_KNOWN


# The metrics.


@pytest.mark.parametrize(
    ("kind", "ranges", "state", "words"),
    [
        ("expiring", ("-w", "certificate_lifetime_percent=10:"), "warning", "certificate_lifetime_percent is 5."),
        ("expiring", ("-c", "certificate_lifetime_percent=10:"), "critical", "certificate_lifetime_percent is 5."),
        ("expiring", ("-w", "certificate_lifetime_percent=5:"), "ok", ""),
        ("expiring", ("-w", "certificate_days=6:", "-c", "certificate_days=4:"), "warning", "certificate_days is 5"),
        ("ec", ("-w", "certificate_lifetime_percent=33:"), "ok", ""),
    ],
)
def test_what_is_left_of_a_certificate_can_raise_an_alarm(
    postfix: Postfix, ca: CertificateAuthority, kind: str, ranges: tuple[str, ...], state: str, words: str
) -> None:
    outcome = at_postfix(postfix, ca, kind, "starttls", *ranges)
    assert outcome.state == state
    assert words in outcome.first_line


@pytest.mark.parametrize(("option", "state"), [("-w", "warning"), ("-c", "critical")])
def test_an_intermediate_that_expires_first_can_raise_an_alarm(
    postfix: Postfix, dovecot: Dovecot, ca: CertificateAuthority, option: str, state: str
) -> None:
    for outcome in (
        at_postfix(postfix, ca, "intermediate_expiring", "starttls", option, "chain_days=10:"),
        at_dovecot(dovecot, ca, "intermediate_expiring", "pop3s", option, "chain_days=10:"),
    ):
        if CHAIN_IS_KNOWN:
            assert outcome.state == state
            assert "chain_days is 5" in outcome.first_line
            assert outcome.perfdata()["certificate_days"] == "59"
            assert outcome.perfdata()["chain_days"].startswith("5;")
        else:
            assert outcome.state == "unknown"
            assert "chain_days was not measured" in outcome.first_line


def test_an_expired_certificate_is_one_result_whatever_ranges_there_are(
    postfix: Postfix, ca: CertificateAuthority
) -> None:
    ranges = ("-c", "certificate_days=10:", "-c", "certificate_lifetime_percent=10:", "-c", "time=9")
    outcome = at_postfix(postfix, ca, "expired", "starttls", *ranges)
    assert outcome.state == "critical"
    assert "more)" not in outcome.first_line
    assert outcome.perfdata()["certificate_lifetime_percent"].startswith("-")


@pytest.mark.parametrize("option", ["-w", "-c"])
@pytest.mark.parametrize("metric", ["certificate_lifetime_percent", "chain_days"])
def test_what_only_tls_measures_cannot_be_judged_without_it(option: str, metric: str) -> None:
    outcome = check("imap", "-H", "localhost", option, f"{metric}=10:")
    assert outcome.code == 3
    assert f"{metric} is only known with TLS" in outcome.first_line


# What can still be learned.


def test_behind_a_bad_certificate_the_rest_of_the_conversation_is_reported(
    postfix: Postfix, ca: CertificateAuthority
) -> None:
    recipients = ("--rcpt-to", ADDRESS, "--rcpt-to", "nobody@example.test")
    for mode in ("starttls", "implicit"):
        outcome = at_postfix(postfix, ca, "expired", mode, "--json", *recipients)
        found = report(outcome, "critical", "certificate-expired", "recipient-refused")
        assert [(said["address"], said["code"]) for said in found["facts"]["recipients"]] == [
            (ADDRESS, 250),
            ("nobody@example.test", 550),
        ]
        assert "STARTTLS" not in found["facts"]["capabilities"], "what was said inside TLS"
        assert "PIPELINING" in found["facts"]["capabilities"]
        assert found["timings"]["rcpt"] > 0
        assert "=== a second connection, without verification, to learn the rest" in found["transcript"]


@pytest.mark.parametrize("service", PROTOCOLS)
def test_behind_a_bad_certificate_the_capabilities_are_reported_in_every_protocol(
    dovecot: Dovecot, ca: CertificateAuthority, service: str
) -> None:
    bad = at_dovecot(dovecot, ca, "expired", service, "--json").json
    good = at_dovecot(dovecot, ca, "ec", service, "--json").json
    for report_ in (bad, good):
        del report_["facts"]["banner"]  # POP3's has a timestamp
    assert bad["facts"] == good["facts"]
    assert bad["facts"]["capabilities"]
    assert bad["facts"]["auth_mechanisms"]


@pytest.mark.parametrize("service", PROTOCOLS)
def test_a_capability_is_judged_behind_a_bad_certificate_as_well(
    dovecot: Dovecot, ca: CertificateAuthority, service: str
) -> None:
    state = ("--state", "certificate-expired=ok")
    required = ("--require-capability", "XYZZY")
    outcome = at_dovecot(dovecot, ca, "expired", service, "--json", *state, *required)
    report(outcome, "critical", "certificate-expired", "capability-missing")


TALK = {
    "smtp": ("S: 220 x", "C: EHLO *\nS: 250-x\nS: 250-STARTTLS\nS: 250 AUTH PLAIN LOGIN", "C: STARTTLS\nS: 220 go"),
    "pop3": ("S: +OK x", "C: CAPA\nS: +OK\nS: SASL PLAIN\nS: USER\nS: STLS\nS: .", "C: STLS\nS: +OK go"),
    "imap": (
        "S: * OK x",
        "C: * CAPABILITY\nS: * CAPABILITY IMAP4rev1 STARTTLS AUTH=PLAIN\nS: {tag} OK",
        "C: * STARTTLS\nS: {tag} OK go",
    ),
    "sieve": ("", 'S: "IMPLEMENTATION" "x"\nS: "SASL" "PLAIN"\nS: "STARTTLS"\nS: OK', "C: STARTTLS\nS: OK go"),
}


def script(protocol: str, mode: str) -> str:
    greeting, capabilities, begin = TALK[protocol]
    if mode == "implicit":
        return f"== tls\n{greeting}\n{capabilities}\n== any x"
    return f"{greeting}\n{capabilities}\n{begin}\n== starttls\n{capabilities}\n== any x"


@pytest.mark.parametrize("mode", ["starttls", "implicit"])
@pytest.mark.parametrize("protocol", TALK)
@pytest.mark.parametrize("kind", ["expired", "wrong_name", "unknown_issuer", "rsa1024"])
def test_no_login_is_begun_over_a_connection_that_is_not_verified(
    ca: CertificateAuthority, protocol: str, mode: str, kind: str
) -> None:
    with Scripted(script(protocol, mode), tls=lax_context_of(ca.make(kind))) as server:
        where = ("-H", "localhost", "-4", "-p", server.port, "--tls", mode, "--ca-file", ca.pem_path)
        login = ("--username", USER.name, "--password-env", "PW")
        outcome = check(protocol, *where, *login, "--json", env={"PW": USER.password})
        server.finish()
    assert server.connections == 2
    assert server.errors == []
    found = report(outcome, "critical", *FINDINGS[kind])
    assert found["facts"]["login"] is None
    assert found["facts"]["auth_mechanisms"]
    allowed = r"EHLO .*|STARTTLS|STLS|CAPA|QUIT|LOGOUT|a\d+ (CAPABILITY|STARTTLS|LOGOUT)"
    for heard, octets in zip(server.heard, server.heard_bytes):
        assert not [line for line in heard if not re.fullmatch(allowed, str(line))]
        assert USER.name.encode() not in octets


def test_dovecot_hears_of_no_login_over_a_connection_that_is_not_verified(
    dovecot: Dovecot, ca: CertificateAuthority
) -> None:
    start = len(dovecot.log())
    for service in PROTOCOLS:
        login = ("--username", USER.name, "--password-env", "PW")
        protocol, mode = PROTOCOLS[service]
        where = ("-H", dovecot.tls_address("expired"), "-p", dovecot.ports[service])
        options = ("--tls", mode, "--ca-file", ca.pem_path, *login, "--json")
        report(check(protocol, *where, *options, env={"PW": USER.password}), "critical", "certificate-expired")
    wait_until(
        lambda: dovecot.log()[start:].count("no auth attempts") >= len(PROTOCOLS), "Dovecot to log the ends of all"
    )
    assert USER.name not in dovecot.log()[start:]


def test_a_server_that_refuses_the_second_connection_has_no_other_fault_for_that(ca: CertificateAuthority) -> None:
    first = script("smtp", "starttls").replace("== any x", "== any")
    refusing = "\n--- next connection ---\nS: 421 4.7.0 too many connections\n"
    with Scripted(first + refusing, tls=context_of(ca.make("expired"))) as server:
        where = ("-H", "localhost", "-4", "-p", server.port, "--tls", "starttls", "--ca-file", ca.pem_path)
        found = report(check("smtp", *where, "--json"), "critical", "certificate-expired")
    assert found["certificate"]["subject"] is None
    assert not [line for line in found["transcript"] if line.startswith("***") and "421" in line]


def test_the_transcript_of_a_bad_certificate_has_both_connections(postfix: Postfix, ca: CertificateAuthority) -> None:
    outcome = at_postfix(postfix, ca, "wrong_name", "starttls", "-vv")
    in_order(
        transcript(outcome),
        *("=== connected to ", " -> STARTTLS", "*** certificate not accepted: "),
        *("=== a second connection, without verification", "=== connected to ", " -> STARTTLS", "=== TLS: "),
        *(" ~> EHLO ", "<~  250", " ~> QUIT", "<~  221"),
    )


# Hostile ones.


def inert(output: str) -> None:
    for character in output.replace("\n", ""):
        assert unicodedata.category(character) not in {"Cc", "Cf", "Zl", "Zp", "Cs", "Co", "Cn"}, repr(character)


@pytest.mark.parametrize("more", ["-v", "-vv", "--json"])
def test_what_a_certificate_says_of_itself_is_made_inert(
    postfix: Postfix, dovecot: Dovecot, ca: CertificateAuthority, more: str
) -> None:
    for outcome in (
        at_postfix(postfix, ca, "hostile", "starttls", more),
        at_dovecot(dovecot, ca, "hostile", "sieve", more),
    ):
        assert outcome.state == "ok"
        assert outcome.errors == ""
        inert(outcome.output)
        assert "\\x1b[31m" in outcome.output.replace("\\\\", "\\")
        if more != "--json":
            assert outcome.output.count("|") == 1
            assert not re.search("^OK - all is well", outcome.output, re.MULTILINE)
            assert len(outcome.output) <= (MAX_OUTPUT if more == "-v" else MAX_TRANSCRIPT) + 1


HUGE = tuple(f"{'a' * 60}.{'b' * 60}.{number}.example" for number in range(500))


@pytest.mark.parametrize("kind", [Kind(names=HUGE), Kind(names=HUGE, issuer="self", common_name="c" * 64)])
@pytest.mark.parametrize("more", ["-v", "-vv", "--json"])
def test_a_certificate_of_great_size_makes_no_output_of_great_size(
    ca: CertificateAuthority, kind: Kind, more: str
) -> None:
    with Scripted("== tls\nS: 220 x\n== any", tls=context_of(ca.make_special(kind))) as server:
        where = ("-H", "localhost", "-4", "-p", server.port, "--tls", "implicit", "--ca-file", ca.pem_path)
        outcome = check("smtp", *where, more)
    assert outcome.state == "critical"
    assert outcome.errors == ""
    if more == "--json":
        assert len(outcome.json["certificate"]["names"]) == MAX_NAMES
        assert len(outcome.output) < 64 * 1024
        assert len(outcome.json["summary"]) <= MAX_STATUS
    else:
        assert len(outcome.first_line.partition(" | ")[0]) <= MAX_STATUS
        assert len(outcome.output) <= (MAX_OUTPUT if more == "-v" else MAX_TRANSCRIPT) + 1


def test_what_is_no_certificate_at_all_costs_the_facts_and_nothing_else(
    ca: CertificateAuthority, tmp_path: Path
) -> None:
    # A certificate that OpenSSL takes and a stricter reader does not: its serial number is negative.
    made = ca.issue()
    der = ssl.PEM_cert_to_DER_cert(pems(made.cert_path.read_text())[0])
    place = der.index(b"\xa0\x03\x02\x01\x02\x02") + 7
    odd = der[:place] + b"\x81" + der[place + 1 :]
    broken = Certificate(tmp_path / "odd.pem", made.key_path)
    broken.cert_path.write_text(ssl.DER_cert_to_PEM_cert(odd))
    with OpensslServer(broken, says="220 hello\n") as server:
        where = ("-H", "localhost", "-4", "-p", server.tls, "--tls", "implicit", "--no-validate-certs", "-t", "3")
        outcome = check("smtp", *where, "--json")
    assert outcome.errors == ""
    assert outcome.json["certificate"]["fingerprint_sha256"]
    assert "internal error" not in outcome.output


# Pure functions.


@pytest.mark.parametrize(
    ("names", "wanted"),
    [
        (["mail.example"], "mail.example"),
        (["other.example", "mail.example"], "mail.example"),
        (["Mail.Example"], "mAIL.example"),
        (["mail.example."], "mail.example"),
        (["mail.example"], "mail.example."),
        (["*.example"], "mail.example"),
        (["*.a.example"], "mail.a.example"),
        (["xn--bcher-kva.example"], "bücher.example"),
        (["*.xn--bcher-kva.example"], "mail.bücher.example"),
        (["192.0.2.1"], "192.0.2.1"),
        (["2001:db8::1"], "2001:DB8:0::1"),
    ],
)
def test_a_name_matches(names: list[str], wanted: str) -> None:
    assert matches(names, wanted)


@pytest.mark.parametrize(
    ("names", "wanted"),
    [
        ([], "mail.example"),
        (["mail.example"], "example"),
        (["example"], "mail.example"),
        (["*"], "mail.example"),
        (["*"], "localhost"),
        (["*."], "localhost"),
        (["*.example"], "example"),
        (["*.example"], "a.mail.example"),
        (["m*.example"], "mail.example"),
        (["*l.example"], "mail.example"),
        (["ma*l.example"], "mail.example"),
        (["mail.*"], "mail.example"),
        (["mail.*.example"], "mail.a.example"),
        (["*.*.example"], "mail.a.example"),
        (["**.example"], "mail.example"),
        (["*.2.1"], "192.0.2.1"),
        (["*.0.2.1"], "192.0.2.1"),
        (["192.0.2.2"], "192.0.2.1"),
        (["2001:db8::2"], "2001:db8::1"),
        (["mail.example\\x00.evil.example"], "mail.example"),
    ],
)
def test_a_name_does_not_match(names: list[str], wanted: str) -> None:
    assert not matches(names, wanted)


@pytest.fixture
def without_cryptography(tmp_path: Path) -> dict[str, str]:
    """An environment in which cryptography cannot be imported."""
    (tmp_path / "cryptography.py").write_text("raise ImportError('not here')\n")
    return {"PYTHONPATH": str(tmp_path)}


@pytest.mark.parametrize("kind", ["chain", "expired", "hopeless", "wrong_name"])
def test_without_cryptography_the_state_is_the_same(
    postfix: Postfix, ca: CertificateAuthority, without_cryptography: dict[str, str], kind: str
) -> None:
    for host in ("localhost", "127.0.0.1", "::1"):
        where = ("-H", host, "-p", postfix.tls_port(kind), "--tls", "starttls", "--ca-file", ca.pem_path)
        outcome = check("smtp", *where, "--json", env=without_cryptography)
        assert outcome.errors == ""
        codes = [problem["code"] for problem in outcome.json["problems"]]
        assert codes == list(FINDINGS.get(kind, ()))[:1]
        assert any("cryptography is not installed" in note for note in outcome.json["notes"])
        assert outcome.json["certificate"]["fingerprint_sha256"]


def test_without_cryptography_the_names_are_the_same(
    ca: CertificateAuthority, without_cryptography: dict[str, str]
) -> None:
    kind = Kind(names=("CN=a directory's", "localhost", "::1", "postmaster@mail.example", "https://mail.example"))
    for environment in ({}, without_cryptography):
        with Scripted("== tls\nS: 220 x\n== any", tls=context_of(ca.make_special(kind))) as server:
            where = ("-H", "localhost", "-4", "-p", server.port, "--tls", "implicit", "--ca-file", ca.pem_path)
            outcome = check("smtp", *where, "--json", env=environment)
        assert (outcome.state, outcome.errors) == ("ok", "")
        assert outcome.json["certificate"]["names"] == ["localhost", "::1", "postmaster@mail.example"]


def test_the_hashes_that_count_as_weak_are_those_with_known_collisions() -> None:
    assert {"md5", "sha1"} <= set(certificate.WEAK_HASHES)
    assert not [name for name in certificate.WEAK_HASHES if name in "sha224 sha256 sha384 sha512 sha3-256"]

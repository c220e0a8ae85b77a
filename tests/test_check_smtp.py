"""check_mail_smtp against a real Postfix, Exim and Dovecot: what works, what is refused, what is reported."""

from __future__ import annotations

import base64
import json
import re
import ssl
import sys
from collections.abc import Callable
from datetime import datetime, timedelta, timezone
from email import message_from_bytes
from email.message import EmailMessage
from email.policy import default as default_policy
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any, cast
from uuid import uuid4

import nagiosplugin
import pytest
import trustme

from mailprobe.codes import Stage
from nagios_checks.common import MetricContext, Seconds

from .running import NOISE_SECONDS, Outcome, check_smtp, run
from .scripted import Scripted
from .servers import AWKWARD_USER, USER, Login, loopback_addresses, wait_until
from .servers.certificates import Certificate, CertificateAuthority
from .servers.dovecot import FULL, SMALL, SMALL_BYTES, Dovecot
from .servers.exim import Exim
from .servers.postfix import Postfix

ADDRESS = "user@example.test"
ELSEWHERE = "somebody@elsewhere.example"

# What a server writes into its log about a client without manners.
RUDE = ("lost connection", "improper command", "too many errors", "timeout after", "non-SMTP command", "SSL_accept")

LogsIn = Callable[[Login], "tuple[str, ...]"]


@pytest.fixture
def logs_in(tmp_path: Path) -> LogsIn:
    """The options of a login."""

    def options(login: Login) -> tuple[str, ...]:
        path = tmp_path / "password"
        path.write_text(login.password + "\n", encoding="utf-8")
        return "--username", login.name, "--password-file", str(path)

    return options


def starttls(ca: CertificateAuthority) -> tuple[str, ...]:
    return "--tls", "starttls", "--ca-file", str(ca.pem_path)


def implicit(ca: CertificateAuthority) -> tuple[str, ...]:
    return "--tls", "implicit", "--ca-file", str(ca.pem_path)


def check(port: int, *arguments: object, host: str = "127.0.0.1") -> Outcome:
    return check_smtp("-H", host, "-p", port, *arguments)


def passes(outcome: Outcome) -> Outcome:
    assert outcome.code == 0, outcome.output
    assert outcome.errors == ""
    assert outcome.first_line.startswith("SMTP OK - ")
    outcome.perfdata()
    return outcome


def report(outcome: Outcome, state: str = "ok", *codes: str) -> Any:
    """The report of a run with --json, held to its state and the codes of its problems."""
    assert outcome.errors == ""
    found = outcome.json
    assert (outcome.state, found["state"]) == (state, state), outcome.output
    assert [problem["code"] for problem in found["problems"]] == list(codes)
    return found


def transcript(outcome: Outcome) -> list[str]:
    """The transcript in the output of -vv."""
    lines = outcome.output.splitlines()
    return lines[next(number for number, line in enumerate(lines) if line.startswith("=== connected to ")) :]


def in_order(lines: list[str], *wanted: str) -> None:
    """Assert that the lines begin with these words, in this order, whatever stands between them."""
    left = iter(lines)
    for words in wanted:
        assert any(line.startswith(words) for line in left), f"{words!r} is not there, or too early:\n" + "\n".join(
            lines
        )


# What works.


@pytest.mark.parametrize("address", loopback_addresses())
def test_a_plain_server_that_accepts_a_recipient_is_ok(postfix: Postfix, address: str) -> None:
    outcome = passes(check(postfix.plain, "--rcpt-to", ADDRESS, host=address))
    place = f"[{address}]" if ":" in address else address
    assert outcome.first_line.startswith(
        f"SMTP OK - {place}:{postfix.plain}: 'mail.example.test ESMTP Postfix', 1 recipient accepted, in 0."
    )
    assert outcome.output.count("\n") == 1


@pytest.mark.parametrize(("option", "address"), list(zip(("-4", "-6"), loopback_addresses())))
def test_a_family_can_be_chosen(postfix: Postfix, option: str, address: str) -> None:
    assert report(check(postfix.plain, option, "--json", host=address))["address"] == address
    family = {"-4": "ipv4", "-6": "ipv6"}[option]
    assert report(check(postfix.plain, "--family", family, "--json", host=address))["address"] == address


def test_a_name_is_looked_up_in_the_family_chosen(postfix: Postfix) -> None:
    assert report(check(postfix.plain, "-4", "--json", host="localhost"))["address"] == "127.0.0.1"


def test_an_ipv6_address_may_stand_in_brackets(postfix: Postfix) -> None:
    if "::1" not in loopback_addresses():
        pytest.skip("this machine has no ::1")
    outcome = passes(check(postfix.plain, "-vv", host="[::1]"))
    assert outcome.first_line.startswith(f"SMTP OK - [::1]:{postfix.plain}: ")
    assert re.search(r"^ -> EHLO (\[IPv6:::1\]|[^\[].*\..*)$", outcome.output, re.MULTILINE)


@pytest.mark.parametrize("server_name", ["postfix", "exim"])
@pytest.mark.parametrize("mode", ["starttls", "implicit"])
@pytest.mark.parametrize("host", ["localhost", "127.0.0.1"])
def test_a_server_with_a_good_certificate_is_ok(
    request: pytest.FixtureRequest, ca: CertificateAuthority, server_name: str, mode: str, host: str
) -> None:
    server = request.getfixturevalue(server_name)
    found = report(
        check(getattr(server, mode), "--tls", mode, "--ca-file", ca.pem_path, "--rcpt-to", ADDRESS, "--json", host=host)
    )
    assert found["tls"]["version"] in ("TLSv1.2", "TLSv1.3")
    assert found["tls"]["cipher"]
    assert found["tls"]["cipher_bits"] >= 128
    assert found["tls"]["verified"] is True
    assert found["tls"]["verify_error"] is None
    certificate = found["certificate"]
    assert certificate["days_left"] == 89
    assert certificate["names"] == ["localhost", "127.0.0.1", "::1"]
    assert "O=trustme" in certificate["subject"]
    assert "Testing CA" in certificate["issuer"]
    assert (certificate["key_type"], certificate["key_bits"]) == ("EC", 256)
    before, after = (datetime.fromisoformat(certificate[key]) for key in ("not_before", "not_after"))
    assert before < datetime.now(timezone.utc) < after
    assert "STARTTLS" not in found["facts"]["capabilities"], "the capabilities are those that were said inside TLS"


def test_an_rsa_key_is_named_with_its_bits(ca: CertificateAuthority) -> None:
    with Scripted("== tls\nS: 220 x\n== any", tls=context_of(ca.issue(key_type=trustme.KeyType.RSA))) as server:
        found = report(check(server.port, *implicit(ca), "--json"))
    assert (found["certificate"]["key_type"], found["certificate"]["key_bits"]) == ("RSA", 2048)


def test_the_unix_socket_of_postfix_is_a_host(postfix: Postfix) -> None:
    with postfix.logged() as lines:
        outcome = passes(check_smtp("-H", postfix.socket_path, "--rcpt-to", ADDRESS))
    assert outcome.first_line.startswith(f"SMTP OK - {postfix.socket_path}: 'mail.example.test ESMTP Postfix', 1 rec")
    assert not {"resolve_time", "tls_time"} & set(outcome.perfdata())
    assert "quit=1" in lines[-1]


def test_the_name_to_say_hello_with_can_be_given(postfix: Postfix) -> None:
    assert " -> EHLO probe.example.test\n" in passes(check(postfix.plain, "--helo", "probe.example.test", "-vv")).output


def test_a_text_that_the_greeting_contains_can_be_expected(postfix: Postfix) -> None:
    passes(check(postfix.plain, "--expect", "mail.example.test ESMTP"))
    outcome = check(postfix.plain, "--expect", "Exim", "-vv")
    assert outcome.code == 2
    assert "the greeting lacks 'Exim': 'mail.example.test ESMTP Postfix' [greeting-unexpected]" in outcome.first_line
    in_order(transcript(outcome), "<-  220 ", "*** the greeting lacks 'Exim'", " -> EHLO ", " -> QUIT")


def test_extra_commands_are_judged_each_by_its_own_response(postfix: Postfix) -> None:
    commands = ("--command", "NOOP", "--command", "VRFY nobody@example.test", "--command", "HELP")
    passes(check(postfix.plain, *commands, "--response", "^250 ", "--response", "^550 5.1.1", "--response", "^5.. "))
    found = report(
        check(postfix.plain, *commands, "--response", "^354", "--response", "User unknown", "--json"),
        *("critical", "command-unexpected-reply", "command-unexpected-reply"),
    )
    assert [(said["command"], said["accepted"], said["code"]) for said in found["facts"]["commands"]] == [
        ("NOOP", False, 250),
        ("VRFY nobody@example.test", True, 550),
        ("HELP", False, 500),  # without a response of its own: any positive reply will do
    ]


# Logins.


@pytest.mark.parametrize("login", [USER, AWKWARD_USER], ids=["usual", "awkward"])
@pytest.mark.parametrize("mechanism", [None, "PLAIN", "LOGIN", "CRAM-MD5", "SCRAM-SHA-1", "SCRAM-SHA-256"])
@pytest.mark.parametrize("service", ["submission", "submissions"])
def test_a_login_at_postfix(
    postfix: Postfix, ca: CertificateAuthority, logs_in: LogsIn, login: Login, mechanism: str | None, service: str
) -> None:
    tls = starttls(ca) if service == "submission" else implicit(ca)
    named = ("--mechanism", mechanism) if mechanism else ()
    with postfix.logged() as lines:
        outcome = passes(check(postfix.ports[service], *tls, *logs_in(login), *named, "--rcpt-to", ELSEWHERE, "-vv"))
    used = mechanism or "SCRAM-SHA-256"
    assert f"logged in with {used}, 1 recipient accepted" in outcome.first_line
    assert any(f"sasl_method={used}, sasl_username={login.name}" in line for line in lines)
    assert "auth=1 " in lines[-1]
    assert login.password not in outcome.output
    assert login.base64_password not in outcome.output
    in_order(transcript(outcome), f" ~> AUTH {used}", "<~  235 ", " ~> MAIL FROM:<>", f" ~> RCPT TO:<{ELSEWHERE}>")


@pytest.mark.parametrize("login", [USER, AWKWARD_USER], ids=["usual", "awkward"])
@pytest.mark.parametrize("mechanism", [None, "PLAIN", "LOGIN"])
@pytest.mark.parametrize("mode", ["starttls", "implicit"])
def test_a_login_at_exim(
    exim: Exim, ca: CertificateAuthority, logs_in: LogsIn, login: Login, mechanism: str | None, mode: str
) -> None:
    tls = starttls(ca) if mode == "starttls" else implicit(ca)
    named = ("--mechanism", mechanism) if mechanism else ()
    outcome = check(exim.ports[mode], *tls, *logs_in(login), *named, "--rcpt-to", ELSEWHERE, "--json")
    found = report(outcome)
    assert found["facts"]["mechanism"] == (mechanism or "PLAIN")
    assert found["facts"]["recipients"][0]["accepted"] is True
    assert json.dumps(login.password)[1:-1] not in outcome.output


def test_the_password_may_come_from_the_environment(postfix: Postfix, ca: CertificateAuthority) -> None:
    passes(
        check_smtp(
            *("-H", "127.0.0.1", "-p", postfix.submission, *starttls(ca)),
            *("--username", AWKWARD_USER.name, "--password-env", "MAILPROBE_PW"),
            env={"MAILPROBE_PW": AWKWARD_USER.password},
        )
    )


def test_a_login_without_tls_happens_when_it_is_allowed(postfix: Postfix, logs_in: LogsIn) -> None:
    outcome = passes(check(postfix.plaintext_auth, *logs_in(AWKWARD_USER), "--allow-plaintext-login"))
    assert "logged in with SCRAM-SHA-256" in outcome.first_line


@pytest.mark.parametrize("mechanism", ["PLAIN", "LOGIN", "CRAM-MD5"])
def test_a_wrong_password_is_tried_once(
    postfix: Postfix, ca: CertificateAuthority, logs_in: LogsIn, mechanism: str
) -> None:
    wrong = logs_in(Login(USER.name, "not the password"))
    with postfix.logged() as lines:
        outcome = check(postfix.submission, *starttls(ca), *wrong, "--mechanism", mechanism, "-vv")
    assert outcome.code == 2
    assert "535 5.7.8 " in outcome.first_line
    assert "[critical] auth-rejected at auth: " in outcome.output
    assert "not the password" not in outcome.output
    assert "auth=0/1 quit=1" in lines[-1]
    assert sum("authentication failed" in line for line in lines) == 1
    in_order(transcript(outcome), f" ~> AUTH {mechanism}", "<~  535 ", "*** ", " ~> QUIT", "<~  221 ")


@pytest.mark.parametrize("mechanism", ["PLAIN", "LOGIN", "CRAM-MD5"])
def test_the_finding_of_a_refused_login_names_what_was_refused(
    postfix: Postfix, ca: CertificateAuthority, logs_in: LogsIn, mechanism: str
) -> None:
    wrong = logs_in(Login(USER.name, "not the password"))
    outcome = check(postfix.submission, *starttls(ca), *wrong, "--mechanism", mechanism)
    assert re.search(rf": AUTH {mechanism}( \*\*\*)? refused: '535 ", outcome.first_line), outcome.first_line


def test_a_wrong_password_at_exim_is_refused_too(exim: Exim, ca: CertificateAuthority, logs_in: LogsIn) -> None:
    outcome = check(exim.starttls, *starttls(ca), *logs_in(Login("probe", "wrong")), "--json")
    found = report(outcome, "critical", "auth-rejected")
    assert found["problems"][0]["message"].endswith("refused: '535 Incorrect authentication data'")


def test_a_server_that_offers_no_login_is_told_from_one_that_refuses_it(
    postfix: Postfix, exim: Exim, ca: CertificateAuthority, logs_in: LogsIn
) -> None:
    login = logs_in(USER)
    report(check(postfix.starttls, *starttls(ca), *login, "--json"), "critical", "auth-not-offered")
    wanted = (*login, "--mechanism", "CRAM-MD5")
    report(check(exim.starttls, *starttls(ca), *wanted, "--json"), "critical", "mechanism-not-offered")


# Refusals.


@pytest.mark.parametrize(
    ("service", "state", "code", "stage", "words"),
    [
        (
            "refusing",
            "critical",
            "recipient-refused",
            "rcpt",
            "550 5.7.1 <user@example.test>: Recipient address rejected",
        ),
        ("deferring", "warning", "recipient-deferred", "rcpt", "450 4.7.1 <user@example.test>: Recipient address"),
        ("full", "warning", "sender-deferred", "mail", "452 4.3.1 Insufficient system storage"),
        ("busy", "warning", "busy", "greeting", "421 4.3.2 <unknown["),
        ("rejecting", "critical", "greeting-refused", "greeting", "554 5.7.1 <unknown["),
        ("submission", "critical", "sender-refused", "mail", "530 5.7.0 Must issue a STARTTLS command first"),
    ],
)
def test_a_refusal_has_its_state_its_code_and_the_servers_words(
    postfix: Postfix, service: str, state: str, code: str, stage: str, words: str
) -> None:
    with postfix.logged() as lines:
        outcome = check(postfix.ports[service], "--rcpt-to", ADDRESS, "-v")
    assert outcome.state == state
    assert outcome.first_line.startswith(f"SMTP {state.upper()} - 127.0.0.1:{postfix.ports[service]}: ")
    assert f"'{words}" in outcome.first_line
    assert f"[{code}] | " in outcome.first_line
    assert f"\n[{state}] {code} at {stage}: " in outcome.output
    assert "\n    hint: " in outcome.output
    assert f"{stage}_time" in outcome.perfdata()
    assert not [line for line in lines if any(words in line for words in RUDE)]


@pytest.mark.parametrize("address", ["nobody@example.test", ELSEWHERE])
@pytest.mark.parametrize("server_name", ["postfix", "exim"])
def test_an_unknown_user_and_relaying_are_refused(
    request: pytest.FixtureRequest, server_name: str, address: str
) -> None:
    server = request.getfixturevalue(server_name)
    found = report(check(server.starttls, "--rcpt-to", address, "--json"), "critical", "recipient-refused")
    recipient = found["facts"]["recipients"][0]
    assert (recipient["address"], recipient["accepted"], recipient["code"]) == (
        address,
        False,
        550 + 4 * (server_name == "postfix" and address == ELSEWHERE),
    )
    assert recipient["text"] in found["problems"][0]["message"]


def test_each_recipient_is_judged(postfix: Postfix) -> None:
    recipients = (ADDRESS, "nobody@example.test", "postmaster@example.test", ELSEWHERE)
    outcome = check(postfix.plain, "--json", *(word for address in recipients for word in ("--rcpt-to", address)))
    found = report(outcome, "critical", "recipient-refused", "recipient-refused")
    assert [recipient["accepted"] for recipient in found["facts"]["recipients"]] == [True, False, True, False]
    assert [recipient["enhanced"] for recipient in found["facts"]["recipients"]] == ["2.1.5", "5.1.1", "2.1.5", "5.7.1"]
    assert found["summary"].endswith("[recipient-refused] (and 1 more)")


# Manners.


@pytest.mark.parametrize(
    ("service", "options"),
    [
        ("plain", ()),
        ("plain", ("--rcpt-to", ADDRESS)),
        ("plain", ("--rcpt-to", "nobody@example.test", "--rcpt-to", ELSEWHERE)),
        ("plain", ("--mail-from", ADDRESS)),
        ("plain", ("--command", "NOOP", "--command", "VRFY postmaster", "--rcpt-to", "postmaster")),
        ("plain", ("--rcpt-to", ADDRESS, "--send")),
        ("plain", ("--rcpt-to", "nobody@example.test", "--send")),
        ("plain", ("--expect", "another banner")),
        ("starttls", ("STARTTLS",)),
        ("starttls", ("STARTTLS", "--rcpt-to", ADDRESS, "--send")),
        ("implicit", ("IMPLICIT", "--rcpt-to", ADDRESS, "--send")),
        ("submission", ("STARTTLS", "LOGIN", "--rcpt-to", ELSEWHERE)),
        ("submissions", ("IMPLICIT", "LOGIN", "--rcpt-to", ELSEWHERE, "--send")),
        ("submission", ("STARTTLS", "--rcpt-to", ADDRESS)),
        ("plain", ("STARTTLS",)),
        ("starttls", ("STARTTLS", "LOGIN")),
        ("refusing", ("--rcpt-to", ADDRESS)),
        ("refusing", ("--rcpt-to", ADDRESS, "--send")),
        ("deferring", ("--rcpt-to", ADDRESS, "--send")),
        ("full", ("--rcpt-to", ADDRESS)),
        ("rejecting", ("--rcpt-to", ADDRESS)),
    ],
    ids=lambda value: value if isinstance(value, str) else " ".join(value),
)
def test_postfix_logs_a_polite_client_that_says_quit(
    postfix: Postfix, ca: CertificateAuthority, logs_in: LogsIn, service: str, options: tuple[str, ...]
) -> None:
    stand_for = {"STARTTLS": starttls(ca), "IMPLICIT": implicit(ca), "LOGIN": logs_in(USER)}
    arguments = [word for option in options for word in stand_for.get(option, (option,))]
    with postfix.logged() as lines:
        outcome = check(postfix.ports[service], *arguments)
    assert outcome.code in (0, 1, 2)
    assert not [line for line in lines if any(words in line for words in RUDE)]
    farewells = [line for line in lines if "disconnect from" in line]
    assert len(farewells) == 1
    assert " quit=1 " in farewells[0]


def test_exim_logs_that_the_client_said_quit(exim: Exim, ca: CertificateAuthority) -> None:
    main_log = exim.directory / "logs" / "mainlog"
    start = len(main_log.read_text())
    passes(check(exim.starttls, *starttls(ca), "--rcpt-to", ADDRESS))
    passes(check(exim.implicit, *implicit(ca)))

    def logged() -> str:
        return main_log.read_text()[start:]

    wait_until(lambda: logged().count("closed by QUIT") >= 2, "Exim to log the end of both conversations")
    for words in ("connection lost", "unexpected disconnection", "syntax error", "sync error", "protocol error"):
        assert words not in logged()


def test_nothing_is_said_before_the_greeting() -> None:
    with Scripted("== wait 0.3\nS: 220 mx.example.org\n== any") as server:
        outcome = passes(check(server.port, "-vv"))
    assert transcript(outcome)[1] == "<-  220 mx.example.org"
    assert server.errors == []


# Certificates.

BAD_CERTIFICATES = {
    "expired": ("certificate-expired", "certificate has expired"),
    "wrong_name": ("certificate-wrong-name", "mismatch"),
    "unknown_issuer": ("certificate-unknown-issuer", "unable to get local issuer certificate"),
    "selfsigned": ("certificate-unknown-issuer", "self"),
}
bad_certificates = pytest.mark.parametrize("service", BAD_CERTIFICATES)


@bad_certificates
@pytest.mark.parametrize("host", ["localhost", "127.0.0.1"])
def test_a_bad_certificate_is_named_and_its_facts_are_reported(
    postfix: Postfix, ca: CertificateAuthority, service: str, host: str
) -> None:
    code, words = BAD_CERTIFICATES[service]
    found = report(check(postfix.ports[service], *starttls(ca), "--json", host=host), "critical", code)
    assert words in found["problems"][0]["message"]
    assert found["problems"][0]["stage"] == "tls"
    assert found["tls"]["verified"] is False
    assert words in found["tls"]["verify_error"]
    assert found["tls"]["version"]
    certificate = found["certificate"]
    assert certificate["names"] == (["other.example"] if service == "wrong_name" else ["localhost", "127.0.0.1", "::1"])
    assert certificate["days_left"] == (-2 if service == "expired" else 89)
    assert (certificate["issuer"] == certificate["subject"]) is (service == "selfsigned")
    assert certificate["not_before"] < certificate["not_after"]
    assert (certificate["key_type"], certificate["key_bits"]) == ("EC", 256)
    assert any(datum.startswith("certificate_days=") for datum in found["perfdata"])


@bad_certificates
def test_a_bad_certificate_is_accepted_when_none_is_to_be_validated(postfix: Postfix, service: str) -> None:
    with postfix.logged() as lines:
        outcome = check(
            postfix.ports[service], "--tls", "starttls", "--no-validate-certs", "--rcpt-to", ADDRESS, "--json"
        )
    found = report(outcome)
    assert found["tls"]["verified"] is False
    assert found["certificate"]["days_left"] == (-2 if service == "expired" else 89)
    assert sum(": connect from" in line for line in lines) == 1
    assert not [line for line in lines if any(words in line for words in RUDE)]


@bad_certificates
def test_nothing_is_delivered_where_the_certificate_is_bad(
    postfix: Postfix, ca: CertificateAuthority, service: str
) -> None:
    with postfix.logged() as lines:
        outcome = check(postfix.ports[service], *starttls(ca), "--rcpt-to", ADDRESS, "--send")
    assert outcome.code == 2
    assert not [line for line in lines if "message-id=" in line]


def test_an_authority_that_nobody_knows_is_trusted_when_its_file_is_given(
    postfix: Postfix, ca: CertificateAuthority
) -> None:
    report(check(postfix.starttls, "--tls", "starttls", "--json"), "critical", "certificate-unknown-issuer")
    passes(check(postfix.starttls, *starttls(ca)))


def test_the_name_in_the_certificate_can_be_another_than_the_hosts(postfix: Postfix, ca: CertificateAuthority) -> None:
    passes(check(postfix.wrong_name, *starttls(ca), "--tls-server-name", "other.example"))
    outcome = check(postfix.starttls, *starttls(ca), "--tls-server-name", "other.example", "--json")
    report(outcome, "critical", "certificate-wrong-name")


def context_of(certificate: Certificate) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(str(certificate.cert_path), str(certificate.key_path))
    return context


LOGIN_AFTER_STARTTLS = """\
S: 220 mx.example.org ESMTP
C: EHLO *
S: 250-mx.example.org
S: 250 STARTTLS
C: STARTTLS
S: 220 Go ahead
== starttls
C: EHLO *
S: 250-mx.example.org
S: 250 AUTH PLAIN LOGIN CRAM-MD5
== any
"""
LOGIN_INSIDE_TLS = "== tls\nS: 220 mx.example.org\nC: EHLO *\nS: 250-mx.example.org\nS: 250 AUTH PLAIN LOGIN\n== any"


def in_days(days: int) -> datetime:
    return datetime.now(timezone.utc) + timedelta(days=days)


@pytest.mark.parametrize(
    ("issue", "code"),
    [
        (lambda ca: ca.issue_expired(), "certificate-expired"),
        (lambda ca: ca.issue(not_before=in_days(1)), "certificate-not-yet-valid"),
        (lambda ca: ca.issue("other.example"), "certificate-wrong-name"),
        (lambda ca: ca.issue(known_issuer=False), "certificate-unknown-issuer"),
        (lambda ca: ca.self_signed(), "certificate-unknown-issuer"),
    ],
    ids=["expired", "not yet valid", "wrong name", "unknown issuer", "self-signed"],
)
@pytest.mark.parametrize("mode", ["starttls", "implicit"])
def test_no_password_is_sent_where_the_certificate_is_bad(
    ca: CertificateAuthority,
    logs_in: LogsIn,
    issue: Callable[[CertificateAuthority], Certificate],
    code: str,
    mode: str,
) -> None:
    script = LOGIN_AFTER_STARTTLS if mode == "starttls" else LOGIN_INSIDE_TLS
    with Scripted(script, tls=context_of(issue(ca))) as server:
        options = ("--tls", mode, "--ca-file", ca.pem_path, *logs_in(USER), "--rcpt-to", ADDRESS)
        found = report(check(server.port, *options, "--json"), "critical", code)
        server.finish()
    assert server.connections == 2
    assert server.errors == []
    assert found["certificate"]["subject"] is not None
    for heard, octets in zip(server.heard, server.heard_bytes):
        assert not [line for line in heard if not re.match("EHLO |STARTTLS$|QUIT$", str(line))]
        assert USER.password.encode() not in octets
        assert USER.base64_password.encode() not in octets


@pytest.mark.parametrize("mechanism", ["PLAIN", "LOGIN"])
def test_a_login_goes_to_whoever_answers_when_no_certificate_is_validated(
    ca: CertificateAuthority, logs_in: LogsIn, mechanism: str
) -> None:
    script = LOGIN_INSIDE_TLS.replace("== any", "C: AUTH *\nS: 535 no\nC: QUIT\nS: 221 x")
    with Scripted(script, tls=context_of(ca.self_signed())) as server:
        options = ("--tls", "implicit", "--no-validate-certs", *logs_in(USER), "--mechanism", mechanism)
        report(check(server.port, *options, "--json"), "critical", "auth-rejected")
    assert server.connections == 1


# Delivery.


def headers(mail: bytes) -> EmailMessage:
    return cast(EmailMessage, message_from_bytes(mail, policy=default_policy))


@pytest.mark.parametrize("server_name", ["postfix", "exim"])
def test_a_message_is_delivered_once_and_has_all_that_a_filter_expects(
    request: pytest.FixtureRequest, ca: CertificateAuthority, server_name: str
) -> None:
    server = request.getfixturevalue(server_name)
    subject = f"test {uuid4()}"
    options = ("--rcpt-to", ADDRESS, "--mail-from", "probe@example.test", "--send", "--subject", subject)
    found = report(check(server.starttls, *starttls(ca), *options, "--json"))
    mail = headers(server.wait_for_mail(subject))
    assert sum(subject.encode() in delivered for delivered in server.delivered()) == 1
    for name in ("Date", "From", "To", "Subject", "Message-ID", "Auto-Submitted", "MIME-Version"):
        assert len(mail.get_all(name)) == 1, name
    assert mail["Subject"] == subject
    assert mail["From"] == "probe@example.test"
    assert mail["To"] == ADDRESS
    assert mail["Auto-Submitted"] == "auto-generated"
    assert re.fullmatch(r"<[^<>@\s]+@[^<>@\s]+>", mail["Message-ID"])
    assert mail["Message-ID"] == found["facts"]["message_id"]
    assert abs(parsedate_to_datetime(mail["Date"]) - datetime.now(timezone.utc)) < timedelta(minutes=1)
    assert "It can be deleted." in mail.get_content()
    assert f" {found['facts']['queue_id']} " in f" {found['facts']['deliveries'][0]['text']} ".replace("id=", " ")


def test_the_queue_id_is_the_one_in_the_log_of_postfix(postfix: Postfix) -> None:
    with postfix.logged() as lines:
        outcome = check(postfix.plain, "--rcpt-to", ADDRESS, "--send", "--json")
    facts = report(outcome)["facts"]
    assert facts["queue_id"]
    assert any(f" {facts['queue_id']}: message-id={facts['message_id']}" in line for line in lines)
    assert f"message accepted as {facts['queue_id']}, " in outcome.json["summary"]


def test_the_queue_id_is_the_one_in_the_log_of_exim(exim: Exim) -> None:
    facts = report(check(exim.starttls, "--rcpt-to", ADDRESS, "--send", "--json"))["facts"]
    assert f" {facts['queue_id']} <= <> " in exim.log()


BODIES = {
    "dots": ".\n..\n.a line with a leading dot\n\n.\nthe end",
    "unicode": "Grüße aus Köln",
    "unicode-lines": "Grüße\n.aus\n" + "Köln " * 400,
    "long-line": "x" * 4000,
    "blank-lines": "\n\na\n\n\nb",
    "looks-like-a-command": "RCPT TO:<x@example.org>\nQUIT\nFrom here on",
    "equals": "=3D =\n=\n",
}


@pytest.mark.parametrize("name", BODIES)
def test_a_body_arrives_intact(postfix: Postfix, name: str) -> None:
    subject = f"body {uuid4()}"
    passes(check(postfix.plain, "--rcpt-to", ADDRESS, "--send", "--subject", subject, "--body", BODIES[name]))
    content = headers(postfix.wait_for_mail(subject)).get_content()
    # A text in base64 has CRLF line ends (RFC 2045 6.8).
    assert content.replace("\r\n", "\n").rstrip("\n") == BODIES[name].rstrip("\n")


@pytest.mark.parametrize("subject", ["Grüße {}", "{} " + "word " * 60, "{} \N{GRINNING FACE}", '{} "quoted" <x@y>, z'])
def test_a_subject_arrives_intact(postfix: Postfix, subject: str) -> None:
    mark = str(uuid4())
    given = subject.format(mark).strip()
    options = ("--rcpt-to", ADDRESS, "--send", "--subject", given, "--body", mark)
    passes(check(postfix.plain, *options))
    assert headers(postfix.wait_for_mail(f"\n{mark}"))["Subject"] == given


def test_nothing_is_delivered_without_being_asked_for_and_the_transaction_ends_with_rset(postfix: Postfix) -> None:
    subject = f"never {uuid4()}"
    with postfix.logged() as lines:
        outcome = passes(check(postfix.plain, "--rcpt-to", ADDRESS, "--subject", subject, "-vv"))
    assert "data=" not in lines[-1]
    assert not [line for line in lines if "message-id=" in line]
    assert transcript(outcome)[-4:] == [" -> RSET", "<-  250 2.0.0 Ok", " -> QUIT", "<-  221 2.0.0 Bye"]
    assert not [mail for mail in postfix.delivered() if subject.encode() in mail]


def test_a_message_goes_to_the_recipients_that_were_accepted(postfix: Postfix) -> None:
    subject = f"some {uuid4()}"
    recipients = (word for address in (ADDRESS, ELSEWHERE) for word in ("--rcpt-to", address))
    outcome = check(postfix.plain, *recipients, "--send", "--subject", subject, "--json")
    found = report(outcome, "critical", "recipient-refused")
    assert [delivery["accepted"] for delivery in found["facts"]["deliveries"]] == [True]
    assert headers(postfix.wait_for_mail(subject))["To"] == ADDRESS


# LMTP.


def lmtp_hosts(dovecot: Dovecot) -> dict[str, tuple[str, ...]]:
    return {
        "socket": ("-H", str(dovecot.lmtp_socket), "--lmtp"),
        "port": ("-H", "127.0.0.1", "-p", str(dovecot.lmtp), "--lmtp"),
    }


def lmtp_check(dovecot: Dovecot, *arguments: object, over: str = "socket") -> Outcome:
    return check_smtp(*lmtp_hosts(dovecot)[over], *arguments)


@pytest.mark.parametrize("over", ["socket", "port"])
def test_lmtp_says_lhlo_and_judges_each_recipient(dovecot: Dovecot, over: str) -> None:
    outcome = passes(
        lmtp_check(dovecot, "--rcpt-to", ADDRESS, "--rcpt-to", "postmaster@example.test", "-vv", over=over)
    )
    assert "2 recipients accepted" in outcome.first_line
    in_order(
        transcript(outcome), "<-  220 ", " -> LHLO ", " -> MAIL FROM:<>", " -> RCPT TO:<user@", " -> RCPT TO:<post"
    )
    assert "EHLO" not in outcome.output


def test_lmtp_answers_for_each_recipient_at_rcpt(dovecot: Dovecot) -> None:
    recipients = (word for address in (ADDRESS, FULL, "nobody@example.test") for word in ("--rcpt-to", address))
    found = report(lmtp_check(dovecot, *recipients, "--json"), "critical", "recipient-refused", "recipient-refused")
    judged = [(r["address"], r["code"], r["enhanced"]) for r in found["facts"]["recipients"]]
    assert judged == [(ADDRESS, 250, "2.1.5"), (FULL, 552, "5.2.2"), ("nobody@example.test", 550, "5.1.1")]
    assert found["protocol"] == "lmtp"


@pytest.mark.parametrize("over", ["socket", "port"])
def test_lmtp_answers_for_each_recipient_after_the_message(dovecot: Dovecot, over: str) -> None:
    subject = f"lmtp {uuid4()}"
    options = ("--rcpt-to", ADDRESS, "--rcpt-to", SMALL, "--send", "--subject", subject)
    body = "a line of text\n" * (SMALL_BYTES // 10)
    outcome = lmtp_check(dovecot, *options, "--body", body, "--json", over=over)
    found = report(outcome, "critical", "message-refused")
    assert [(d["address"], d["accepted"], d["code"]) for d in found["facts"]["deliveries"]] == [
        (ADDRESS, True, 250),
        (SMALL, False, 552),
    ]
    assert SMALL in found["problems"][0]["message"]
    assert found["facts"]["queue_id"]
    assert f"<{found['facts']['queue_id']}>" in dovecot.log()
    assert headers(dovecot.wait_for_mail(subject))["Auto-Submitted"] == "auto-generated"


def test_lmtp_with_starttls(dovecot: Dovecot, ca: CertificateAuthority) -> None:
    found = report(lmtp_check(dovecot, *starttls(ca), "--rcpt-to", ADDRESS, "--json", over="port"))
    assert found["tls"]["verified"] is True
    over_socket = lmtp_check(dovecot, *starttls(ca), "--tls-server-name", "localhost", "--rcpt-to", ADDRESS, "--json")
    assert report(over_socket)["tls"]["verified"] is True


# Thresholds and performance data.

STAGES_OF_A_LOGIN = [
    *("resolve", "connect", "greeting", "capabilities", "tls", "auth", "command", "mail", "rcpt", "reset", "quit"),
]


@pytest.mark.parametrize(
    "metric", ["time", *(f"{stage}_time" for stage in STAGES_OF_A_LOGIN), "certificate_days", "size_limit"]
)
@pytest.mark.parametrize(("option", "code"), [("-w", 1), ("-c", 2)])
def test_every_metric_can_raise_an_alarm(
    postfix: Postfix, ca: CertificateAuthority, logs_in: LogsIn, metric: str, option: str, code: int
) -> None:
    given = f"{metric}=@0:"  # alarm when it is not negative
    options = (*starttls(ca), *logs_in(USER), "--command", "NOOP", "--rcpt-to", ADDRESS)
    outcome = check(postfix.submission, *options, option, given)
    assert outcome.code == code, outcome.output
    assert f": {metric} is " in outcome.first_line
    value, warning, critical = [*outcome.perfdata()[metric].split(";"), "", ""][:3]
    assert re.fullmatch(r"[0-9.]+(s|B)?", value)
    assert (warning, critical) == (("@0:", "") if option == "-w" else ("", "@0:"))


def test_the_time_of_a_delivery_can_raise_an_alarm(postfix: Postfix) -> None:
    outcome = check(postfix.plain, "--rcpt-to", ADDRESS, "--send", "-w", "data_time=@0:")
    assert outcome.code == 1
    assert set(outcome.perfdata()) >= {"data_time", "rcpt_time", "quit_time"}
    assert "reset_time" not in outcome.perfdata()


def test_every_stage_of_the_protocol_has_a_metric_and_no_other(postfix: Postfix) -> None:
    others = {Stage.MAILBOX, Stage.SEARCH, Stage.QUOTA, Stage.SCRIPT}
    for stage in set(Stage) - {Stage.TLS}:
        unknown = "there is no metric" in check(postfix.plain, "-w", f"{stage.value}_time=1000").output
        assert unknown is (stage in others)


@pytest.mark.parametrize(
    ("given", "code"),
    [
        *(("10240000", 0), ("10239999", 1), ("10240000:", 0), ("10240001:", 1), ("~:10240000", 0), ("~:10239999", 1)),
        *(("1:9", 1), ("1:10240000", 0), ("@10240000:10240000", 1), ("@1:9", 0), ("0", 1), ("~:", 0), ("0:", 0)),
        *(("10240000.0", 0), (":10240000", 0), ("-5:10240000", 0), ("~:-1", 1)),
    ],
)
def test_a_range_means_what_the_guidelines_say(postfix: Postfix, given: str, code: int) -> None:
    outcome = check(postfix.plain, "-w", f"size_limit={given}")
    assert outcome.code == code, outcome.output
    assert outcome.perfdata()["size_limit"] == f"10240000B;{given};;0"


def test_a_range_without_a_metric_is_for_the_time(postfix: Postfix) -> None:
    outcome = check(postfix.plain, "-w", "0", "-c", "100")
    assert outcome.code == 1
    assert re.fullmatch(r"0\.\d{6}s;0;100;0;10", outcome.perfdata()["time"])
    assert re.fullmatch(r"0\.\d{6}s;0;100;0;7", check(postfix.plain, "-w0", "-c100", "-t7").perfdata()["time"])


def test_a_short_time_has_no_exponent_neither_in_words_nor_in_performance_data() -> None:
    context = MetricContext("quit_time", "0", None)
    metric = nagiosplugin.Metric("quit_time", Seconds(9.4e-05), "s", 0, contextobj=context)
    assert str(context.evaluate(metric, nagiosplugin.Resource())) == "quit_time is 0.000094s (outside range 0:0)"
    assert str(context.performance(metric, nagiosplugin.Resource())) == "quit_time=0.000094s;0;;0"


@pytest.mark.parametrize(
    ("arguments", "code", "first"),
    [
        (("-w", "time=0", "-c", "size_limit=1"), 2, "size_limit is "),
        (("-w", "time=0", "-c", "time=0"), 2, "time is "),
        (("-w", "size_limit=1", "-w", "auth_time=1"), 1, "size_limit is "),  # no login, so no time of it
        (("-c", "size_limit=1", "-w", "auth_time=1"), 2, "size_limit is "),
        (("-w", "auth_time=1"), 3, "auth_time was not measured"),
        (("-w", "time=0", "--rcpt-to", ELSEWHERE), 2, "RCPT TO"),
        (("-w", "auth_time=1", "--rcpt-to", ELSEWHERE), 2, "RCPT TO"),
    ],
    ids=str,
)
def test_the_worst_wins_and_unknown_is_not_the_worst(
    postfix: Postfix, arguments: tuple[str, ...], code: int, first: str
) -> None:
    outcome = check(postfix.plain, *arguments)
    assert outcome.code == code, outcome.output
    assert f"127.0.0.1:{postfix.plain}: {first}" in outcome.first_line


def test_a_flaw_does_not_hide_a_critical_measurement_nor_the_other_way_round(postfix: Postfix) -> None:
    outcome = check(postfix.deferring, "--rcpt-to", ADDRESS, "-c", "time=0", "-v")
    assert outcome.code == 2
    lines = [line for line in outcome.output.splitlines() if line.startswith("[")]
    assert [line.split(" ")[0] for line in lines] == ["[critical]", "[warning]"]
    assert outcome.first_line.split(" | ")[0].endswith("(and 1 more)")


def test_a_range_for_what_the_server_does_not_say_is_unknown() -> None:
    with Scripted("S: 220 mx.example.org\n== any") as server:
        outcome = check(server.port, "-w", "size_limit=1000:")
    assert outcome.code == 3
    assert "size_limit was not measured" in outcome.first_line
    assert "time" in outcome.perfdata()
    assert server.heard[0][-1] == "QUIT"


@pytest.mark.parametrize(
    ("days", "code", "ranges"),
    [
        ("89", 0, "89:;0:"),
        ("90", 1, "90:;0:"),
        ("100,90", 2, "100:;90:"),
        ("30,10", 0, "30:;10:"),
        ("90,0", 1, "90:;0:"),
    ],
)
def test_the_days_of_the_certificate_raise_an_alarm(
    postfix: Postfix, ca: CertificateAuthority, days: str, code: int, ranges: str
) -> None:
    outcome = check(postfix.starttls, *starttls(ca), "-D", days)
    assert outcome.code == code, outcome.output
    assert outcome.perfdata()["certificate_days"] == f"89;{ranges}"
    long = ("-w", f"certificate_days={ranges.split(';')[0]}", "-c", f"certificate_days={ranges.split(';')[1]}")
    assert check(postfix.starttls, *starttls(ca), *long).code == code


def test_an_expired_certificate_is_critical_by_its_days_when_it_is_not_validated(postfix: Postfix) -> None:
    outcome = check(postfix.expired, "--tls", "starttls", "--no-validate-certs", "-D", "30")
    assert outcome.code == 2
    assert "certificate_days is -2" in outcome.first_line


def test_an_expired_certificate_is_one_result_not_two(postfix: Postfix, ca: CertificateAuthority) -> None:
    outcome = check(postfix.expired, *starttls(ca), "-D", "30,10")
    assert outcome.code == 2
    assert "[certificate-expired]" in outcome.first_line
    assert "more)" not in outcome.first_line


@pytest.mark.parametrize(
    ("service", "measured", "not_measured"),
    [
        ("rejecting", {"greeting_time", "quit_time"}, {"capabilities_time", "size_limit"}),
        ("full", {"greeting_time", "capabilities_time", "mail_time", "size_limit"}, {"rcpt_time", "reset_time"}),
        ("refusing", {"mail_time", "rcpt_time", "reset_time", "size_limit"}, {"data_time"}),
    ],
)
def test_what_was_measured_before_a_failure_is_performance_data(
    postfix: Postfix, service: str, measured: set[str], not_measured: set[str]
) -> None:
    outcome = check(postfix.ports[service], "--rcpt-to", ADDRESS)
    assert set(outcome.perfdata()) >= {"time", "resolve_time", "connect_time"} | measured
    assert not set(outcome.perfdata()) & not_measured


def test_the_stages_add_up_to_the_time(postfix: Postfix, ca: CertificateAuthority) -> None:
    found = report(check(postfix.starttls, *starttls(ca), "--rcpt-to", ADDRESS, "--json"))
    spent = sum(seconds for seconds in found["timings"].values() if seconds is not None)
    assert spent <= found["elapsed"] + 1e-5
    assert found["elapsed"] - spent < 0.05 + NOISE_SECONDS


# What is printed.


def test_findings_with_hints_and_facts_come_with_v(postfix: Postfix, ca: CertificateAuthority) -> None:
    outcome = check(postfix.starttls, *starttls(ca), "--rcpt-to", "nobody@example.test", "-v")
    lines = outcome.output.splitlines()
    assert lines[1].startswith(
        "[critical] recipient-refused at rcpt: RCPT TO:<nobody@example.test> refused: '550 5.1.1 "
    )
    assert lines[2].startswith("    hint: No such user, relaying denied, or a policy")
    facts = dict(line.split(": ", 1) for line in lines[3:])
    assert facts["address"] == "127.0.0.1"
    assert facts["tls"].startswith("TLSv1.3, ")
    assert facts["tls"].endswith(", certificate verified")
    assert facts["certificate names"] == "localhost, 127.0.0.1, ::1"
    assert facts["certificate key"] == "EC 256, signed with ecdsa-with-SHA256"
    assert facts["certificate valid"].endswith(", 89 days left")
    assert facts["banner"] == "mail.example.test ESMTP Postfix"
    assert facts["size limit"] == "10240000"
    assert facts["recipients"].startswith("nobody@example.test: 550 5.1.1 ")
    assert "=== connected" not in outcome.output


GOLDEN_SCRIPT = """\
S: 220-mx.example.org ESMTP
S: 220 no \\x1b[31mspam|
C: EHLO probe.example.org
S: 250-mx.example.org
S: 250 STARTTLS
C: STARTTLS
S: 220 2.0.0 Go ahead
== starttls
C: EHLO probe.example.org
S: 250-mx.example.org
S: 250-SIZE 1000
S: 250 AUTH PLAIN LOGIN
C: AUTH PLAIN *
S: 235 2.7.0 Welcome
C: HELP
S: 214-Help
S: 214 yourself
C: MAIL FROM:<a@example.org>
S: 250 2.1.0 Ok
C: RCPT TO:<b@example.org>
S: 250 2.1.5 Ok
C: RCPT TO:<c@example.org>
S: 450 4.2.0 Greylisted
C: DATA
S: 354 Go ahead
C: <data>
S: 250 2.0.0 Ok: queued as 12345
C: QUIT
S: 221 2.0.0 Bye
"""

GOLDEN_TRANSCRIPT = """\
=== connected to 127.0.0.1 port {port}
<-  220-mx.example.org ESMTP
<-  220 no \\x1b[31mspam\\x7c
 -> EHLO probe.example.org
<-  250-mx.example.org
<-  250 STARTTLS
 -> STARTTLS
<-  220 2.0.0 Go ahead
=== TLS: {version}, {cipher}, certificate verified
 ~> EHLO probe.example.org
<~  250-mx.example.org
<~  250-SIZE 1000
<~  250 AUTH PLAIN LOGIN
 ~> AUTH PLAIN ***
<~  235 2.7.0 Welcome
 ~> HELP
<~  214-Help
<~  214 yourself
 ~> MAIL FROM:<a@example.org>
<~  250 2.1.0 Ok
 ~> RCPT TO:<b@example.org>
<~  250 2.1.5 Ok
 ~> RCPT TO:<c@example.org>
<~  450 4.2.0 Greylisted
*** RCPT TO:<c@example.org> refused for now: '450 4.2.0 Greylisted'
 ~> DATA
<~  354 Go ahead
{message}
 ~> .
<~  250 2.0.0 Ok: queued as 12345
 ~> QUIT
<~  221 2.0.0 Bye
"""


def golden_options(ca_file: Path) -> tuple[object, ...]:
    return (
        *("--tls", "starttls", "--ca-file", ca_file, "--helo", "probe.example.org", "--mechanism", "PLAIN"),
        *("--command", "HELP", "--mail-from", "a@example.org", "--rcpt-to", "b@example.org"),
        *("--rcpt-to", "c@example.org", "--send", "--subject", "golden", "--body", "first\n.second"),
    )


def test_the_transcript_has_every_line_of_the_conversation_in_the_marks_of_swaks(
    localhost_tls: tuple[ssl.SSLContext, Path], logs_in: LogsIn
) -> None:
    context, ca_file = localhost_tls
    with Scripted(GOLDEN_SCRIPT, tls=context) as server:
        outcome = check(server.port, *golden_options(ca_file), *logs_in(USER), "-vv")
        server.finish()
    assert server.errors == []
    assert outcome.state == "warning"
    (message,) = (heard for heard in server.heard[0] if isinstance(heard, bytes))
    shown = [f" ~> {line}" for line in message.decode().split("\r\n")[:-1]]
    assert " ~> ..second" in shown
    version, cipher = re.search(r"^tls: (.*), (.*), certificate verified$", outcome.output, re.MULTILINE).groups()
    expected = GOLDEN_TRANSCRIPT.format(port=server.port, version=version, cipher=cipher, message="\n".join(shown))
    assert transcript(outcome) == expected.splitlines()


KEYS = {
    "": "state exit_code summary perfdata protocol host port address elapsed timings problems notes tls certificate"
    " chain facts addresses transcript",
    "tls": "version cipher cipher_bits group alpn compression secure_renegotiation verified verify_error chain_complete"
    " chain_in_order chain_days",
    "certificate": "subject issuer names serial fingerprint_sha256 not_before not_after days_left lifetime_percent"
    " key_type key_bits signature_algorithm self_signed",
    "facts": "banner greeting_code capabilities auth_mechanisms mechanism login size_limit commands recipients"
    " message_id deliveries queue_id",
    "timings": "resolve connect greeting capabilities tls auth command mail rcpt data reset mailbox search quota script"
    " quit",
}


@pytest.mark.parametrize(
    ("service", "arguments"),
    [
        ("plain", ()),
        ("plain", ("--rcpt-to", ADDRESS, "-v")),
        ("plain", ("--rcpt-to", ELSEWHERE, "-vv")),
        ("plain", ("-w", "auth_time=1")),
        ("plain", ("-w", "time=0")),
        ("busy", ()),
        ("rejecting", ()),
        ("wrong_name", ("--tls", "starttls")),
    ],
)
def test_json_is_one_document_with_every_key_and_the_same_exit_code(
    postfix: Postfix, service: str, arguments: tuple[str, ...]
) -> None:
    port = postfix.ports[service]
    outcome = check(port, *arguments, "--json")
    assert outcome.output.count("\n") == 1
    assert outcome.errors == ""
    found = outcome.json
    for part, keys in KEYS.items():
        assert set(found[part] if part else found) == set(keys.split())
    assert outcome.code == found["exit_code"] == check(port, *arguments).code
    assert outcome.state == found["state"]
    assert (found["protocol"], found["host"], found["port"]) == ("smtp", "127.0.0.1", port)
    for problem in found["problems"]:
        assert set(problem) == {"code", "stage", "severity", "state", "message", "hint", "address"}
    assert outcome.output.isascii()


def test_json_and_text_tell_the_same(localhost_tls: tuple[ssl.SSLContext, Path], logs_in: LogsIn) -> None:
    context, ca_file = localhost_tls
    options = (*golden_options(ca_file), *logs_in(USER))
    with Scripted(GOLDEN_SCRIPT, tls=context) as server:
        text = check(server.port, *options, "-vv")
        found = report(check(server.port, *options, "--json"), "warning", "recipient-deferred")

    def neutral(lines: list[str]) -> list[str]:
        # What differs between two messages; a long Message-ID is folded.
        return [line for line in lines if not re.match(r" ~> (Date:|Message-ID:| <)", line)]

    assert neutral(found["transcript"]) == neutral(transcript(text))
    assert f"{found['summary']} | " in text.first_line
    facts = found["facts"]
    assert facts["banner"] == "mx.example.org ESMTP no \\x1b[31mspam\\x7c"
    assert facts["capabilities"] == ["SIZE 1000", "AUTH PLAIN LOGIN"]
    assert (facts["auth_mechanisms"], facts["mechanism"], facts["size_limit"]) == (["PLAIN", "LOGIN"], "PLAIN", 1000)
    assert facts["commands"] == [
        {"command": "HELP", "accepted": True, "code": 214, "enhanced": None, "text": "Help yourself"}
    ]
    assert facts["recipients"][1] == {
        "address": "c@example.org",
        "accepted": False,
        "code": 450,
        "enhanced": "4.2.0",
        "text": "4.2.0 Greylisted",
    }
    assert facts["queue_id"] == "12345"


def test_output_is_plain_where_the_terminal_knows_ascii_only() -> None:
    with Scripted("S: 220 mx.exämple.org\n== any") as server:
        env = {"PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0"}
        outcome = check_smtp("-H", "127.0.0.1", "-p", server.port, "-vv", env=env)
    assert outcome.code == 0
    assert r"'mx.ex\xe4mple.org'" in outcome.first_line
    assert outcome.errors == ""


@pytest.mark.parametrize("redirection", [">&-", ">/dev/full", "| true", "2>&-", "<&-"])
def test_the_exit_code_is_the_verdict_whatever_becomes_of_the_output(redirection: str) -> None:
    command = f'"$@" {redirection}; exit ${{PIPESTATUS[0]}}'
    with Scripted("S: 554 5.7.1 no\n== any") as server:
        check = (sys.executable, "-m", "nagios_checks.smtp", "-H", "127.0.0.1", "-p", str(server.port))
        outcome = run(["bash", "-c", command, "bash", *check])
    assert outcome.code == 2
    assert outcome.errors == ""


# 60 letters take this expression longer than the age of the universe.
ENDLESS = ("--command", "NOOP", "--response", "(x+x+)+y", "--timeout", "1")
SIXTY_LETTERS = f"S: 220 mx\nC: EHLO *\nS: 250 mx\nC: NOOP\nS: 250 {'x' * 60}\nC: QUIT\nS: 221 x"


def test_a_regular_expression_without_end_ends_with_the_time_limit() -> None:
    with Scripted(SIXTY_LETTERS) as server:
        outcome = check(server.port, *ENDLESS)
    assert outcome.code == 2
    assert outcome.first_line.startswith("SMTP CRITICAL - 127.0.0.1")
    assert outcome.seconds < 2 + NOISE_SECONDS
    assert outcome.errors == ""


def test_what_was_measured_is_not_lost_when_a_run_is_ended() -> None:
    with Scripted(SIXTY_LETTERS) as server:
        outcome = check(server.port, *ENDLESS)
    assert outcome.first_line.startswith(f"SMTP CRITICAL - 127.0.0.1:{server.port}: ")
    assert {"time", "connect_time", "greeting_time"} <= set(outcome.perfdata())


def test_a_run_that_is_ended_is_json_as_well_when_that_was_asked_for() -> None:
    with Scripted(SIXTY_LETTERS) as server:
        outcome = check(server.port, *ENDLESS, "--json")
    assert (outcome.code, outcome.json["state"]) == (2, "critical")


# The sessions of a guide to testing mail by hand, one command each.


def test_session_1_telnet_to_port_25_and_say_ehlo(postfix: Postfix) -> None:
    outcome = passes(check(postfix.plain, "--helo", "client.example.test", "-vv"))
    assert transcript(outcome)[1:] == [
        "<-  220 mail.example.test ESMTP Postfix",
        " -> EHLO client.example.test",
        *(line for line in transcript(outcome) if line.startswith("<-  250")),
        " -> QUIT",
        "<-  221 2.0.0 Bye",
    ]
    in_order(transcript(outcome), "<-  250-mail.example.test", "<-  250-PIPELINING", "<-  250-SIZE 10240000")


def test_session_2_send_a_mail_by_hand(postfix: Postfix) -> None:
    subject = f"by hand {uuid4()}"
    envelope = ("--mail-from", "me@example.test", "--rcpt-to", ADDRESS, "--send")
    outcome = passes(check(postfix.plain, *envelope, "--subject", subject, "--body", "Hello,\n\n.world", "-vv"))
    in_order(
        transcript(outcome),
        *("<-  220 ", " -> EHLO ", "<-  250 ", " -> MAIL FROM:<me@example.test>", "<-  250 2.1.0 Ok"),
        *(" -> RCPT TO:<user@example.test>", "<-  250 2.1.5 Ok", " -> DATA", "<-  354 End data with <CR><LF>.<CR><LF>"),
        *(" -> From: me@example.test", " -> To: user@example.test", f" -> Subject: {subject}"),
        *(" -> Hello,", " -> ..world", " -> .", "<-  250 2.0.0 Ok: queued as ", " -> QUIT", "<-  221 2.0.0 Bye"),
    )
    assert b"Hello,\n\n.world\n" in postfix.wait_for_mail(subject)


@pytest.mark.parametrize("server_name", ["postfix", "exim"])
def test_session_3_ask_with_vrfy_expn_help_and_noop(request: pytest.FixtureRequest, server_name: str) -> None:
    server = request.getfixturevalue(server_name)
    asked = ("VRFY postmaster@example.test", "EXPN staff", "HELP", "NOOP")
    options = (word for command in asked for word in ("--command", command, "--response", "^[25]"))
    outcome = passes(check(server.starttls, *options, "-vv"))
    in_order(
        transcript(outcome),
        *(
            "<-  220 ",
            " -> EHLO ",
            "<-  250 ",
            " -> VRFY postmaster@example.test",
            "<-  252 ",
            " -> EXPN staff",
            "<-  5",
        ),
        *(" -> HELP", "<-  ", " -> NOOP", "<-  250 ", " -> QUIT", "<-  221 "),
    )


@pytest.mark.parametrize("server_name", ["postfix", "exim"])
def test_session_4_an_open_relay_would_show(request: pytest.FixtureRequest, server_name: str) -> None:
    server = request.getfixturevalue(server_name)
    outcome = check(server.starttls, "--mail-from", "me@faraway.example", "--rcpt-to", ELSEWHERE, "-vv")
    assert outcome.code == 2
    refusal = {
        "postfix": "554 5.7.1 <somebody@elsewhere.example>: Relay access denied",
        "exim": "550 relay not permitted",
    }
    in_order(
        transcript(outcome),
        *(
            " -> MAIL FROM:<me@faraway.example>",
            "<-  250 ",
            f" -> RCPT TO:<{ELSEWHERE}>",
            f"<-  {refusal[server_name]}",
        ),
        *(
            f"*** RCPT TO:<{ELSEWHERE}> refused: '{refusal[server_name]}",
            " -> RSET",
            "<-  250 ",
            " -> QUIT",
            "<-  221 ",
        ),
    )


@pytest.mark.parametrize("mechanism", ["PLAIN", "LOGIN"])
@pytest.mark.parametrize("server_name", ["postfix", "exim"])
def test_session_5_log_in_by_hand_inside_starttls(
    request: pytest.FixtureRequest, ca: CertificateAuthority, logs_in: LogsIn, server_name: str, mechanism: str
) -> None:
    server = request.getfixturevalue(server_name)
    port = server.submission if server_name == "postfix" else server.starttls
    outcome = passes(check(port, *starttls(ca), *logs_in(USER), "--mechanism", mechanism, "-vv"))
    prompts = [base64.b64encode(words).decode() for words in (b"Username:", b"Password:")]
    exchange = {
        "PLAIN": (" ~> AUTH PLAIN ***",),
        "LOGIN": (" ~> AUTH LOGIN", f"<~  334 {prompts[0]}", " ~> ***", f"<~  334 {prompts[1]}", " ~> ***"),
    }
    in_order(
        transcript(outcome),
        *(
            "<-  220 ",
            " -> EHLO ",
            "<-  250-",
            " -> STARTTLS",
            "<-  220 ",
            "=== TLS: TLSv1.",
            " ~> EHLO ",
            "<~  250-AUTH PLAIN",
        ),
        *exchange[mechanism],
        *("<~  235 ", " ~> QUIT", "<~  221 "),
    )


@pytest.mark.parametrize("server_name", ["postfix", "exim"])
def test_session_6_s_client_to_port_465(
    request: pytest.FixtureRequest, ca: CertificateAuthority, server_name: str
) -> None:
    server = request.getfixturevalue(server_name)
    outcome = passes(check(server.implicit, *implicit(ca), "-vv", host="localhost"))
    lines = transcript(outcome)
    assert lines[1].startswith("=== TLS: TLSv1.")
    assert lines[1].endswith(", certificate verified")
    in_order(lines, "=== TLS: ", "<~  220 ", " ~> EHLO ", "<~  250-", " ~> QUIT", "<~  221 ")
    assert not [line for line in lines if line.startswith((" -> ", "<-  "))]
    assert re.search(r"^certificate: .*, issued by .*Testing CA", outcome.output, re.MULTILINE)


def test_session_7_lmtp_by_hand_over_a_unix_socket(dovecot: Dovecot) -> None:
    subject = f"lmtp by hand {uuid4()}"
    envelope = ("--helo", "mail.example.test", "--mail-from", "me@example.test", "--rcpt-to", ADDRESS)
    others = ("--rcpt-to", "postmaster@example.test", "--rcpt-to", "nobody@example.test")
    outcome = lmtp_check(dovecot, *envelope, *others, "--send", "--subject", subject, "-vv")
    assert outcome.code == 2
    in_order(
        transcript(outcome),
        *(f"=== connected to {dovecot.lmtp_socket}", "<-  220 ", " -> LHLO mail.example.test", "<-  250-", "<-  250 "),
        *(
            " -> MAIL FROM:<me@example.test>",
            "<-  250 2.1.0",
            " -> RCPT TO:<user@",
            "<-  250 2.1.5",
            " -> RCPT TO:<postm",
        ),
        *("<-  250 2.1.5", " -> RCPT TO:<nobody@", "<-  550 5.1.1 ", "*** RCPT TO:<nobody@", " -> DATA", "<-  354 "),
        *(f" -> Subject: {subject}", " -> .", "<-  250 2.0.0 <user@example.test> ", "<-  250 2.0.0 <postmaster@"),
        *(" -> QUIT", "<-  221 2.0.0"),
    )


# Dovecot's submission, a server of its own up to the login and a relay behind it.


@pytest.mark.parametrize("mechanism", ["PLAIN", "LOGIN", "CRAM-MD5", "SCRAM-SHA-1", "SCRAM-SHA-256"])
def test_a_login_at_dovecots_submission(
    submission: Dovecot, ca: CertificateAuthority, logs_in: LogsIn, mechanism: str
) -> None:
    named = ("--mechanism", mechanism, "--rcpt-to", ADDRESS)
    outcome = passes(check(submission.ports["submission"], *starttls(ca), *logs_in(AWKWARD_USER), *named))
    assert f"logged in with {mechanism}, 1 recipient accepted" in outcome.first_line


def test_a_message_goes_through_dovecots_submission(
    submission: Dovecot, exim: Exim, ca: CertificateAuthority, logs_in: LogsIn
) -> None:
    subject = "through Dovecot's submission"
    sent = ("--mail-from", USER.name, "--rcpt-to", ADDRESS, "--send", "--subject", subject)
    passes(check(submission.ports["submission"], *starttls(ca), *logs_in(USER), *sent))
    assert subject.encode() in exim.wait_for_mail(subject)


def test_a_wrong_password_at_dovecots_submission_is_refused(
    submission: Dovecot, ca: CertificateAuthority, tmp_path: Path
) -> None:
    wrong = tmp_path / "wrong"
    wrong.write_text("not the password\n")
    login = ("--username", USER.name, "--password-file", wrong)
    outcome = check(submission.ports["submission"], *starttls(ca), *login)
    assert outcome.code == 2
    assert "[auth-rejected]" in outcome.first_line

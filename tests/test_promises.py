"""What a mail host must refuse or offer, tried at real servers that do and at real ones that do not.

Servers that break a promise in every possible way, and those of which nothing can be learned, are in conversations/.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import pytest

from nagios_checks.demo.host import DemoHost

from .running import STATES, Outcome, check
from .scripted import Scripted
from .servers import USER, Server
from .servers.certificates import CertificateAuthority
from .servers.dovecot import NO_TLS, PASSWORD, READER, STRICT, Dovecot
from .servers.exim import Exim
from .servers.fixtures import running
from .servers.postfix import Postfix
from .test_certificates import TALK, inert
from .test_check_smtp import ADDRESS, ELSEWHERE, report, starttls

MAILBOX_SERVICES = {"imap": "imap", "pop3": "pop3", "sieve": "sieve", "submission": "smtp"}


def at(server: Server, service: str, *arguments: object, protocol: str = "smtp", host: str = "localhost") -> Outcome:
    where = ("-H", host, *(["-4"] if host == "localhost" else []), "-p", server.ports[service])
    return check(protocol, *where, *arguments, env={"PW": PASSWORD})


class PlainDovecot(Dovecot):
    """A Dovecot whose only mechanisms send the password as it is, so that before TLS it has none to offer."""

    def write(self, name: str, text: str) -> Path:
        if name == "dovecot.conf":
            lines = text.split("\n")
            lines = ["auth_mechanisms = plain login" if line.startswith("auth_mechanisms") else line for line in lines]
            text = "\n".join(lines)
        return super().write(name, text)


@pytest.fixture(scope="module")
def plain_dovecot(ca: CertificateAuthority) -> Iterator[Dovecot]:
    yield from running(PlainDovecot(ca))


@pytest.fixture(scope="module")
def demo() -> Iterator[DemoHost]:
    with DemoHost() as host:
        yield host


# Relaying.

RELAY = ("--refuse-rcpt", ELSEWHERE)


@pytest.mark.parametrize("server_name", ["postfix", "exim"])
@pytest.mark.parametrize(("service", "codes"), [("starttls", ()), ("open_relay", ("relay-not-refused",))])
def test_a_server_that_relays_for_everybody_is_found(
    request: pytest.FixtureRequest, ca: CertificateAuthority, server_name: str, service: str, codes: tuple[str, ...]
) -> None:
    server = request.getfixturevalue(server_name)
    state = "critical" if codes else "ok"
    for tls in ((), starttls(ca)):
        found = report(at(server, service, *RELAY, *tls, "--json"), state, *codes)
        assert f"RCPT TO:<{ELSEWHERE}>" in "\n".join(found["transcript"])
    assert not [mail for mail in server.delivered() if ELSEWHERE.encode() in mail]


def test_mail_for_ourselves_may_be_accepted_beside(postfix: Postfix) -> None:
    found = report(at(postfix, "plain", *RELAY, "--rcpt-to", ADDRESS, "--json"))
    assert [(said["address"], said["code"]) for said in found["facts"]["recipients"]] == [(ADDRESS, 250)]


def test_each_recipient_that_is_not_refused_is_named(postfix: Postfix) -> None:
    both = (*RELAY, "--refuse-rcpt", "friend@elsewhere.example")
    found = report(at(postfix, "open_relay", *both, "--json"), "critical", "relay-not-refused", "relay-not-refused")
    named = [problem["message"].split(" ")[2] for problem in found["problems"]]
    assert named == [ELSEWHERE, "friend@elsewhere.example"]


def test_relaying_is_tried_before_the_login_which_may_relay(postfix: Postfix, ca: CertificateAuthority) -> None:
    login = ("--username", USER.name, "--password-env", "PW", "--rcpt-to", ELSEWHERE)
    found = report(at(postfix, "submission", *starttls(ca), *login, "--json"))
    assert found["facts"]["recipients"][0]["code"] == 250
    for other in ("submission", "submissions"):
        tls = starttls(ca) if other == "submission" else ("--tls", "implicit", "--ca-file", ca.pem_path)
        login = ("--username", USER.name, "--password-env", "PW", "--rcpt-to", ADDRESS)
        found = report(at(postfix, other, *tls, *RELAY, *login, "--json"))
        said = [line for line in found["transcript"] if " ~> " in line]
        place = said.index(f" ~> RCPT TO:<{ELSEWHERE}>")
        assert any(line.startswith(" ~> AUTH ") for line in said[place:])


def test_a_server_that_greylists_has_not_refused(postfix: Postfix) -> None:
    report(at(postfix, "deferring", *RELAY, "--json"), "warning", "recipient-deferred")


def test_a_server_that_has_no_room_for_anybody_has_not_refused(postfix: Postfix) -> None:
    report(at(postfix, "full", *RELAY, "--json"), "warning", "sender-deferred")


def test_a_server_that_wants_a_login_first_has_refused(demo: DemoHost) -> None:
    where = ("-H", "localhost", "-4", "-p", demo.ports["submission"], "--tls", "starttls", "--ca-file", demo.ca_file)
    found = report(check("smtp", *where, *RELAY, "--json"))
    assert any("530" in line for line in found["transcript"])


# Logins without TLS.


@pytest.mark.parametrize("service", MAILBOX_SERVICES)
def test_a_dovecot_that_takes_no_password_before_tls_keeps_the_promise(
    plain_dovecot: Dovecot, ca: CertificateAuthority, service: str
) -> None:
    protocol = MAILBOX_SERVICES[service]
    options = (*starttls(ca), "--refuse-plaintext-login", "--json")
    found = report(at(plain_dovecot, service, *options, protocol=protocol, host=STRICT))
    assert "=== another connection: to see whether a login without TLS is refused" in found["transcript"]


@pytest.mark.parametrize("service", MAILBOX_SERVICES)
def test_a_dovecot_that_takes_passwords_before_tls_does_not(plain_dovecot: Dovecot, service: str) -> None:
    outcome = at(
        plain_dovecot, service, "--refuse-plaintext-login", "--json", protocol=MAILBOX_SERVICES[service], host=NO_TLS
    )
    found = report(outcome, "critical", "plaintext-login-not-refused")
    assert "is offered without TLS, by '" in found["problems"][0]["message"]


@pytest.mark.parametrize("service", ["imap", "pop3", "sieve"])
@pytest.mark.parametrize("server_name", ["dovecot", "cyrus"])
def test_a_login_that_hides_the_password_is_one_before_tls_all_the_same(
    request: pytest.FixtureRequest, ca: CertificateAuthority, server_name: str, service: str
) -> None:
    host = STRICT if server_name == "dovecot" else "localhost"
    options = (*starttls(ca), "--refuse-plaintext-login", "--json")
    outcome = at(request.getfixturevalue(server_name), service, *options, protocol=service, host=host)
    found = report(outcome, "critical", "plaintext-login-not-refused")
    assert "CRAM-MD5" in found["problems"][0]["message"]
    assert "PLAIN" not in found["problems"][0]["message"].replace("plaintext", "")


def test_submission_without_tls_is_found(postfix: Postfix, ca: CertificateAuthority) -> None:
    report(at(postfix, "submission", *starttls(ca), "--refuse-plaintext-login", "--json"))
    outcome = at(postfix, "plaintext_auth", "--refuse-plaintext-login", "--json")
    report(outcome, "critical", "plaintext-login-not-refused")


def test_exim_offers_a_login_inside_tls_only(exim: Exim, ca: CertificateAuthority) -> None:
    report(at(exim, "starttls", *starttls(ca), "--refuse-plaintext-login", "--json"))


@pytest.mark.parametrize("service", ["submission", "pop3", "imap"])
def test_the_demo_takes_no_login_before_tls(demo: DemoHost, service: str) -> None:
    protocol = MAILBOX_SERVICES[service]
    where = ("-H", "localhost", "-4", "-p", demo.ports[service], "--tls", "starttls", "--ca-file", demo.ca_file)
    report(check(protocol, *where, "--refuse-plaintext-login", "--json"))


REFUSALS = {"smtp": "530 no", "pop3": "-ERR no", "imap": "{tag} NO no", "sieve": "NO"}
CHALLENGES = {"smtp": "334 ", "pop3": "+ ", "imap": "+ ", "sieve": '""'}


@pytest.mark.parametrize("protocol", TALK)
@pytest.mark.parametrize("answers", [REFUSALS, CHALLENGES])
def test_neither_a_name_nor_a_password_is_said_where_a_login_must_be_refused(
    localhost_tls: tuple[object, Path], protocol: str, answers: dict[str, str]
) -> None:
    greeting, capabilities, begin = TALK[protocol]
    silent = capabilities
    for offer in (
        "S: 250 AUTH PLAIN LOGIN",
        "S: SASL PLAIN\n",
        "S: USER\n",
        " AUTH=PLAIN",
        'S: "SASL" "PLAIN"\n',
    ):
        silent = silent.replace(offer, "S: 250 HELP" if offer.startswith("S: 250") else "")
    silent = silent.replace("IMAP4rev1 STARTTLS", "IMAP4rev1 STARTTLS LOGINDISABLED")
    first = f"{greeting}\n{silent}\n{begin}\n== starttls\n{capabilities}\n== any {REFUSALS[protocol]}"
    second = f"{greeting}\n{silent}\n== any {answers[protocol]}"
    script = f"{first}\n--- next connection ---\n{second}\n"
    with Scripted(script, tls=localhost_tls[0]) as server:  # type: ignore[arg-type]
        where = ("-H", "localhost", "-4", "-p", server.port, "--tls", "starttls", "--ca-file", localhost_tls[1])
        login = ("--username", USER.name, "--password-env", "PW", "--refuse-plaintext-login")
        outcome = check(protocol, *where, *login, "--json", env={"PW": USER.password})
        server.finish()
    assert server.connections == 2
    assert outcome.errors == ""
    heard = server.heard_bytes[1]
    for secret in (USER.name, USER.password, USER.base64_password):
        assert secret.encode() not in heard
    assert b"PLAIN" in heard
    codes = [problem["code"] for problem in outcome.json["problems"]]
    assert ("plaintext-login-not-refused" in codes) is (answers is CHALLENGES)


# Versions of TLS.


@pytest.mark.parametrize(
    ("service", "version", "refused"),
    [
        ("from_tls1", "TLSv1", False),
        ("from_tls1", "TLSv1.1", False),
        ("from_tls1_2", "TLSv1", True),
        ("from_tls1_2", "TLSv1.1", True),
        ("from_tls1_2", "TLSv1.2", False),
        ("from_tls1_3", "TLSv1.2", True),
        ("from_tls1_3", "TLSv1.3", False),
        ("tls1_2", "TLSv1.3", True),
    ],
)
def test_a_version_of_tls_that_is_spoken_is_found(
    postfix: Postfix, dovecot: Dovecot, ca: CertificateAuthority, service: str, version: str, refused: bool
) -> None:
    outcomes = []
    for mode in ("starttls", "implicit"):
        where = ("-H", "localhost", "-4", "-p", postfix.tls_port(service, mode == "implicit"))
        options = ("--tls", mode, "--ca-file", ca.pem_path, "--refuse-tls", version, "--json")
        outcomes.append(check("smtp", *where, *options))
    if service != "tls1_2":
        where = ("-H", dovecot.tls_address(service), "-p", dovecot.imap)
        outcomes.append(check("imap", *where, *starttls(ca), "--refuse-tls", version, "--json"))
        where = ("-H", dovecot.tls_address(service), "-p", dovecot.pop3s)
        options = ("--tls", "implicit", "--ca-file", ca.pem_path, "--refuse-tls", version, "--json")
        outcomes.append(check("pop3", *where, *options))
    for outcome in outcomes:
        found = report(outcome, *(("ok",) if refused else ("critical", "tls-not-refused")))
        assert f"=== another connection: to see whether {version} is refused" in found["transcript"]
        if not refused:
            assert f"a handshake with {version} succeeds" in found["problems"][0]["message"]


def test_each_version_is_tried_by_itself(postfix: Postfix, ca: CertificateAuthority) -> None:
    versions = [word for version in ("TLSv1", "TLSv1.1", "TLSv1.2") for word in ("--refuse-tls", version)]
    where = ("-H", "localhost", "-4", "-p", postfix.tls_port("from_tls1"))
    outcome = check("smtp", *where, *starttls(ca), *versions, "--json")
    report(outcome, "critical", "tls-not-refused", "tls-not-refused", "tls-not-refused")


def test_a_version_is_found_behind_a_bad_certificate_as_well(postfix: Postfix, ca: CertificateAuthority) -> None:
    where = ("-H", "localhost", "-4", "-p", postfix.tls_port("expired"))
    outcome = check("smtp", *where, *starttls(ca), "--refuse-tls", "TLSv1.2", "--json")
    report(outcome, "critical", "certificate-expired", "tls-not-refused")


# Commands behind STARTTLS.


@pytest.mark.parametrize(
    ("server_name", "service", "protocol"),
    [
        ("postfix", "starttls", "smtp"),
        ("exim", "starttls", "smtp"),
        *(("dovecot", service, protocol) for service, protocol in MAILBOX_SERVICES.items()),
        *(("cyrus", service, service) for service in ("imap", "pop3", "sieve")),
    ],
)
def test_servers_as_packaged_do_not_answer_what_came_behind_starttls(
    request: pytest.FixtureRequest, ca: CertificateAuthority, server_name: str, service: str, protocol: str
) -> None:
    server = request.getfixturevalue(server_name)
    options = (*starttls(ca), "--refuse-starttls-injection", "--json")
    found = report(at(server, service, *options, protocol=protocol))
    assert "=== another connection: to see whether a command behind STARTTLS is refused" in found["transcript"]


@pytest.mark.parametrize(("service", "protocol"), [("smtp", "smtp"), ("pop3", "pop3"), ("imap", "imap")])
def test_the_demo_falls_for_what_came_behind_starttls(demo: DemoHost, service: str, protocol: str) -> None:
    where = ("-H", "localhost", "-4", "-p", demo.ports[service], "--tls", "starttls", "--ca-file", demo.ca_file)
    outcome = check(protocol, *where, "--refuse-starttls-injection", "--json")
    report(outcome, "critical", "injection-not-refused")


# Bare newlines.


class StrictPostfix(Postfix):
    """A Postfix with a value for smtpd_forbid_bare_newline, which up to 3.8 is off where nobody turns it on."""

    def __init__(self, ca: CertificateAuthority, auth_socket: Path, value: str) -> None:
        super().__init__(ca, auth_socket)
        self.value = value

    def write(self, name: str, text: str) -> Path:
        if name == "main.cf":
            text += f"smtpd_forbid_bare_newline = {self.value}\n"
        return super().write(name, text)


@pytest.fixture(scope="module", params=["no", "normalize", "reject"])
def strict_postfix(
    request: pytest.FixtureRequest, ca: CertificateAuthority, dovecot: Dovecot
) -> Iterator[StrictPostfix]:
    yield from running(StrictPostfix(ca, dovecot.auth_socket, request.param))


ENDS = ("<LF>.<LF>", "<LF>.<CRLF>", "<LF>.<CR><CR><LF>", "<CR>.<CR>", "<CR>.<CRLF>")
SEND_NEWLINES = ("--rcpt-to", ADDRESS, "--send", "--refuse-bare-newline", "--json")


def test_postfix_ends_no_message_at_a_bare_newline_where_it_is_told_so(strict_postfix: StrictPostfix) -> None:
    subject = f"bare {uuid4()}"
    outcome = at(strict_postfix, "starttls", *SEND_NEWLINES, "--subject", subject)
    if strict_postfix.value == "no":
        found = report(outcome, "critical", *["bare-newline-not-refused"] * 3)
        assert [problem["message"].partition(" ")[0] for problem in found["problems"]] == list(ENDS[:3])
    else:
        found = report(outcome)
    for end in ENDS:
        assert f"=== another connection: to see whether {end} ends a message" in found["transcript"]
        assert sum(line == f" -> Subject: {subject}: {end}" for line in found["transcript"]) == 1
    refusals = [line for line in found["transcript"] if line.startswith("<-  5") and "bare <LF> received" in line]
    assert len(refusals) == (3 if strict_postfix.value == "reject" else 0)


def test_exim_as_packaged_ends_no_message_at_a_bare_newline(exim: Exim) -> None:
    found = report(at(exim, "starttls", *SEND_NEWLINES))
    for end in ENDS:
        assert f"=== another connection: to see whether {end} ends a message" in found["transcript"]


def test_the_lmtp_of_dovecot_falls_for_bare_newlines(dovecot: Dovecot) -> None:
    # 2.3 has no setting for it: Dovecot trusts whoever speaks LMTP to it.
    found = report(at(dovecot, "lmtp", "--lmtp", *SEND_NEWLINES), "critical", *["bare-newline-not-refused"] * 2)
    assert [problem["message"].partition(" ")[0] for problem in found["problems"]] == list(ENDS[:2])


def test_bare_newlines_are_sent_over_tls_and_behind_a_login(postfix: Postfix, ca: CertificateAuthority) -> None:
    login = ("--username", USER.name, "--password-env", "PW", "--mail-from", ADDRESS)
    options = (*starttls(ca), *login, "--rcpt-to", ADDRESS, "--send", "--refuse-bare-newline", "--json")
    with postfix.logged() as lines:
        outcome = at(postfix, "submission", *options)
    assert outcome.errors == ""
    assert outcome.json["facts"]["login"] == "accepted"
    transcript = "\n".join(outcome.json["transcript"])
    assert transcript.count(" ~> AUTH ") == transcript.count(" ~> DATA") == 6
    assert " -> DATA" not in transcript
    assert sum(": connect from" in line for line in lines) == 6


def test_nothing_is_sent_and_nobody_logs_in_over_a_bad_certificate(postfix: Postfix, ca: CertificateAuthority) -> None:
    where = ("-H", "localhost", "-4", "-p", postfix.tls_port("expired"))
    options = (*starttls(ca), "--rcpt-to", ADDRESS, "--send", "--refuse-bare-newline", "--json")
    with postfix.logged() as lines:
        outcome = check("smtp", *where, *options)
    report(outcome, "critical", "certificate-expired")
    assert not [line for line in lines if "message-id=" in line]


# Capabilities.


@pytest.mark.parametrize(
    ("service", "offered"),
    [
        ("imap", "idle"),
        ("imap", "AUTH=PLAIN"),
        ("pop3", "SASL PLAIN"),
        ("pop3", "uidl"),
        ("sieve", "SIEVE fileinto vacation"),
        ("sieve", "VERSION"),
        ("submission", "AUTH PLAIN"),
        ("submission", "auth login plain"),
    ],
)
def test_a_capability_can_be_required_and_refused(
    dovecot: Dovecot, ca: CertificateAuthority, service: str, offered: str
) -> None:
    protocol = MAILBOX_SERVICES[service]
    options = (*starttls(ca), "--json")
    report(at(dovecot, service, *options, "--require-capability", offered, protocol=protocol))
    outcome = at(dovecot, service, *options, "--refuse-capability", offered, protocol=protocol)
    report(outcome, "critical", "capability-not-refused")
    words = f"{offered} XYZZY"
    report(at(dovecot, service, *options, "--refuse-capability", words, protocol=protocol))
    outcome = at(dovecot, service, *options, "--require-capability", words, protocol=protocol)
    report(outcome, "critical", "capability-missing")


@pytest.mark.parametrize("service", MAILBOX_SERVICES)
def test_what_is_offered_before_tls_only_is_not_offered(
    dovecot: Dovecot, ca: CertificateAuthority, service: str
) -> None:
    protocol = MAILBOX_SERVICES[service]
    name = "STLS" if protocol == "pop3" else "STARTTLS"
    found = at(dovecot, service, *starttls(ca), "--require-capability", name, "--json", protocol=protocol)
    report(found, "critical", "capability-missing")


def test_in_imap_what_is_offered_after_the_login_counts_where_there_is_one(
    dovecot: Dovecot, ca: CertificateAuthority
) -> None:
    required = (*starttls(ca), "--require-capability", "QUOTA", "--json")
    report(at(dovecot, "imap", *required, protocol="imap"), "critical", "capability-missing")
    login = ("--username", READER, "--password-env", "PW")
    report(at(dovecot, "imap", *required, *login, protocol="imap"))
    for name in ("QUOTA", "AUTH=PLAIN"):  # after it, and before
        outcome = at(dovecot, "imap", *starttls(ca), *login, "--refuse-capability", name, "--json", protocol="imap")
        report(outcome, "critical", "capability-not-refused")


# What cannot be asked.

SENDING = ("--rcpt-to", ADDRESS, "--send")
WITH_LOGIN = ("--username", "probe", "--password-env", "PW")


@pytest.mark.parametrize("protocol", TALK)
@pytest.mark.parametrize(
    ("option", "arguments"),
    [
        ("--refuse-starttls-injection", ("--refuse-starttls-injection",)),
        ("--refuse-starttls-injection", ("--refuse-starttls-injection", "--tls", "implicit")),
        ("--refuse-tls", ("--refuse-tls", "TLSv1")),
        ("--refuse-tls", ("--refuse-tls", "SSLv3", "--tls", "starttls")),
        ("--refuse-plaintext-login", ("--refuse-plaintext-login", "--tls", "implicit")),
        ("--refuse-plaintext-login", ("--refuse-plaintext-login", *WITH_LOGIN, "--allow-plaintext-login")),
        ("--require-capability", ("--require-capability", " ")),
        ("--refuse-capability", ("--refuse-capability", "")),
        ("--refuse-capability", ("--refuse-capability", "auth  plain", "--require-capability", "AUTH PLAIN")),
    ],
)
def test_a_promise_that_makes_no_sense_is_refused_in_every_protocol(
    protocol: str, option: str, arguments: tuple[str, ...]
) -> None:
    with Scripted(f"{TALK[protocol][0] or 'S: OK'}\n== any x") as server:
        outcome = check(protocol, "-H", "127.0.0.1", "-p", server.port, *arguments, env={"PW": PASSWORD})
    assert outcome.code == 3, outcome.output
    assert outcome.output.startswith(f"{protocol.upper()} UNKNOWN - {option}: ")
    assert server.connections == 0


@pytest.mark.parametrize(
    ("option", "arguments"),
    [
        ("--refuse-rcpt", ("--refuse-rcpt", ADDRESS, "--rcpt-to", f"<{ADDRESS}>")),
        ("--refuse-rcpt", ("--refuse-rcpt", "no address")),
        ("--refuse-rcpt", ("--refuse-rcpt", f"{ADDRESS}\r\nDATA")),
        ("--refuse-bare-newline", ("--refuse-bare-newline",)),
        ("--refuse-bare-newline", ("--refuse-bare-newline", "--rcpt-to", ADDRESS)),
        (
            "--refuse-bare-newline",
            ("--refuse-bare-newline", *SENDING, *WITH_LOGIN, "--tls", "starttls", "--expect-login-refused"),
        ),
    ],
)
def test_a_promise_of_smtp_that_makes_no_sense_is_refused(option: str, arguments: tuple[str, ...]) -> None:
    with Scripted("S: 220 x\n== any") as server:
        outcome = check("smtp", "-H", "127.0.0.1", "-p", server.port, *arguments, env={"PW": PASSWORD})
    assert outcome.code == 3, outcome.output
    assert outcome.output.startswith(f"SMTP UNKNOWN - {option}: ")
    assert server.connections == 0


@pytest.mark.parametrize("protocol", ["pop3", "imap", "sieve"])
@pytest.mark.parametrize("option", ["--refuse-rcpt", "--refuse-bare-newline", "--require-name-agreement"])
def test_the_promises_of_smtp_are_none_of_others(protocol: str, option: str) -> None:
    outcome = check(protocol, "-H", "localhost", option, *([ADDRESS] if option == "--refuse-rcpt" else []))
    assert outcome.code == 3
    assert f"{option}: there is no such option" in outcome.output


# States.


@pytest.mark.parametrize("state", STATES)
def test_a_finding_means_what_its_state_says(postfix: Postfix, state: str) -> None:
    options = (*RELAY, "--state", f"relay-not-refused={state}")
    outcome = at(postfix, "open_relay", *options)
    assert outcome.state == state
    assert outcome.first_line.startswith(f"SMTP {state.upper()} - ")
    found = at(postfix, "open_relay", *options, "--json")
    problem = report(found, state, "relay-not-refused")["problems"][0]
    assert (problem["state"], problem["severity"]) == (state, "failure")
    assert f"[{state}] relay-not-refused at rcpt: mail for" in at(postfix, "open_relay", *options, "-v").output


def test_a_state_is_for_its_own_code_only_and_the_last_word_counts(postfix: Postfix) -> None:
    options = (*RELAY, "--rcpt-to", "nobody@example.test", "--state", "recipient-refused=warning", "--json")
    report(at(postfix, "starttls", *options), "warning", "recipient-refused")
    report(at(postfix, "starttls", *options, "--state", "recipient-refused=unknown"), "unknown", "recipient-refused")
    outcome = at(postfix, "starttls", *options, "--expect", "Exim", "--state", "recipient-refused=ok")
    report(outcome, "critical", "greeting-unexpected", "recipient-refused")


def test_a_state_holds_for_the_findings_of_the_other_connections_too(
    demo: DemoHost, postfix: Postfix, ca: CertificateAuthority
) -> None:
    where = ("-H", "localhost", "-4", "-p", demo.ports["imap"], "--tls", "starttls", "--ca-file", demo.ca_file)
    options = ("--refuse-starttls-injection", "--state", "injection-not-refused=warning", "--json")
    report(check("imap", *where, *options), "warning", "injection-not-refused")
    where = ("-H", "localhost", "-4", "-p", postfix.tls_port("hopeless"))
    codes = ("certificate-unknown-issuer", "certificate-expired", "certificate-wrong-name")
    states = [word for code in codes for word in ("--state", f"{code}=ok")]
    report(check("smtp", *where, *starttls(ca), *states, "--json"), "ok", *codes)
    report(check("smtp", *where, *starttls(ca), *states[:4], "--json"), "critical", *codes)


def test_a_critical_finding_wins_over_an_unknown_one(postfix: Postfix) -> None:
    both = (*RELAY, "--expect", "Exim", "--state", "greeting-unexpected=unknown", "--json")
    report(at(postfix, "open_relay", *both), "critical", "greeting-unexpected", "relay-not-refused")


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ("timeot=ok", "did you mean timeout?"),
        ("certificate-expire=ok", "did you mean certificate-expired?"),
        ("xyzzy=ok", "is no code of a finding"),
        ("=ok", "is no code of a finding"),
        ("timeout=fine", "is none of critical, warning, unknown, ok"),
        ("timeout=OK", "is none of"),
        ("timeout=", "is none of"),
        ("timeout", "is not a code and a state"),
        ("timeout=ok=warning", "is none of"),
        ("", "is not a code and a state"),
    ],
)
def test_what_is_no_code_and_state_is_refused(value: str, words: str) -> None:
    with Scripted("S: 220 x\n== any") as server:
        outcome = check("smtp", "-H", "127.0.0.1", "-p", server.port, "--state", value)
    assert outcome.code == 3
    assert outcome.output.startswith("SMTP UNKNOWN - --state: ")
    assert words in outcome.output
    assert server.connections == 0


# Everything at once.


@pytest.mark.parametrize("more", ["-v", "-vv", "--json"])
def test_all_promises_at_once_are_told_inertly(demo: DemoHost, more: str) -> None:
    where = ("-H", "localhost", "-4", "-p", demo.ports["smtp"], "--tls", "starttls", "--ca-file", demo.ca_file)
    promises = (
        *("--refuse-plaintext-login", "--refuse-tls", "TLSv1.2", "--refuse-tls", "TLSv1.3"),
        *("--refuse-starttls-injection", "--refuse-rcpt", ELSEWHERE, "--require-capability", "XYZZY"),
        *("--refuse-capability", "SIZE", "--rcpt-to", "postmaster@demo.example", "--send", "--refuse-bare-newline"),
    )
    outcome = check("smtp", *where, *promises, more)
    assert outcome.state == "critical"
    assert outcome.errors == ""
    inert(outcome.output)
    for code in ("capability-missing", "capability-not-refused", "tls-not-refused", "injection-not-refused"):
        assert code in outcome.output
    assert outcome.output.count("|") == (0 if more == "--json" else 1)

"""The servers of the tests behave as their table says, as seen by Python's own mail clients."""

from __future__ import annotations

import imaplib
import poplib
import smtplib
import socket
import ssl
import uuid
from base64 import b64decode, b64encode

import dns.message
import dns.query
import dns.resolver
import pytest

from .servers import AWKWARD_USER, DOMAIN, LOGINS, Login, loopback_addresses, sasl
from .servers.dovecot import FULL, MECHANISMS, SMALL, SMALL_BYTES
from .servers.nsd import NOBODY, NameServer

pytestmark = pytest.mark.once

USER = f"user@{DOMAIN}"
SENDER = "probe@elsewhere.example"
STRANGER = "user@elsewhere.example"


@pytest.fixture
def context(ca) -> ssl.SSLContext:
    return ssl.create_default_context(cafile=str(ca.pem_path))


def send(smtp: smtplib.SMTP) -> str:
    """Send a mail to the user; returns its subject, which no other mail has."""
    subject = f"Test {uuid.uuid4()}"
    smtp.sendmail(SENDER, USER, f"Subject: {subject}\r\n\r\nHello\r\n")
    return subject


def refusal(smtp: smtplib.SMTP, recipient: str = USER) -> str:
    """The first answer to a transaction that is not a good one, as one line."""
    smtp.ehlo()
    for command in (f"MAIL FROM:<{SENDER}>", f"RCPT TO:<{recipient}>"):
        code, text = smtp.docmd(command)
        if code != 250:
            return f"{code} {text.decode()}"
    return ""


def log_in(smtp: smtplib.SMTP, mechanism: str, login: Login) -> int:
    """Log in, by hand because smtplib's own logins know only ASCII; returns the code of the last answer."""
    turns = sasl.client(mechanism, login)
    first = next(turns)
    code, answer = smtp.docmd(f"AUTH {mechanism}", "" if first is None else b64encode(first).decode())
    while code == 334:
        code, answer = smtp.docmd(b64encode(turns.send(b64decode(answer)) or b"").decode())
    return code


# Postfix


@pytest.mark.parametrize("address", loopback_addresses())
def test_postfix_takes_mail_for_its_mailboxes(postfix, address):
    with smtplib.SMTP(address, postfix.plain) as smtp:
        subject = send(smtp)
        assert {"starttls", "auth"}.isdisjoint(smtp.esmtp_features)
        assert smtp.esmtp_features["size"] == "10240000"
    assert b"Hello" in postfix.wait_for_mail(subject)


def test_postfix_logs_whether_the_client_had_manners(postfix):
    with postfix.logged() as good, smtplib.SMTP("127.0.0.1", postfix.plain) as smtp:
        smtp.noop()
    assert "disconnect from" in good[-1]
    assert not any("lost connection" in line for line in good)
    with postfix.logged() as bad, socket.create_connection(("127.0.0.1", postfix.plain)) as connection:
        connection.recv(1000)
    assert any("lost connection after CONNECT" in line for line in bad)


@pytest.mark.parametrize(
    ("service", "recipient", "answer"),
    [
        ("plain", f"nobody@{DOMAIN}", "550 5.1.1 "),
        ("plain", STRANGER, "554 5.7.1 "),
        ("submission", USER, "530 5.7.0 "),
        ("plaintext_auth", USER, "554 5.7.1 "),
        ("refusing", USER, "550 5.7.1 "),
        ("refusing", STRANGER, "550 5.7.1 "),
        ("deferring", USER, "450 4.7.1 "),
        ("full", USER, "452 4.3.1 "),
    ],
)
def test_postfix_refuses(postfix, service, recipient, answer):
    with smtplib.SMTP("127.0.0.1", postfix.ports[service]) as smtp:
        assert refusal(smtp, recipient).startswith(answer)


def test_postfix_relays_for_everybody_on_one_port_only(postfix):
    for service, answer in (("plain", "554 "), ("starttls", "554 "), ("open_relay", "")):
        with smtplib.SMTP("127.0.0.1", postfix.ports[service]) as smtp:
            assert refusal(smtp, STRANGER)[: len("550 ")] == answer
            assert answer or smtp.data("Subject: through an open relay\r\n\r\nHello\r\n")[0] == 250


@pytest.mark.parametrize(("service", "code"), [("busy", 421), ("rejecting", 554)])
def test_postfix_refuses_the_client_in_the_greeting(postfix, service, code):
    with pytest.raises(smtplib.SMTPConnectError) as error:
        smtplib.SMTP("127.0.0.1", postfix.ports[service])
    assert error.value.smtp_code == code


def test_postfix_answers_on_a_unix_socket(postfix):
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(str(postfix.socket_path))
        assert connection.recv(1000).startswith(b"220 ")
        connection.sendall(b"QUIT\r\n")
        assert connection.recv(1000).startswith(b"221 ")


@pytest.mark.parametrize("host", ["localhost", *loopback_addresses()])
def test_postfix_has_a_good_certificate(postfix, context, host):
    with smtplib.SMTP(host, postfix.starttls) as smtp:
        smtp.starttls(context=context)
        assert refusal(smtp) == ""
    with smtplib.SMTP_SSL(host, postfix.implicit, context=context) as smtp:
        assert refusal(smtp) == ""


@pytest.mark.parametrize(
    ("service", "reason"),
    [
        ("expired", "certificate has expired"),
        ("wrong_name", "Hostname mismatch"),
        ("unknown_issuer", "unable to get local issuer certificate"),
        ("selfsigned", "self.signed certificate"),
    ],
)
def test_postfix_has_a_bad_certificate(postfix, context, service, reason):
    smtp = smtplib.SMTP("localhost", postfix.ports[service])
    with smtp, pytest.raises(ssl.SSLCertVerificationError, match=reason):
        smtp.starttls(context=context)


@pytest.mark.parametrize("login", LOGINS)
@pytest.mark.parametrize("mechanism", ["PLAIN", "LOGIN", "CRAM-MD5", "SCRAM-SHA-1", "SCRAM-SHA-256"])
@pytest.mark.parametrize("service", ["submission", "submissions", "plaintext_auth"])
def test_postfix_lets_users_log_in(postfix, context, service, mechanism, login):
    if service == "submissions":
        smtp = smtplib.SMTP_SSL("localhost", postfix.submissions, context=context)
    else:
        smtp = smtplib.SMTP("localhost", postfix.ports[service])
    with smtp:
        smtp.ehlo()
        if service == "submission":
            assert "auth" not in smtp.esmtp_features
            smtp.starttls(context=context)
            smtp.ehlo()
        assert mechanism in smtp.esmtp_features["auth"].split()
        assert log_in(smtp, mechanism, login) == 235
        assert refusal(smtp, STRANGER) == ""


def test_postfix_offers_what_dovecot_does(postfix):
    """Except for what only another protocol or a client certificate would make sense of."""
    with smtplib.SMTP("localhost", postfix.plaintext_auth) as smtp:
        smtp.ehlo()
        offered = set(smtp.esmtp_features["auth"].lower().split())
    assert offered == set(MECHANISMS) - {"apop", "external"}


@pytest.mark.parametrize("mechanism", ["OAUTHBEARER", "XOAUTH2"])
def test_postfix_lets_in_who_has_a_token(postfix, dovecot, mechanism):
    for token, code in ((dovecot.token(USER), 235), ("rubbish", 535)):
        with smtplib.SMTP("localhost", postfix.plaintext_auth) as smtp:
            smtp.ehlo()
            assert log_in(smtp, mechanism, Login(USER, token)) == code


def test_postfix_refuses_a_wrong_password(postfix):
    with smtplib.SMTP("localhost", postfix.plaintext_auth) as smtp:
        smtp.ehlo()
        assert log_in(smtp, "PLAIN", Login(AWKWARD_USER.name, "wrong")) == 535


# Dovecot


def test_dovecot_takes_mail_for_its_mailboxes(dovecot):
    for host in (*loopback_addresses(), str(dovecot.lmtp_socket)):
        with smtplib.LMTP(host, dovecot.lmtp) as lmtp:
            assert b"Hello" in dovecot.wait_for_mail(send(lmtp))


@pytest.mark.parametrize(("recipient", "answer"), [(f"nobody@{DOMAIN}", "550 5.1.1 "), (FULL, "552 5.2.2 ")])
def test_dovecot_refuses_the_recipient(dovecot, recipient, answer):
    with smtplib.LMTP("127.0.0.1", dovecot.lmtp) as lmtp:
        assert refusal(lmtp, recipient).startswith(answer)


def test_dovecot_refuses_a_mail_that_is_too_large_for_the_mailbox(dovecot):
    with smtplib.LMTP("127.0.0.1", dovecot.lmtp) as lmtp:
        assert refusal(lmtp, SMALL) == ""
        code, text = lmtp.data("x" * SMALL_BYTES)
    assert (code, text.split()[0]) == (552, b"5.2.2")


@pytest.mark.parametrize("login", LOGINS)
def test_dovecot_lets_users_read_their_mail(dovecot, context, login):
    for imap in (
        imaplib.IMAP4("localhost", dovecot.imap),
        imaplib.IMAP4_SSL("localhost", dovecot.imaps, ssl_context=context),
    ):
        with imap:
            assert "STARTTLS" in imap.capabilities or isinstance(imap, imaplib.IMAP4_SSL)
            assert imap.authenticate("PLAIN", lambda _: f"\0{login.name}\0{login.password}".encode())[0] == "OK"
    for pop in (poplib.POP3("localhost", dovecot.pop3), poplib.POP3_SSL("localhost", dovecot.pop3s, context=context)):
        pop.encoding = "utf-8"
        pop.user(login.name)
        assert pop.pass_(login.password).startswith(b"+OK")
        pop.quit()


def test_dovecot_speaks_managesieve(dovecot):
    with socket.create_connection(("127.0.0.1", dovecot.sieve), timeout=5) as connection:
        connection.sendall(b"LOGOUT\r\n")
        answers = connection.makefile("rb").read().splitlines()
    assert b'"STARTTLS"' in answers
    assert answers[-1].startswith(b"OK ")


# Exim


@pytest.mark.parametrize("host", ["localhost", *loopback_addresses()])
def test_exim_takes_mail_for_its_mailboxes(exim, context, host):
    for service in ("starttls", "implicit"):
        with exim_client(exim, context, service, host) as smtp:
            assert b"Hello" in exim.wait_for_mail(send(smtp))


@pytest.mark.parametrize("login", LOGINS)
@pytest.mark.parametrize("mechanism", ["PLAIN", "LOGIN"])
def test_exim_lets_users_log_in(exim, context, mechanism, login):
    with exim_client(exim, context, "implicit") as smtp:
        smtp.ehlo()
        assert sorted(smtp.esmtp_features["auth"].split()) == ["LOGIN", "PLAIN"]
        assert log_in(smtp, mechanism, Login(login.name, "wrong")) == 535
        assert log_in(smtp, mechanism, login) == 235
        assert refusal(smtp, STRANGER) == ""


@pytest.mark.parametrize("recipient", [f"nobody@{DOMAIN}", STRANGER])
def test_exim_refuses_the_recipient(exim, recipient):
    with smtplib.SMTP("127.0.0.1", exim.starttls) as smtp:
        assert refusal(smtp, recipient).startswith("550 ")
        assert "auth" not in smtp.esmtp_features


def test_exim_relays_for_everybody_on_one_port_only(exim):
    for service, answer in (("starttls", "550 "), ("open_relay", "")):
        with smtplib.SMTP("127.0.0.1", exim.ports[service]) as smtp:
            assert refusal(smtp, STRANGER)[: len("550 ")] == answer
            assert "starttls" in smtp.esmtp_features
            assert answer or smtp.data("Hello\r\n")[0] == 250


def exim_client(exim, context: ssl.SSLContext, service: str, host: str = "localhost") -> smtplib.SMTP:
    if service == "implicit":
        return smtplib.SMTP_SSL(host, exim.implicit, context=context)
    smtp = smtplib.SMTP(host, exim.starttls)
    smtp.starttls(context=context)
    return smtp


# NSD


@pytest.fixture
def resolver(name_server) -> dns.resolver.Resolver:
    resolver = dns.resolver.Resolver(configure=False)
    host, _, port = name_server.address.rpartition(":")
    resolver.nameservers, resolver.port = [host], int(port)
    return resolver


@pytest.mark.parametrize("tcp", [False, True])
@pytest.mark.parametrize(
    ("name", "kind", "records"),
    [
        ("mail", "A", ["127.0.0.1"]),
        ("cluster", "A", ["127.0.0.1", "127.0.0.2", "127.0.0.3", "127.0.0.4"]),
        ("half", "A", ["127.0.0.1", NOBODY]),
        ("both", "AAAA", ["::1"]),
        ("_submission._tcp", "SRV", ["0 1 587 mail.example.test."]),
        ("_pop3._tcp", "SRV", ["0 0 0 ."]),
        ("no-mail", "MX", ["0 ."]),
    ],
)
def test_nsd_serves_the_zone(resolver, name, kind, records, tcp):
    assert sorted(record.to_text() for record in resolver.resolve(f"{name}.{DOMAIN}", kind, tcp=tcp)) == records


@pytest.mark.parametrize(
    ("address", "name"), [("127.0.0.1", "mail"), ("127.0.0.2", "other"), ("::1", "both"), ("127.0.0.3", None)]
)
def test_nsd_knows_names_of_addresses(resolver, address, name):
    if name is None:
        with pytest.raises(dns.resolver.NXDOMAIN):
            resolver.resolve_address(address)
        return
    assert [record.to_text() for record in resolver.resolve_address(address)] == [f"{name}.{DOMAIN}."]
    forward = resolver.resolve(f"{name}.{DOMAIN}", "AAAA" if ":" in address else "A")
    assert (address in [record.to_text() for record in forward]) == (name != "other")


def test_nsd_serves_the_zones_of_a_test(name_server):
    with NameServer({"test": "@ TXT hello"}) as server:
        assert server.dns != name_server.dns
        answer = dns.query.udp(dns.message.make_query("test", "TXT"), "127.0.0.1", port=server.dns, timeout=5)
        assert answer.answer[0][0].to_text() == '"hello"'


def test_nsd_says_what_is_wrong_with_a_zone(name_server):
    with pytest.raises(RuntimeError, match="unrecognized RR type 'rubbish'"):
        NameServer({"test": "@ rubbish"}).start()

"""Each service of the embedded demo mail host answers as its name says, and the host leaves nothing behind."""

from __future__ import annotations

import email
import email.utils
import imaplib
import os
import poplib
import re
import signal
import smtplib
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from nagios_checks.demo import USER
from nagios_checks.demo.host import DemoError, DemoHost

pytestmark = pytest.mark.once

MAIL = "Subject: hello\r\n\r\nIt works.\r\n"


@pytest.fixture(scope="module")
def host() -> Iterator[DemoHost]:
    with DemoHost() as running:
        yield running


def trust(host: DemoHost) -> ssl.SSLContext:
    return ssl.create_default_context(cafile=str(host.ca_file))


def connect(host: DemoHost, service: str) -> smtplib.SMTP:
    return smtplib.SMTP("localhost", host.ports[service], local_hostname="probe.example", timeout=5)


def said(host: DemoHost, service: str, *commands: bytes) -> bytes:
    """All that the service says, in the clear, until it closes."""
    with socket.create_connection(("127.0.0.1", host.ports[service]), timeout=5) as connection:
        connection.sendall(b"".join(command + b"\r\n" for command in commands))
        return connection.makefile("rb").read()


def refused(host: DemoHost, service: str) -> bool:
    try:
        socket.create_connection(("127.0.0.1", host.ports[service]), timeout=5).close()
    except ConnectionRefusedError:
        return True
    return False


def test_smtp_is_well(host: DemoHost) -> None:
    with connect(host, "smtp") as smtp:
        smtp.ehlo()
        assert smtp.esmtp_features == {"size": "10485760", "8bitmime": "", "starttls": ""}
        smtp.starttls(context=trust(host))
        smtp.ehlo()
        assert smtp.esmtp_features == {"size": "10485760", "8bitmime": ""}
        assert smtp.mail("", ["SIZE=10485761"]) == (552, b"5.3.4 Message size exceeds fixed limit")
        assert smtp.mail("")[0] == 250
        assert smtp.rcpt("postmaster@demo.example")[0] == 250
        assert smtp.rcpt("Postmaster")[0] == 250  # RFC 5321 section 4.5.1
        code, words = smtp.rcpt("nobody@demo.example")
        assert (code, words[:5]) == (550, b"5.1.1")
        code, words = smtp.rcpt("postmaster@elsewhere.example")
        assert (code, words[:5]) == (554, b"5.7.1")
        assert b"Relay access denied" in words
        code, words = smtp.data(MAIL)
        assert code == 250
        assert re.fullmatch(rb"2\.0\.0 Ok: queued as [0-9A-F]{10}", words)


def test_submission_neither_offers_nor_takes_a_login_outside_tls(host: DemoHost) -> None:
    with connect(host, "submission") as smtp:
        smtp.ehlo()
        assert "auth" not in smtp.esmtp_features
        assert smtp.docmd("AUTH", "PLAIN AGRlbW8AeA==")[0] == 504
        smtp.starttls(context=trust(host))
        smtp.ehlo()
        assert smtp.esmtp_features["auth"].split() == ["PLAIN", "LOGIN", "CRAM-MD5"]


def test_submission_wants_a_login(host: DemoHost) -> None:
    with connect(host, "submission") as smtp:
        smtp.starttls(context=trust(host))
        assert smtp.mail(f"{USER}@demo.example") == (530, b"5.7.0 Authentication required")
        with pytest.raises(smtplib.SMTPAuthenticationError) as rejected:
            smtp.login(USER, "wrong")
        assert rejected.value.smtp_code == 535


@pytest.mark.parametrize("initial_response", [True, False])
@pytest.mark.parametrize("mechanism", ["PLAIN", "LOGIN", "CRAM-MD5"])
@pytest.mark.parametrize("service", ["submission", "submissions"])
def test_submission_takes_mail_to_anyone_after_login(
    host: DemoHost, service: str, mechanism: str, initial_response: bool
) -> None:
    if service == "submissions":
        smtp: smtplib.SMTP = smtplib.SMTP_SSL("localhost", host.ports[service], context=trust(host), timeout=5)
    else:
        smtp = connect(host, service)
        smtp.starttls(context=trust(host))
    with smtp:
        smtp.ehlo()
        smtp.user, smtp.password = USER, host.password
        respond = getattr(smtp, "auth_" + mechanism.lower().replace("-", "_"))
        assert smtp.auth(mechanism, respond, initial_response_ok=initial_response)[0] == 235
        assert smtp.mail(f"{USER}@demo.example")[0] == 250
        assert smtp.rcpt("somebody@elsewhere.example")[0] == 250
        code, words = smtp.data(MAIL)
        assert code == 250
        assert words.startswith(b"2.0.0 Ok: queued as ")


def test_the_expired_certificate_is_the_only_fault_of_expired(host: DemoHost) -> None:
    with connect(host, "expired") as smtp, pytest.raises(ssl.SSLCertVerificationError, match="certificate has expired"):
        smtp.starttls(context=trust(host))


def test_no_starttls_neither_offers_nor_takes_it(host: DemoHost) -> None:
    with connect(host, "no_starttls") as smtp:
        smtp.ehlo()
        assert smtp.esmtp_features == {"size": "10485760", "8bitmime": ""}
        assert smtp.docmd("STARTTLS")[0] == 454


def test_busy_greets_with_421_and_closes(host: DemoHost) -> None:
    assert re.fullmatch(rb"421 4\.3\.2 .*\r\n", said(host, "busy"))


def test_silent_accepts_and_says_nothing(host: DemoHost) -> None:
    address = "127.0.0.1", host.ports["silent"]
    with socket.create_connection(address, timeout=0.3) as connection, pytest.raises(socket.timeout):
        connection.recv(1)


def pop3(host: DemoHost, service: str) -> poplib.POP3:
    """A POP3 session with TLS, not logged in."""
    if service == "pop3s":
        return poplib.POP3_SSL("localhost", host.ports[service], timeout=5, context=trust(host))
    session = poplib.POP3("localhost", host.ports[service], timeout=5)
    session.stls(trust(host))
    return session


def imap(host: DemoHost, service: str) -> imaplib.IMAP4:
    """An IMAP session with TLS, not logged in."""
    if service.startswith("imaps"):
        return imaplib.IMAP4_SSL("localhost", host.ports[service], ssl_context=trust(host), timeout=5)
    session = imaplib.IMAP4("localhost", host.ports[service], timeout=5)
    session.starttls(trust(host))
    return session


def test_pop3_greets_without_an_apop_challenge_and_takes_no_login_outside_tls(host: DemoHost) -> None:
    commands = b"CAPA", f"USER {USER}".encode(), f"PASS {host.password}".encode(), b"AUTH PLAIN", b"STAT", b"QUIT"
    assert said(host, "pop3", *commands).splitlines() == [
        b"+OK demo.example POP3 mailprobe demo",
        b"+OK I can do the following:",
        *(b"TOP", b"UIDL", b"RESP-CODES", b"PIPELINING", b"STLS", b"."),
        *[b"-ERR Must issue a STLS command first"] * 4,
        b"+OK ",
    ]


@pytest.mark.parametrize("service", ["pop3", "pop3s"])
def test_pop3_shows_the_mailbox_after_login(host: DemoHost, service: str) -> None:
    with closing(pop3(host, service)) as session:
        assert set(session.capa()) == {"TOP", "UIDL", "RESP-CODES", "PIPELINING", "USER"}
        with pytest.raises(poplib.error_proto, match="TLS is active"):
            session._shortcmd("STLS")
        session.user(USER)
        assert session.pass_(host.password) == b"+OK Authentication succeeded"
        answer, listing, _ = session.list()
        sizes = [int(line.split()[1]) for line in listing]
        assert answer == b"+OK 4"
        assert session.stat() == (4, sum(sizes))
        assert 200_000 < max(sizes) < 201_000
        assert session.uidl()[1] == [b"1 1", b"2 2", b"3 3", b"4 4"]
        for number, size in enumerate(sizes, 1):
            _, lines, _ = session.retr(number)
            assert len(b"".join(line + b"\r\n" for line in lines)) == size
            assert session.top(number, 0)[1] == lines[: lines.index(b"") + 1]
        with pytest.raises(poplib.error_proto, match="-ERR"):
            session.top(5, 0)
        assert session.quit() == b"+OK "


def test_pop3_rejects_a_wrong_password(host: DemoHost) -> None:
    with closing(pop3(host, "pop3")) as session:
        session.user(USER)
        with pytest.raises(poplib.error_proto, match="-ERR Authentication failed"):
            session.pass_("wrong")


def test_pop3_locked_knows_the_user_but_another_session_has_the_mailbox(host: DemoHost) -> None:
    with closing(pop3(host, "pop3_locked")) as session:
        session.user(USER)
        with pytest.raises(poplib.error_proto, match="-ERR Authentication failed"):
            session.pass_("wrong")
        session.user(USER)
        with pytest.raises(poplib.error_proto, match=r"-ERR \[IN-USE\] Do you have another POP session running\?"):
            session.pass_(host.password)
        assert session.quit() == b"+OK "


def test_imap_neither_offers_nor_takes_a_login_outside_tls(host: DemoHost) -> None:
    login = f"b LOGIN {USER} {host.password}".encode()
    assert said(host, "imap", b"a CAPABILITY", login, b"c AUTHENTICATE PLAIN", b"d LOGOUT").splitlines() == [
        b"* OK [CAPABILITY IMAP4rev1 LOGINDISABLED STARTTLS NAMESPACE IDLE] demo.example IMAP4rev1 mailprobe demo",
        b"* CAPABILITY IMAP4rev1 LOGINDISABLED STARTTLS NAMESPACE IDLE",
        b"a OK CAPABILITY completed",
        b"b BAD LOGIN is disabled before STARTTLS",
        b"c NO AUTHENTICATE method unsupported",
        b"* BYE Nice talking to you",
        b"d OK LOGOUT successful",
    ]


@pytest.mark.parametrize("command", ["LOGIN", "AUTH=PLAIN", "AUTH=LOGIN", "AUTH=CRAM-MD5"])
@pytest.mark.parametrize("service", ["imap", "imaps"])
def test_imap_takes_a_login_by_each_mechanism(host: DemoHost, service: str, command: str) -> None:
    def log_in(password: str) -> str:
        answers = {b"Username:": USER, b"Password:": password, b"": f"\0{USER}\0{password}"}
        with imap(host, service) as session:
            assert set(session.capabilities) >= {"IMAP4REV1", "AUTH=PLAIN", "AUTH=LOGIN", "AUTH=CRAM-MD5"}
            assert not set(session.capabilities) & {"LOGINDISABLED", "STARTTLS"}
            if command == "LOGIN":
                return session.login(USER, password)[0]
            if command == "AUTH=CRAM-MD5":
                return session.login_cram_md5(USER, password)[0]
            return session.authenticate(command[5:], lambda challenge: answers[challenge].encode())[0]

    assert log_in(host.password) == "OK"
    with pytest.raises(imaplib.IMAP4.error, match="failed"):
        log_in("wrong")


@pytest.mark.parametrize("service", ["imap", "imaps"])
def test_imap_shows_the_folders(host: DemoHost, service: str) -> None:
    with imap(host, service) as session:
        session.login(USER, host.password)
        names = [b'() "/" "INBOX"', b'() "/" "Archive"', b'() "/" "Entw&APw-rfe"']
        assert session.list() == ("OK", names)
        status, answer = session.status("INBOX", "(MESSAGES UNSEEN RECENT UIDNEXT UIDVALIDITY)")
        assert status == "OK"
        assert re.fullmatch(rb"INBOX \(MESSAGES 4 UNSEEN 1 RECENT 1 UIDNEXT 5 UIDVALIDITY [1-9]\d*\)", answer[0])
        assert session.status("Archive", "(MESSAGES UNSEEN)") == ("OK", [b"Archive (MESSAGES 1 UNSEEN 0)"])
        assert session.status('"Entw&APw-rfe"', "(MESSAGES)") == ("OK", [b"Entw&APw-rfe (MESSAGES 0)"])
        assert session.status("Nowhere", "(MESSAGES)")[0] == "NO"
        assert session.select("Nowhere", readonly=True)[0] == "NO"


def test_imap_searches_and_fetches(host: DemoHost) -> None:
    with imap(host, "imap") as session:
        session.login(USER, host.password)
        assert session.select("inbox", readonly=True) == ("OK", [b"4"])
        assert session.search(None, "ALL") == ("OK", [b"1 2 3 4"])
        assert session.search(None, "UNSEEN") == ("OK", [b"4"])
        assert session.search(None, "SUBJECT", "minutes") == ("OK", [b"2"])
        assert session.search(None, "SUBJECT", '"minutes of the"') == ("OK", [b"2"])
        assert session.search(None, "SUBJECT", "unheard-of") == ("OK", [None])  # no `* SEARCH` for no hits
        assert session.uid("SEARCH", "UNSEEN") == ("OK", [b"4"])
        status, lines = session.fetch("1:*", "(FLAGS INTERNALDATE RFC822.SIZE)")
        assert status == "OK"
        assert len(lines) == 4
        assert [imaplib.ParseFlags(line) for line in lines] == [(b"\\Seen",)] * 3 + [(b"\\Recent",)]
        assert len(session.fetch("*", "(UID)")[1]) == len(session.uid("FETCH", "4:*", "(FLAGS)")[1]) == 1


def test_the_mails_are_as_old_as_their_headers_say_and_the_same_by_imap_and_pop3(host: DemoHost) -> None:
    with imap(host, "imaps") as session:
        session.login(USER, host.password)
        session.select(readonly=True)
        lines = session.fetch("1:*", "(INTERNALDATE RFC822.SIZE)")[1]
        mails = [session.fetch(str(i), "(BODY.PEEK[])")[1][0][1] for i in (1, 2, 3, 4)]
    received = [time.mktime(imaplib.Internaldate2tuple(line)) for line in lines]
    ages = [time.time() - then for then in received]
    day = 86_400
    assert ages == pytest.approx([30 * day, 7 * day, day, 600], abs=120)
    for line, mail, then in zip(lines, mails, received):
        assert f"RFC822.SIZE {len(mail)})".encode() in line
        header = email.message_from_bytes(mail)
        assert email.utils.parsedate_to_datetime(header["Received"].rpartition(";")[2]).timestamp() == then
        assert email.utils.parsedate_to_datetime(header["Date"]).timestamp() == then - 2
    with closing(pop3(host, "pop3s")) as session:
        session.user(USER)
        session.pass_(host.password)
        assert [b"\r\n".join([*session.retr(i)[1], b""]) for i in (1, 2, 3, 4)] == mails


def test_nothing_that_a_client_does_changes_the_mailbox(host: DemoHost) -> None:
    with imap(host, "imap") as session:
        session.login(USER, host.password)
        assert session.create("New")[0] == "NO"
        assert session.delete("Archive")[0] == "NO"
        assert session.rename("Archive", "New")[0] == "NO"
        assert session.unsubscribe("Archive")[0] == "NO"
        with pytest.raises(imaplib.IMAP4.readonly):
            session.select()
        session.select(readonly=True)
        session.fetch("1:*", "(BODY[])")
        with pytest.raises(imaplib.IMAP4.error, match="read-only"):
            session.store("1", "+FLAGS", r"(\Deleted)")
        assert session.expunge()[0] == "NO"
    with closing(pop3(host, "pop3")) as session:
        session.user(USER)
        session.pass_(host.password)
        with pytest.raises(poplib.error_proto, match=r"-ERR \[SYS/PERM\] This mailbox is read-only"):
            session.dele(1)
        session.quit()
    test_imap_shows_the_folders(host, "imap")


def test_imap_bye_greets_with_bye_and_closes(host: DemoHost) -> None:
    assert said(host, "imap_bye") == b"* BYE Too busy\r\n"


def test_the_expired_certificate_is_the_only_fault_of_imaps_expired(host: DemoHost) -> None:
    with pytest.raises(ssl.SSLCertVerificationError, match="certificate has expired"):
        imap(host, "imaps_expired")
    unverified = ssl.create_default_context()
    unverified.check_hostname, unverified.verify_mode = False, ssl.CERT_NONE
    with imaplib.IMAP4_SSL("localhost", host.ports["imaps_expired"], ssl_context=unverified, timeout=5) as session:
        assert session.login(USER, host.password)[0] == "OK"


def test_nobody_listens_on_closed_and_nobody_else_can(host: DemoHost) -> None:
    assert refused(host, "closed")
    with socket.socket() as other, pytest.raises(OSError, match="in use"):
        other.bind(("127.0.0.1", host.ports["closed"]))


def test_two_hosts_run_side_by_side_and_end_at_once_leaving_nothing(host: DemoHost) -> None:
    with DemoHost() as second:
        assert not set(host.ports.values()) & set(second.ports.values())
        client = socket.create_connection(("127.0.0.1", second.ports["silent"]), timeout=5)
        began = time.monotonic()
    assert time.monotonic() - began < 2
    assert client.recv(1) == b""  # the host did not wait for its client to go
    client.close()
    assert not second.ca_file.exists()
    assert all(refused(second, service) for service in second.ports)
    assert host.ca_file.exists()


def test_the_host_ends_with_a_parent_that_is_killed() -> None:
    script = (
        "import time; from nagios_checks.demo.host import DemoHost\n"
        "with DemoHost() as host: print(host.ca_file, host.ports['smtp'], flush=True); time.sleep(60)"
    )
    root = Path(__file__).resolve().parents[1]
    with subprocess.Popen([sys.executable, "-c", script], cwd=root, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        ca_file, port = parent.stdout.readline().split()
        os.kill(parent.pid, signal.SIGKILL)
    deadline = time.monotonic() + 5
    while Path(ca_file).exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not Path(ca_file).exists()
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", int(port)), timeout=5)


def test_a_missing_package_is_named_with_its_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "trustme", None)
    with pytest.raises(DemoError, match=r"pip install 'mailprobe\[demo\]'"), DemoHost():
        pass

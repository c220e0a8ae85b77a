"""Each service of the embedded demo mail host answers as its name says, and the host leaves nothing behind."""

from __future__ import annotations

import os
import re
import signal
import smtplib
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from nagios_checks.demo.host import USER, DemoError, DemoHost

MAIL = "Subject: hello\r\n\r\nIt works.\r\n"


@pytest.fixture(scope="module")
def host() -> Iterator[DemoHost]:
    with DemoHost() as running:
        yield running


def trust(host: DemoHost) -> ssl.SSLContext:
    return ssl.create_default_context(cafile=str(host.ca_file))


def connect(host: DemoHost, service: str) -> smtplib.SMTP:
    return smtplib.SMTP("localhost", host.ports[service], local_hostname="probe.example", timeout=5)


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
    with socket.create_connection(("127.0.0.1", host.ports["busy"]), timeout=5) as connection:
        said = connection.makefile("rb").read()
    assert said.startswith(b"421 4.3.2 ")
    assert said.endswith(b"\r\n")


def test_silent_accepts_and_says_nothing(host: DemoHost) -> None:
    address = "127.0.0.1", host.ports["silent"]
    with socket.create_connection(address, timeout=0.3) as connection, pytest.raises(socket.timeout):
        connection.recv(1)


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

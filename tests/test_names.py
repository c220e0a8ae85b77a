"""Questions to a name server of our own: the addresses of a host, and whether its names agree."""

from __future__ import annotations

import json
import socket
import struct
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from mailprobe.families import split_nameserver
from mailprobe.options import UsageError

from .running import Outcome, check
from .scripted import Scripted
from .servers import DOMAIN, loopback_addresses
from .servers.exim import Exim
from .servers.fixtures import running
from .servers.nsd import ADDRESS, NOBODY, NameServer
from .servers.postfix import Postfix
from .test_certificates import inert
from .test_check_smtp import report

AGREE = "--require-name-agreement"


@pytest.fixture
def without_dnspython(tmp_path: Path) -> dict[str, str]:
    """An environment in which dnspython cannot be imported."""
    package = tmp_path / "dns"
    package.mkdir()
    (package / "__init__.py").write_text("raise ImportError('not here')\n")
    return {"PYTHONPATH": str(tmp_path)}


class Wire:
    """A name server that answers every question with one response code, or never."""

    def __init__(self, code: int | None) -> None:
        self.code = code
        self.asked = 0

    def __enter__(self) -> Wire:
        self.socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.socket.bind((ADDRESS, 0))
        self.address = f"{ADDRESS}:{self.socket.getsockname()[1]}"
        self.thread = threading.Thread(target=self.serve, daemon=True)
        self.thread.start()
        return self

    def serve(self) -> None:
        while True:
            question, client = self.socket.recvfrom(4096)
            if not question:
                return
            self.asked += 1
            if self.code is not None:
                header = question[:2] + struct.pack("!5H", 0x8180 | self.code, 1, 0, 0, 0)
                end = question.index(b"\0", 12) + 5
                self.socket.sendto(header + question[12:end], client)

    def __exit__(self, *_exception: object) -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as own:
            own.sendto(b"", self.socket.getsockname())
        self.thread.join(5)
        self.socket.close()


SERVFAIL, NXDOMAIN, REFUSED = 2, 3, 5


def greeting(name: str) -> str:
    return f"S: 220 {name} ESMTP ready\n== any"


def at(server: Scripted, *arguments: object, host: str = "", env: dict[str, str] | None = None) -> Outcome:
    return check("smtp", "-H", host or server.host, "-p", server.port, *arguments, env=env)


# Where a host is.


@pytest.mark.parametrize(
    ("name", "address"),
    [
        ("mail", "127.0.0.1"),
        ("MAIL", "127.0.0.1"),
        ("alias", "127.0.0.1"),
        ("mail.", "127.0.0.1"),
        ("other", "127.0.0.4"),
    ],
)
def test_the_name_server_tells_where_a_host_is(name_server: NameServer, name: str, address: str) -> None:
    host = f"mail.{DOMAIN}." if name == "mail." else f"{name}.{DOMAIN}"
    with Scripted(greeting("x"), host=address) as server:
        found = report(at(server, "--nameserver", name_server.address, "--json", host=host))
    assert found["address"] == address
    assert found["timings"]["resolve"] > 0


@pytest.mark.parametrize("service", ["smtp", "imap", "pop3", "sieve"])
def test_every_protocol_can_ask_a_name_server(name_server: NameServer, service: str) -> None:
    where = ("-H", f"dead.{DOMAIN}", "-p", 25, "--nameserver", name_server.address, "-t", "3")
    found = report(check(service, *where, "--json"), "critical", "connection-refused")
    assert f"connection refused by {NOBODY} port 25" in found["problems"][0]["message"]


@pytest.mark.parametrize(
    ("host", "options", "code"),
    [
        (f"nobody.{DOMAIN}", (), "name-unknown"),
        (f"nothing.{DOMAIN}", (), "no-address"),
        (f"mail.{DOMAIN}", ("-6",), "no-address"),
        (f"six.{DOMAIN}", ("-4",), "no-address"),
        ("mail.elsewhere.example", (), "resolver-failed"),
    ],
)
def test_what_the_name_server_does_not_know_has_its_finding(
    name_server: NameServer, host: str, options: tuple[str, ...], code: str
) -> None:
    where = ("-H", host, "-p", 25, "--nameserver", name_server.address, *options, "-t", "3")
    for more in ((), ("--all-addresses",)):
        found = report(check("smtp", *where, *more, "--json"), "critical", code)
        assert found["problems"][0]["stage"] == "resolve"
        assert name_server.address in found["problems"][0]["message"]


@pytest.mark.parametrize(
    ("code", "finding"), [(SERVFAIL, "resolver-failed"), (REFUSED, "resolver-failed"), (NXDOMAIN, "name-unknown")]
)
def test_a_name_server_that_cannot_answer_is_told_from_a_name_that_is_not_there(code: int, finding: str) -> None:
    with Wire(code) as wire:
        report(
            check("smtp", "-H", "mail.example", "--nameserver", wire.address, "-t", "3", "--json"), "critical", finding
        )
        assert wire.asked


def test_a_silent_name_server_does_not_stretch_the_time_limit() -> None:
    with Wire(None) as wire:
        outcome = check("smtp", "-H", "mail.example", "--nameserver", wire.address, "-t", "2", "--json")
    report(outcome, "critical", "resolver-failed")
    assert outcome.json["elapsed"] < 3


def test_an_address_needs_no_name_server() -> None:
    with Wire(SERVFAIL) as wire, Scripted(greeting("x")) as server:
        report(at(server, "--nameserver", wire.address, "--json"))
        report(at(server, "--nameserver", wire.address, "-4", "--json", host="localhost"))
        assert wire.asked == 0


def test_the_certificate_is_for_the_name_that_was_looked_up(
    name_server: NameServer, localhost_tls: tuple[object, Path]
) -> None:
    with Scripted("== tls\nS: 220 x\n== any", tls=localhost_tls[0]) as server:  # type: ignore[arg-type]
        options = ("--nameserver", name_server.address, "--tls", "implicit", "--ca-file", localhost_tls[1], "--json")
        report(at(server, *options, host=f"mail.{DOMAIN}"), "critical", "certificate-wrong-name")
        report(at(server, *options, "--tls-server-name", "localhost", host=f"mail.{DOMAIN}"))


@pytest.mark.parametrize("arguments", [("--nameserver", "127.0.0.1"), (AGREE,)])
def test_without_dnspython_the_option_that_needs_it_is_named(
    without_dnspython: dict[str, str], arguments: tuple[str, ...]
) -> None:
    with Scripted(greeting("x")) as server:
        outcome = at(server, *arguments, env=without_dnspython)
        assert outcome.code == 3
        assert outcome.output.startswith(f"SMTP UNKNOWN - {arguments[0]}: needs the Python package dnspython")
        assert server.connections == 0
        assert at(server, env=without_dnspython).code == 0


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("192.0.2.53", ("192.0.2.53", 53)),
        ("192.0.2.53:5353", ("192.0.2.53", 5353)),
        ("2001:db8::53", ("2001:db8::53", 53)),
        ("[2001:db8::53]", ("2001:db8::53", 53)),
        ("[2001:db8::53]:5353", ("2001:db8::53", 5353)),
        ("::1", ("::1", 53)),
        ("[::ffff:192.0.2.1]:65535", ("::ffff:192.0.2.1", 65535)),
    ],
)
def test_a_name_server_is_an_address_and_perhaps_a_port(text: str, parts: tuple[str, int]) -> None:
    assert split_nameserver(text) == parts


@pytest.mark.parametrize(
    "text",
    [
        *("", ":", "53", ":53", "ns.example", "ns.example:53", "192.0.2", "192.0.2.256", "192.0.2.53:", "192.0.2.53:0"),
        *("192.0.2.53:65536", "192.0.2.53:5x", "[192.0.2.53", "[2001:db8::53]:", "[2001:db8::53]5353", "[]:53", "[::1"),
        *("fe80::1%lo", "192.0.2.53:53:53", "192.0.2.53 ", "٣.٣.٣.٣", "192.0.2.53:٥٣", "192.0.2.53:" + "9" * 1000),
    ],
)
def test_what_is_no_name_server_is_refused(text: str) -> None:
    with pytest.raises(UsageError) as refusal:
        split_nameserver(text)
    assert refusal.value.option == "nameserver"
    with Scripted(greeting("x")) as server:
        outcome = at(server, "--nameserver", text)
        assert outcome.code == 3
        assert outcome.output.startswith("SMTP UNKNOWN - --nameserver: ")
        assert server.connections == 0


@pytest.mark.parametrize("option", [("--nameserver", "127.0.0.1"), ("--all-addresses",), (AGREE,)])
def test_a_unix_socket_has_no_name(option: tuple[str, ...]) -> None:
    outcome = check("smtp", "-H", "/nowhere", *option)
    assert outcome.code == 3
    assert outcome.output.startswith(f"SMTP UNKNOWN - {option[0]}: goes with a host")


# Whether the names agree.


def test_names_that_agree_are_ok(name_server: NameServer, postfix: Postfix) -> None:
    for host in (f"mail.{DOMAIN}", "127.0.0.1"):
        where = ("-H", host, "-p", postfix.plain, "--nameserver", name_server.address)
        report(check("smtp", *where, AGREE, "--json"))


def test_an_ipv6_address_has_names_too(name_server: NameServer) -> None:
    if "::1" not in loopback_addresses():
        return
    with Scripted(greeting(f"both.{DOMAIN}"), host="::1") as server:
        report(at(server, "--nameserver", name_server.address, AGREE, "--json"))


def test_case_and_the_last_dot_are_no_difference(name_server: NameServer) -> None:
    with Scripted(greeting(f"Mail.{DOMAIN.upper()}.")) as server:
        report(at(server, "--nameserver", name_server.address, AGREE, "--json"))


@pytest.mark.parametrize(
    ("address", "told", "words"),
    [
        ("127.0.0.1", "mx.example", f"the greeting tells 'mx.example', and reverse DNS of 127.0.0.1 'mail.{DOMAIN}'"),
        (
            "127.0.0.3",
            f"mail.{DOMAIN}",
            f"reverse DNS has no name for 127.0.0.3, and the greeting tells 'mail.{DOMAIN}'",
        ),
        ("127.0.0.2", f"other.{DOMAIN}", f"tell 'other.{DOMAIN}', which has the address 127.0.0.4"),
    ],
)
def test_names_that_do_not_agree_are_told(name_server: NameServer, address: str, told: str, words: str) -> None:
    with Scripted(greeting(told), host=address) as server:
        found = report(
            at(server, "--nameserver", name_server.address, AGREE, "--json"), "critical", "name-disagreement"
        )
        assert words in found["problems"][0]["message"]
        options = (AGREE, "--state", "name-disagreement=warning", "-v")
        outcome = at(server, "--nameserver", name_server.address, *options)
        assert outcome.state == "warning"
        assert "[warning] name-disagreement at greeting: " in outcome.output


def test_exim_tells_another_name_than_dns(name_server: NameServer, exim: Exim) -> None:
    where = ("-H", "127.0.0.1", "-p", exim.starttls, "--nameserver", name_server.address)
    found = report(check("smtp", *where, AGREE, "--json"), "critical", "name-disagreement")
    assert f"'exim.{DOMAIN}'" in found["problems"][0]["message"]


@pytest.mark.parametrize(("code", "finding"), [(SERVFAIL, "resolver-failed"), (REFUSED, "resolver-failed")])
def test_a_name_server_that_cannot_answer_proves_nothing(code: int, finding: str) -> None:
    with Wire(code) as wire, Scripted(greeting("mail.example")) as server:
        found = report(at(server, "--nameserver", wire.address, AGREE, "--json"), "critical", finding)
        assert "to see whether the names agree: " in found["problems"][0]["message"]
        assert wire.asked


def test_no_reverse_name_at_all_is_a_disagreement() -> None:
    with Wire(NXDOMAIN) as wire, Scripted(greeting("mail.example")) as server:
        report(at(server, "--nameserver", wire.address, AGREE, "--json"), "critical", "name-disagreement")


def test_a_silent_name_server_leaves_what_was_found_and_ends_in_time() -> None:
    with Wire(None) as wire, Scripted(greeting("mail.example")) as server:
        outcome = at(server, "--nameserver", wire.address, AGREE, "-t", "2", "--json")
        found = report(outcome, "critical", "resolver-failed")
    assert outcome.json["elapsed"] < 3
    assert found["facts"]["banner"] == "mail.example ESMTP ready"
    assert found["timings"]["greeting"] is not None


def test_a_conversation_that_takes_all_the_time_leaves_none_for_names(name_server: NameServer) -> None:
    with Scripted("S: 220 mail.example\nC: EHLO *\n== silence") as server:
        options = ("--nameserver", name_server.address, AGREE, "-t", "1", "--json")
        outcome = at(server, *options)
    assert outcome.json["elapsed"] < 2
    codes = {problem["code"] for problem in outcome.json["problems"]}
    assert codes == {"timeout"}
    assert outcome.state == "critical"


HOSTILE = 'a\\.b\\|\\000\\027[31m\\"<script>'


@pytest.fixture(scope="module")
def hostile_names() -> Iterator[NameServer]:
    """A name server whose reverse names are as hostile as DNS allows."""
    zone = f"1 PTR {HOSTILE}.{DOMAIN}.\n2 PTR {chr(92) + '001'}{(chr(92) + '001') * 59}.{DOMAIN}.\n"
    zone += "".join(f"3 PTR {'x' * 60}.{'y' * 60}.{'z' * 60}.{number}.{DOMAIN}.\n" for number in range(60))
    zones = {"0.0.127.in-addr.arpa": zone, DOMAIN: "mail A 127.0.0.1\n"}
    yield from running(NameServer(zones))


@pytest.mark.parametrize("more", ["-v", "-vv", "--json"])
@pytest.mark.parametrize("address", ["127.0.0.1", "127.0.0.3"])
def test_hostile_reverse_names_are_made_inert(hostile_names: NameServer, address: str, more: str) -> None:
    with Scripted(greeting("mail.example"), host=address) as server:
        outcome = at(server, "--nameserver", hostile_names.address, AGREE, more)
    assert outcome.state == "critical"
    assert outcome.errors == ""
    assert "name-disagreement" in outcome.output
    inert(outcome.output)
    if more == "--json":
        assert len(json.loads(outcome.output)["problems"][0]["message"]) < 2000
    else:
        assert outcome.output.count("|") == 1
        assert len(outcome.output) < 20_000


def test_a_name_that_no_host_can_have_is_no_crash(hostile_names: NameServer) -> None:
    # Greeting and reverse DNS agree on it, so that it is looked up; as text its label is longer than any may be.
    told = "\\\\001" * 60 + f".{DOMAIN}"
    with Scripted(greeting(told), host="127.0.0.2") as server:
        outcome = at(server, "--nameserver", hostile_names.address, AGREE, "--json")
    report(outcome, "critical", "name-disagreement")

"""`mailprobe discover`: from a domain to a file of checks, with a real name server and real mail services."""

from __future__ import annotations

import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import yaml

from mailprobe.network import Deadline
from mailprobe.options import UsageError
from nagios_checks.demo.host import DemoHost
from nagios_checks.discover import find
from nagios_checks.discover.compose import compose, text
from nagios_checks.discover.find import KINDS, Candidate, Discovery, Found, checked_domain, discover
from nagios_checks.report.config import load
from nagios_checks.report.plan import Config
from nagios_checks.report.registry import PROTOCOLS
from nagios_checks.report.yamlfile import parse

from . import running
from .scripted import Scripted
from .servers import DOMAIN, free_port
from .servers.nsd import NameServer

SECONDS = 15.0


@pytest.fixture(scope="module")
def host() -> Iterator[DemoHost]:
    with DemoHost() as running_host:
        yield running_host


@pytest.fixture
def serve() -> Iterator[Callable[[str], NameServer]]:
    """Starts a name server with these records of DOMAIN."""
    started: list[NameServer] = []

    def start(records: str) -> NameServer:
        server = NameServer({DOMAIN: textwrap.dedent(records)})
        started.append(server)
        server.start()
        return server

    yield start
    for server in started:
        server.stop()


@pytest.fixture
def nowhere() -> dict[str, int]:
    """Ports on which nobody listens instead of the well-known ones, which this machine may use."""
    return {word: free_port() for word in KINDS}


def found(discovery: Discovery) -> dict[tuple[str, int], Found]:
    return {(found.candidate.kind.word, found.candidate.port): found for found in discovery.found}


def read(path: Path, discovery: Discovery) -> Config:
    path.write_text(compose(discovery), encoding="utf-8")
    return load(str(path), PROTOCOLS)


SERVICES = """
_submission._tcp   SRV  0 1 {submission} localhost.
_submissions._tcp  SRV  0 1 {submissions} localhost.
_imap._tcp         SRV  0 1 {imap} localhost.
_imaps._tcp        SRV  0 1 {imaps} localhost.
_pop3._tcp         SRV  0 1 {pop3} localhost.
_pop3s._tcp        SRV  0 1 {pop3s} localhost.
_sieve._tcp        SRV  0 1 {closed} localhost.
"""


def test_services_that_srv_records_name_are_talked_to(
    host: DemoHost, serve: Callable[[str], NameServer], nowhere: dict[str, int], tmp_path: Path
) -> None:
    server = serve("@ MX 10 localhost.\n" + SERVICES.format(**host.ports))
    ports = {**nowhere, "smtp": host.ports["smtp"]}
    discovery = discover(DOMAIN, server.address, SECONDS, ports)
    services = found(discovery)
    modes = {word: one.tls for (word, dummy), one in services.items()}
    assert modes == {
        "smtp": "starttls",
        "submission": "starttls",
        "submissions": "implicit",
        "imap": "starttls",
        "imaps": "implicit",
        "pop3": "starttls",
        "pop3s": "implicit",
        "sieve": None,
    }
    assert services["smtp", host.ports["smtp"]].candidate.reason == "MX 10"
    assert services["imaps", host.ports["imaps"]].answers
    sieve = services["sieve", host.ports["closed"]]
    assert not sieve.answers
    assert "connection refused" in sieve.problems[0]
    config = read(tmp_path / "checks.yaml", discovery)
    assert len(config.checks) == 8
    assert config.checks[-1].options.tls == "starttls"  # a guess, and the file says so
    assert "    tls: starttls  # most offer it\n" in compose(discovery)
    assert config.advice == []


def test_a_port_that_only_might_be_there_is_in_the_file_when_it_answers(
    host: DemoHost, serve: Callable[[str], NameServer], nowhere: dict[str, int]
) -> None:
    server = serve("@ MX 10 localhost.\n")
    ports = {**nowhere, "imaps": host.ports["imaps"], "pop3s": host.ports["silent"], "sieve": host.ports["pop3"]}
    services = found(discover(DOMAIN, server.address, 5, ports))
    # What MX names is there although it does not answer; what says nothing or speaks another protocol is not.
    assert {word for word, dummy in services} == {"smtp", "imaps"}
    assert services["imaps", host.ports["imaps"]].candidate.reason == ""


def test_the_certificate_that_is_wrong_just_now_is_remarked(
    host: DemoHost, serve: Callable[[str], NameServer], nowhere: dict[str, int]
) -> None:
    server = serve("@ MX 10 localhost.\n")
    discovery = discover(DOMAIN, server.address, SECONDS, {**nowhere, "smtp": host.ports["expired"]})
    written = compose(discovery)
    assert "  # MX 10.\n" in written
    assert "  # Just now: certificate not accepted: " in written
    assert "    tls: starttls\n" in written


def test_a_domain_without_mx_has_its_own_address_and_one_with_a_null_mx_takes_no_mail(
    serve: Callable[[str], NameServer], nowhere: dict[str, int]
) -> None:
    bare = discover(DOMAIN, serve("@ A 127.0.0.1\n").address, 5, nowhere)
    assert [one.candidate.reason for one in bare.found] == ["the domain itself, since it has no MX"]
    null = discover(DOMAIN, serve("@ MX 0 .\n@ A 127.0.0.1\n").address, 5, nowhere)
    assert null.found == []
    assert null.remarks == [f"{DOMAIN} takes no mail: it has a null MX (RFC 7505)"]


def test_a_usual_name_is_tried_unless_it_is_another_name_of_a_host_that_is_known(
    serve: Callable[[str], NameServer], nowhere: dict[str, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    looked: list[str] = []
    look = find._look

    def noted(candidate: Candidate, *rest: str | Deadline | None) -> Found:
        looked.append(candidate.host)
        return look(candidate, *rest)

    monkeypatch.setattr(find, "_look", noted)
    records = "@ MX 5 mx\nmx A 127.0.0.1\nmail CNAME mx\nimap A 127.0.0.2\nsmtp A 127.0.0.2\n"
    discover(DOMAIN, serve(records).address, 5, nowhere)
    assert set(looked) == {f"mx.{DOMAIN}", f"smtp.{DOMAIN}"}


@pytest.mark.parametrize(
    ("word", "script"),
    [
        ("smtp", "S: 554 5.7.1 No service for you\nC: QUIT\nS: 221 Bye"),
        ("smtp", "S: 421 4.3.2 Too busy\n== close"),
        ("submission", "S: 220 Hello\nC: EHLO *\nS: 550 Who are you?\nC: QUIT\nS: 221 Bye"),
        ("submission", "S: 220 Hello\nC: EHLO *\n== close"),
        ("imap", "S: * BYE Too many connections\n== close"),
        ("pop3", "S: -ERR [SYS/TEMP] Later\nC: QUIT\nS: +OK"),
        ("sieve", 'S: BYE (TRYLATER) "Later"\n== close'),
    ],
)
def test_of_a_server_that_did_not_tell_what_it_offers_nobody_says_that_it_offers_no_tls(
    word: str, script: str, serve: Callable[[str], NameServer], nowhere: dict[str, int]
) -> None:
    name_server = serve("@ MX 10 localhost.\n")
    with Scripted(script) as server:
        discovery = discover(DOMAIN, name_server.address, 5, {**nowhere, word: server.port})
    assert found(discovery)[word, server.port].answers
    written = compose(discovery)
    assert "it did not offer STARTTLS" not in written
    assert f"    port: {server.port}\n    tls: starttls  # most offer it\n" in written


def test_a_service_that_answered_once_and_then_had_enough_of_us_is_in_the_file(
    serve: Callable[[str], NameServer], nowhere: dict[str, int]
) -> None:
    script = """
S: 220 mx.example.org ESMTP
C: EHLO *
S: 250-mx.example.org
S: 250 STARTTLS
C: QUIT
S: 221 Bye
--- next connection ---
== close
"""
    name_server = serve("@ MX 10 localhost.\n")
    with Scripted(script) as server:
        discovery = discover(DOMAIN, name_server.address, 5, {**nowhere, "submission": server.port})
    one = found(discovery)["submission", server.port]
    assert (one.tls, one.answers, one.banner) == ("starttls", True, "mx.example.org ESMTP")
    assert one.problems == ["the server closed the connection, waiting for the greeting [connection-closed]"]


def test_each_service_that_a_record_names_is_in_the_file_also_where_two_name_the_same_port(
    host: DemoHost, serve: Callable[[str], NameServer], nowhere: dict[str, int], tmp_path: Path
) -> None:
    port = host.ports["smtp"]
    server = serve(f"@ MX 10 localhost.\n@ MX 20 localhost.\n_submission._tcp SRV 0 1 {port} localhost.\n")
    discovery = discover(DOMAIN, server.address, SECONDS, {**nowhere, "smtp": port})
    assert {word: one.candidate.reason for (word, dummy), one in found(discovery).items()} == {
        "smtp": "MX 10",
        "submission": "SRV _submission._tcp",
    }
    assert len(read(tmp_path / "checks.yaml", discovery).checks) == 2


def test_a_record_that_names_an_address_where_only_a_name_may_be_is_remarked(
    serve: Callable[[str], NameServer], nowhere: dict[str, int]
) -> None:
    server = serve("@ MX 10 127.0.0.1.\n_imaps._tcp SRV 0 1 993 127.0.0.1.\n")
    discovery = discover(DOMAIN, server.address, 5, nowhere)
    assert discovery.found == []
    words = "names the address 127.0.0.1, where only a name may be (RFC 5321 5.1, RFC 2782): many find nobody there"
    assert discovery.remarks == [f"MX 10 {words}", f"SRV _imaps._tcp {words}"]


def test_a_name_to_which_nobody_can_connect_is_remarked_once(
    serve: Callable[[str], NameServer], nowhere: dict[str, int]
) -> None:
    server = serve("@ MX 10 a/b.example.org.\n")
    discovery = discover(DOMAIN, server.address, 5, nowhere)
    assert discovery.found == []
    assert discovery.remarks == ["MX 10: host: 'a/b.example.org' is not a host name or address"]


def test_many_silent_hosts_have_the_one_time_limit(serve: Callable[[str], NameServer], nowhere: dict[str, int]) -> None:
    with Scripted("== silence") as server:
        records = "".join(
            f"_{word}._tcp SRV 0 1 {server.port} {word}-{number}.hosts\n" for word in find.SRV for number in range(40)
        )
        name_server = serve(records + "*.hosts A 127.0.0.1\n")
        deadline = Deadline(2)
        discovery = discover(DOMAIN, name_server.address, 2, nowhere)
        assert deadline.left() > -1
    assert len(discovery.found) == 40 * len(find.SRV)
    assert discovery.found[-1].problems == ["no time was left"]


# The file.


def test_names_of_any_length_are_told_apart(tmp_path: Path) -> None:
    domain = ".".join(("a" * 63, "b" * 63, "c" * 63, "d" * 50))
    hosts = [f"{domain[:-1]}{end}" for end in "xyz"]
    discovery = Discovery(domain, [Found(Candidate(KINDS["smtp"], host, 25, "MX 1"), None, False) for host in hosts])
    config = read(tmp_path / "checks.yaml", discovery)
    assert [check.options.host for check in config.checks] == hosts
    assert len({check.name for check in config.checks}) == len(hosts)


def test_what_a_server_or_dns_says_stays_a_comment(tmp_path: Path) -> None:
    hostile = "x\n    port: 1\n  - name: injected\u2028\u202e\x1b[31m # |"
    discovery = Discovery("example.org", remarks=[hostile])
    for kind in KINDS.values():
        discovery.found.append(
            Found(Candidate(kind, "mx.example.org", kind.port, "MX 10"), "none", True, hostile, [hostile])
        )
    written = compose(discovery)
    assert written.isascii() or all(character.isprintable() or character == "\n" for character in written)
    config = read(tmp_path / "checks.yaml", discovery)
    assert len(config.checks) == len(KINDS)


@pytest.mark.parametrize(
    "value",
    [
        "mx.example.org",
        "smtp at mx.example.org port 26",
        "no",
        "On",
        "null",
        "1.5",
        "5",
        "a: b",
        "a #b",
        "",
        "'",
        '"',
        "ü",
        "-",
        "~",
        "{",
        "a\\b",
    ],
)
def test_a_text_in_the_file_is_that_text_to_every_reader(value: str) -> None:
    assert parse(f"a: {text(value)}\n") == {"a": value}
    assert yaml.safe_load(f"a: {text(value)}\n") == {"a": value}


# The command.


def mailprobe(*arguments: object) -> running.Outcome:
    return running.run([sys.executable, "-m", "nagios_checks.cli", *map(str, arguments)])


def test_the_command_prints_a_file_that_is_a_good_one(
    host: DemoHost, serve: Callable[[str], NameServer], tmp_path: Path
) -> None:
    server = serve(SERVICES.format(**host.ports))
    ended = mailprobe("discover", DOMAIN, "--nameserver", server.address, "--timeout", 10)
    assert (ended.code, ended.errors) == (0, "")
    path = tmp_path / "checks.yaml"
    path.write_text(ended.output, encoding="utf-8")
    assert ended.output.startswith(f"# Checks of the mail of {DOMAIN}, found by mailprobe discover on 2")
    assert mailprobe("report", path, "--check-config").code == 0
    # The marks of comments taken away, a login is asked for.
    path.write_text(ended.output.replace("    # username", "    username"), encoding="utf-8")
    asked = mailprobe("report", path, "--check-config")
    assert (asked.code, "password: is needed with username" in asked.errors) == (3, True)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("127.0.0.1",), "DOMAIN: '127.0.0.1' is not a domain"),
        (("a b",), "DOMAIN: 'a b' is not a host name or address"),
        (("",), "DOMAIN: "),
        (("/etc",), "DOMAIN: '/etc' is not a domain"),
        (("example.org", "--nameserver", "ns.example.org"), "--nameserver: 'ns.example.org' is not an address"),
        (("example.org", "--timeout", "0"), "--timeout: is from 1 to 600"),
        (("example.org", "--nameserver", f"127.0.0.1:{free_port()}", "--timeout", "1"), "127.0.0.1:"),
    ],
)
def test_what_cannot_be_asked_is_one_line(arguments: tuple[str, ...], words: str) -> None:
    ended = mailprobe("discover", *arguments)
    assert (ended.code, ended.output, ended.errors.count("\n")) == (3, "", 1)
    assert words in ended.errors


def test_a_domain_of_which_dns_knows_nothing_is_one_line(serve: Callable[[str], NameServer]) -> None:
    server = serve("@ TXT nothing\n")
    ended = mailprobe("discover", f"none.{DOMAIN}", "--nameserver", server.address)
    assert (ended.code, ended.output) == (3, "")
    assert ended.errors == f"mailprobe discover: no such name: none.{DOMAIN} ({server.address})\n"
    ended = mailprobe("discover", DOMAIN, "--nameserver", server.address)
    assert (ended.code, ended.output) == (3, "")
    assert ended.errors.startswith(f"mailprobe discover: no mail service of {DOMAIN} was found: ")


def test_a_domain_is_taken_as_people_write_it() -> None:
    assert checked_domain("Bücher.Example.") == "xn--bcher-kva.example"
    with pytest.raises(UsageError):
        checked_domain("x" * 300)

"""Every address behind a name: one dead node of four does not stay green, and takes no time from the others."""

from __future__ import annotations

import re
import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from .running import Outcome, check
from .scripted import Script, Scripted
from .servers import DOMAIN, USER, loopback_addresses
from .servers.certificates import CertificateAuthority
from .servers.nsd import NOBODY, NameServer
from .servers.postfix import Postfix
from .test_certificates import inert, lax_context_of
from .test_check_smtp import context_of, report
from .test_names import AGREE

NODES = ("127.0.0.1", "127.0.0.2", "127.0.0.3", "127.0.0.4")
GOOD = "S: 220 node.example ESMTP\n== any"
# As nagiosplugin writes a label that is more than letters.
LABELLED = re.compile(r"'(\w+)\[([^\]]+)\]'=([0-9.-]+)")


@contextmanager
def nodes(scripts: dict[str, str], tls: object = None) -> Iterator[dict[str, Scripted]]:
    """Servers on one port of several addresses, each with its own script; all that is opened is closed."""
    for dummy in range(50):
        with ExitStack() as stack:
            port, found = 0, {}
            try:
                for address, script in scripts.items():
                    server = Scripted(Script.read(script), tls=tls, host=address, port=port)  # type: ignore[arg-type]
                    found[address] = stack.enter_context(server)
                    port = server.port
            except OSError:
                continue  # somebody else has that port at that address
            yield found
            return
    raise RuntimeError("no port is free at all addresses")


@contextmanager
def black_hole(address: str, port: int) -> Iterator[None]:
    """An address at which connections are neither accepted nor refused: the queue of the listener is full."""
    with ExitStack() as stack:
        listener = stack.enter_context(socket.socket())
        listener.bind((address, port))
        listener.listen(0)
        for _ in range(3):
            waiting = stack.enter_context(socket.socket())
            waiting.setblocking(False)
            waiting.connect_ex((address, port))
        yield


def at(servers: dict[str, Scripted], name_server: NameServer, *arguments: object, name: str = "cluster") -> Outcome:
    port = next(iter(servers.values())).port
    where = ("-H", f"{name}.{DOMAIN}", "-p", port, "--nameserver", name_server.address)
    return check("smtp", *where, *arguments)


def metrics(outcome: Outcome) -> dict[tuple[str, str], float]:
    """The performance data of the first line by metric and address."""
    data = outcome.first_line.partition(" | ")[2]
    return {(name, address): float(value) for name, address, value in LABELLED.findall(data)}


ALL = "--all-addresses"


def test_all_addresses_of_a_name_are_asked(name_server: NameServer) -> None:
    with nodes(dict.fromkeys(NODES, GOOD)) as servers:
        outcome = at(servers, name_server, ALL, "-v")
        assert outcome.state == "ok", outcome.output
        assert {address: server.connections for address, server in servers.items()} == dict.fromkeys(NODES, 1)
        assert ": all 4 addresses work, 'node.example ESMTP', " in outcome.first_line
        assert {address for _, address in metrics(outcome)} == set(NODES)
        for address in NODES:
            assert re.search(rf"^address {address}: OK, in \d+\.\d+ s$", outcome.output, re.MULTILINE)
        found = report(at(servers, name_server, ALL, "--json"))
        assert sorted(part["address"] for part in found["addresses"]) == list(NODES)
        assert {part["state"] for part in found["addresses"]} == {"ok"}


def test_without_the_option_one_address_is_asked(name_server: NameServer) -> None:
    with nodes(dict.fromkeys(NODES, GOOD)) as servers:
        found = report(at(servers, name_server, "--json"))
        assert sum(server.connections for server in servers.values()) == 1
        assert found["addresses"] == []
        assert found["address"] in NODES


@pytest.mark.parametrize("dead", NODES)
def test_one_dead_node_of_four_is_critical_and_named(name_server: NameServer, dead: str) -> None:
    with nodes({address: GOOD for address in NODES if address != dead}) as servers:
        outcome = at(servers, name_server, ALL, "-v")
        assert outcome.state == "critical"
        port = next(iter(servers.values())).port
        words = f"{dead}: connection refused by {dead} port {port} [connection-refused]"
        assert f"SMTP CRITICAL - cluster.{DOMAIN}:{port}: {words} |" in outcome.first_line
        assert f"[critical] connection-refused at connect: {dead}: connection refused" in outcome.output
        assert f"\naddress {dead}: CRITICAL, in " in outcome.output
        assert outcome.output.count(": OK, in ") == 3
        assert {address for name, address in metrics(outcome) if name == "greeting_time"} == set(NODES) - {dead}
        found = report(at(servers, name_server, ALL, "--json"), "critical", "connection-refused")
        assert found["problems"][0]["address"] == found["address"] == dead
        assert [part["state"] for part in found["addresses"]].count("ok") == 3


def test_the_worst_of_several_findings_wins(name_server: NameServer) -> None:
    scripts = {
        "127.0.0.1": GOOD,
        "127.0.0.2": "S: 421 4.3.2 busy",
        "127.0.0.3": "S: 554 5.7.1 go away\nC: QUIT\nS: 221 x",
        "127.0.0.4": GOOD,
    }
    with nodes(scripts) as servers:
        found = report(at(servers, name_server, ALL, "--json"), "critical", *sorted(("busy", "greeting-refused")))
        assert found["address"] == "127.0.0.3"
        assert {problem["address"]: problem["code"] for problem in found["problems"]} == {
            "127.0.0.2": "busy",
            "127.0.0.3": "greeting-refused",
        }
        assert "127.0.0.3: " in found["summary"]
        assert found["summary"].endswith("(and 1 more)")
        options = ("--state", "greeting-refused=ok", "--json")
        found = report(at(servers, name_server, ALL, *options), "warning", *sorted(("busy", "greeting-refused")))
        assert found["address"] == "127.0.0.2"


def test_each_address_is_judged_by_the_ranges(name_server: NameServer) -> None:
    slow = "== wait 0.5\n" + GOOD
    with nodes({**dict.fromkeys(NODES, GOOD), "127.0.0.3": slow}) as servers:
        outcome = at(servers, name_server, ALL, "-w", "time=0.4")
        assert outcome.state == "warning"
        assert "time[127.0.0.3] is 0." in outcome.first_line
        assert metrics(outcome)[("time", "127.0.0.3")] >= 0.5
        assert at(servers, name_server, ALL, "-c", "greeting_time=0.4").state == "critical"
        assert at(servers, name_server, ALL, "-c", "time=9").state == "ok"


def test_a_range_for_what_one_address_does_not_tell_is_unknown(name_server: NameServer) -> None:
    with nodes(
        {**dict.fromkeys(NODES, "S: 220 x\nC: EHLO *\nS: 250-x\nS: 250 SIZE 1000\n== any"), "127.0.0.2": GOOD}
    ) as servers:
        outcome = at(servers, name_server, ALL, "-c", "size_limit=100:")
        assert outcome.state == "unknown"
        assert "size_limit[127.0.0.2] was not measured" in outcome.first_line


def test_a_node_that_drops_packets_leaves_time_for_the_others(name_server: NameServer) -> None:
    with nodes(dict.fromkeys(NODES[1:], GOOD)) as servers:
        port = next(iter(servers.values())).port
        with black_hole("127.0.0.1", port):
            outcome = at(servers, name_server, ALL, "-t", "3", "--json")
        found = report(outcome, "critical", "timeout")
        assert found["problems"][0]["address"] == "127.0.0.1"
        assert [part["state"] for part in found["addresses"]].count("ok") == 3
        assert outcome.json["elapsed"] < 3


def test_nodes_that_are_all_silent_take_no_more_than_the_time_limit(name_server: NameServer) -> None:
    with nodes(dict.fromkeys(NODES, "== silence")) as servers:
        outcome = at(servers, name_server, ALL, "-t", "2", "--json")
        report(outcome, "critical", *["timeout"] * 4)
        assert outcome.json["elapsed"] < 3
        assert all(server.connections == 1 for server in servers.values())


def test_nodes_that_never_answer_the_farewell_take_no_more_than_the_time_limit(name_server: NameServer) -> None:
    script = "S: 220 x\nC: EHLO *\nS: 250 x\nC: QUIT\n== silence"
    with nodes(dict.fromkeys(NODES, script)) as servers:
        outcome = at(servers, name_server, ALL, "-t", "2", "--json")
        assert outcome.errors == ""
        assert outcome.json["elapsed"] < 3
        assert outcome.state == "ok"


def test_both_families_are_asked(name_server: NameServer) -> None:
    if "::1" not in loopback_addresses():
        return
    with nodes({"127.0.0.1": GOOD, "::1": GOOD}) as servers:
        outcome = at(servers, name_server, ALL, "--json", name="both")
        assert [part["address"] for part in report(outcome)["addresses"]] == ["::1", "127.0.0.1"]
        assert {address for _, address in metrics(at(servers, name_server, ALL, name="both"))} == {"127.0.0.1", "::1"}
        found = report(at(servers, name_server, ALL, "-6", "--json", name="both"))
        assert [part["address"] for part in found["addresses"]] == ["::1"]
    with nodes({"127.0.0.1": GOOD}) as servers:
        found = report(at(servers, name_server, ALL, "--json", name="both"), "critical", "connection-refused")
        assert found["problems"][0]["address"] == "::1"


def test_without_the_option_the_family_that_fails_is_told_in_a_note(name_server: NameServer) -> None:
    if "::1" not in loopback_addresses():
        return
    with nodes({"127.0.0.1": GOOD}) as servers:
        found = report(at(servers, name_server, "--json", name="both"))
        assert found["address"] == "127.0.0.1"
        assert found["notes"] == [f"connection refused by ::1 port {servers['127.0.0.1'].port}"]
        assert "note: connection refused by ::1 port " in at(servers, name_server, "-v", name="both").output


def test_without_the_option_a_node_that_drops_packets_leaves_time_for_the_next(name_server: NameServer) -> None:
    with nodes({"127.0.0.1": GOOD}) as servers:
        with black_hole(NOBODY, servers["127.0.0.1"].port):
            outcome = at(servers, name_server, "-t", "3", "--json", name="half")
        assert report(outcome)["address"] == "127.0.0.1"


def test_an_address_is_a_name_with_one_address(postfix: Postfix) -> None:
    found = report(check("smtp", "-H", "127.0.0.1", "-p", postfix.plain, ALL, "--json"))
    assert [part["address"] for part in found["addresses"]] == ["127.0.0.1"]


def test_the_system_s_resolver_can_be_asked_for_all_addresses_too(postfix: Postfix) -> None:
    found = report(check("smtp", "-H", "localhost", "-p", postfix.plain, ALL, "--json"))
    assert {part["address"] for part in found["addresses"]} <= set(loopback_addresses())
    assert found["addresses"]


@pytest.mark.parametrize("protocol", ["pop3", "imap", "sieve"])
def test_a_dead_node_is_found_in_every_protocol(name_server: NameServer, protocol: str) -> None:
    where = ("-H", f"cluster.{DOMAIN}", "-p", 1, "--nameserver", name_server.address, ALL)
    found = report(check(protocol, *where, "--json"), "critical", *["connection-refused"] * 4)
    assert len({problem["address"] for problem in found["problems"]}) == 4


INSIDE = "== tls\nS: 220 x\n== any"


def test_each_address_has_its_certificate(name_server: NameServer, ca: CertificateAuthority) -> None:
    tls = ("--tls", "implicit", "--ca-file", ca.pem_path, "--tls-server-name", "localhost")
    with ExitStack() as stack:
        first = stack.enter_context(Scripted(INSIDE, tls=context_of(ca.make("ec")), host="127.0.0.1"))
        dead = Scripted(INSIDE, tls=lax_context_of(ca.make("expired")), host=NOBODY, port=first.port)
        stack.enter_context(dead)
        outcome = at({"127.0.0.1": first}, name_server, ALL, *tls, "-v", name="half")
        assert outcome.state == "critical"
        assert re.search(
            rf"^address {NOBODY}: CRITICAL, in .*, certificate valid for -2 days", outcome.output, re.MULTILINE
        )
        assert re.search(
            r"^address 127.0.0.1: OK, in .*, TLSv1.3, certificate valid for 89 days$", outcome.output, re.MULTILINE
        )
        found = report(
            at({"127.0.0.1": first}, name_server, ALL, *tls, "--json", name="half"), "critical", "certificate-expired"
        )
        assert found["certificate"]["days_left"] == -2
        days = {part["address"]: part["certificate"]["days_left"] for part in found["addresses"]}
        assert days == {NOBODY: -2, "127.0.0.1": 89}
        outcome = at({"127.0.0.1": first}, name_server, ALL, *tls, "-c", "certificate_days=10:", name="half")
        assert "more)" not in outcome.first_line, "the expired one is one result, and the other is fine"


def test_the_names_of_each_address_are_judged(name_server: NameServer) -> None:
    with nodes(dict.fromkeys(NODES, f"S: 220 mail.{DOMAIN} ESMTP\n== any")) as servers:
        found = report(at(servers, name_server, ALL, AGREE, "--json"), "critical", *["name-disagreement"] * 3)
        assert {problem["address"] for problem in found["problems"]} == {"127.0.0.2", "127.0.0.3", "127.0.0.4"}


def test_promises_are_tried_at_each_address(name_server: NameServer, localhost_tls: tuple[object, Path]) -> None:
    tls = ("--tls", "implicit", "--ca-file", localhost_tls[1], "--tls-server-name", "localhost")
    with nodes(dict.fromkeys(NODES, INSIDE), tls=localhost_tls[0]) as servers:
        outcome = at(servers, name_server, ALL, *tls, "--refuse-tls", "TLSv1.2", "--json")
        report(outcome, "critical", *["tls-not-refused"] * 4)
        assert all(server.connections == 2 for server in servers.values())


def test_a_password_is_hidden_in_the_report_of_every_address(name_server: NameServer) -> None:
    script = (
        "S: 220 x\nC: EHLO *\nS: 250-x\nS: 250 AUTH PLAIN\nC: AUTH *\nS: 535 {password}\nC: QUIT\nS: 221 {password}"
    )
    login = ("--username", USER.name, "--password-env", "PW", "--allow-plaintext-login")
    with ExitStack() as stack:
        first = stack.enter_context(Scripted(script, host="127.0.0.1", words={"password": "geheimnis"}))
        stack.enter_context(Scripted(script, host=NOBODY, port=first.port, words={"password": "geheimnis"}))
        where = ("-H", f"half.{DOMAIN}", "-p", first.port, "--nameserver", name_server.address, ALL, *login)
        for more in ("-vv", "--json"):
            outcome = check("smtp", *where, more, env={"PW": "geheimnis"})
            assert outcome.state == "critical"
            assert "geheimnis" not in outcome.output
            assert outcome.output.count("***") >= 2


@pytest.mark.parametrize("more", ["-v", "-vv", "--json"])
def test_hostile_words_of_one_address_are_made_inert(name_server: NameServer, more: str) -> None:
    hostile = "S: 220 x\\x1b[31m | \\u202e\\x00\nC: EHLO *\nS: 554 \\x9b | <script>\nC: QUIT\nS: 221 x"
    with nodes({**dict.fromkeys(NODES, GOOD), "127.0.0.2": hostile}) as servers:
        outcome = at(servers, name_server, ALL, more)
    assert outcome.state == "critical"
    inert(outcome.output)
    if more != "--json":
        assert outcome.output.count("|") == 1


OFFERS_LOGIN = "S: 220 node.example ESMTP\nC: EHLO *\nS: 250-node.example\nS: 250 AUTH PLAIN\n"
REFUSES_LOGIN = OFFERS_LOGIN + "C: AUTH PLAIN *\nS: 535 5.7.8 Authentication failed\nC: QUIT\nS: 221 Bye\n"
HEARS_NO_LOGIN = OFFERS_LOGIN + "C: QUIT\nS: 221 Bye\n"


def test_a_wrong_password_is_tried_at_one_address_only(name_server: NameServer, password_file: Path) -> None:
    login = ("--username", USER.name, "--password-file", password_file, "--allow-plaintext-login")
    with nodes({NODES[0]: REFUSES_LOGIN, **dict.fromkeys(NODES[1:], HEARS_NO_LOGIN)}) as servers:
        port = servers[NODES[0]].port
        where = ("-H", f"cluster.{DOMAIN}", "--nameserver", name_server.address, "--all-addresses", "-p", port)
        found = report(check("smtp", *where, *login, "--json"), "critical", *["auth-rejected"] * len(NODES))
        for server in servers.values():
            server.finish()
            assert server.errors == []
    assert [part["facts"]["login"] for part in found["addresses"]] == ["refused", None, None, None]
    assert all("is not tried again" in part["problems"][0]["message"] for part in found["addresses"][1:])

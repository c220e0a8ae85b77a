"""Names, networks and sockets that do not work: each kind of trouble has its own finding, within the time limit.

The checks run in namespaces of their own (`unshare`), with other routes, another /etc/hosts or another name server.
"""

from __future__ import annotations

import contextlib
import os
import random
import re
import shutil
import socket
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import dns.exception
import dns.flags
import dns.message
import dns.rcode
import dns.rdatatype
import dns.rrset
import pytest

from .running import NOISE_SECONDS, Outcome, check_smtp, run
from .scripted import Scripted
from .servers import free_port, loopback_addresses

CHECK = [sys.executable, "-m", "nagios_checks.smtp"]
SERVER = "S: 220 mx.example.org ESMTP\n== any"

# A route to the loopback interface for an address that is not there: the kernel sends the packet, and drops it.
DROPPING = (
    "ip link set lo up && ip address add 198.51.100.1/32 dev lo"
    ' && ip route add 192.0.2.0/24 dev lo src 198.51.100.1 && exec "$@"'
)


def cannot_unshare() -> str:
    """Why this machine has no namespaces for us; empty when it has."""
    if os.geteuid() != 0 or not shutil.which("unshare") or not shutil.which("ip"):
        return "needs root, unshare and ip"
    done = run(["unshare", "--net", "--mount", "true"])
    return "" if done.code == 0 else f"namespaces are not allowed here: {done.errors.strip()}"


NO_NAMESPACES = cannot_unshare()
in_namespaces = pytest.mark.skipif(bool(NO_NAMESPACES), reason=NO_NAMESPACES or "-")


def diagnosed(outcome: Outcome, code: str, stage: str, timeout: float = 10) -> None:
    """Hold an outcome of `-v` to one finding with a hint, in time, and with performance data."""
    assert outcome.errors == ""
    assert outcome.state == "critical", outcome.output
    findings = [line for line in outcome.output.splitlines() if line.startswith("[")]
    assert len(findings) == 1, outcome.output
    assert findings[0].startswith(f"[critical] {code} at {stage}: "), outcome.output
    assert "\n    hint: " in outcome.output
    assert outcome.seconds < timeout + 1 + NOISE_SECONDS
    assert "time" in outcome.perfdata()


def without_network(setup: str, *arguments: object) -> Outcome:
    """Run the check in a network namespace of its own, after a script that sets it up."""
    return run(["unshare", "--net", "sh", "-c", setup, "sh", *CHECK, "-v", *map(str, arguments)])


# Nobody answers.


@pytest.mark.parametrize("address", loopback_addresses())
def test_a_port_on_which_nobody_listens_is_connection_refused(address: str) -> None:
    port = free_port()
    outcome = check_smtp("-H", address, "-p", port, "-v")
    diagnosed(outcome, "connection-refused", "connect")
    assert "Nothing listens on that port, or a firewall rejects" in outcome.output
    assert set(outcome.perfdata()) == {"time", "resolve_time", "connect_time"}


@in_namespaces
@pytest.mark.parametrize("address", ["192.0.2.1", "2001:db8::1"])
def test_where_there_is_no_network_there_is_no_route(address: str) -> None:
    outcome = without_network('ip link set lo up && exec "$@"', "-H", address)
    diagnosed(outcome, "no-route", "connect")
    assert f"no route to {address} port 25: Network is unreachable" in outcome.output


@in_namespaces
def test_where_even_loopback_is_down_there_is_no_route() -> None:
    diagnosed(without_network('exec "$@"', "-H", "127.0.0.1"), "no-route", "connect")


@in_namespaces
@pytest.mark.parametrize("kind", ["unreachable", "prohibit", "blackhole"])
def test_a_route_that_forbids_is_no_route(kind: str) -> None:
    setup = f'ip link set lo up && ip route add {kind} 192.0.2.0/24 && exec "$@"'
    outcome = without_network(setup, "-H", "192.0.2.1")
    diagnosed(outcome, "no-route", "connect")
    assert "firewall" in outcome.output


@in_namespaces
def test_where_packets_are_dropped_it_is_a_timeout_at_connect_after_the_time_limit() -> None:
    outcome = without_network(DROPPING, "-H", "192.0.2.1", "-t", "1")
    diagnosed(outcome, "timeout", "connect", timeout=1)
    assert outcome.seconds > 1
    assert re.search(r"no answer from 192\.0\.2\.1 port 25 in (1|0\.9+\d*) s", outcome.first_line)
    assert "a firewall that drops" in outcome.output


@contextlib.contextmanager
def deaf(address: str, port: int) -> Iterator[None]:
    """An address that drops: its queue of connections is full, and the kernel answers no more of them."""
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(socket.socket())
        listener.bind((address, port))
        listener.listen(0)
        for _ in range(3):
            caller = stack.enter_context(socket.socket())
            caller.setblocking(False)
            with contextlib.suppress(BlockingIOError):
                caller.connect((address, port))
        yield


def test_a_server_whose_queue_is_full_is_a_timeout_at_connect() -> None:
    port = free_port()
    with deaf("127.0.0.1", port):
        outcome = check_smtp("-H", "127.0.0.1", "-p", port, "-t", "1", "-v")
    diagnosed(outcome, "timeout", "connect", timeout=1)


# Names.


@contextlib.contextmanager
def name_server(address: str) -> Iterator[None]:
    """A DNS server that does what the first label of the name says."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind((address, 53))
        thread = threading.Thread(target=answer_all, args=(sock,), daemon=True)
        thread.start()
        try:
            yield
        finally:
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as end:
                end.sendto(b"", (address, 53))
            thread.join(5)


def answer_all(sock: socket.socket) -> None:
    """Answer questions until an empty one comes."""
    while True:
        data, client = sock.recvfrom(4096)
        if not data:
            return
        with contextlib.suppress(dns.exception.DNSException):
            answer = answer_to(dns.message.from_wire(data))
            if answer is not None:
                sock.sendto(answer.to_wire(), client)


ADDRESSES = {"A": "127.0.0.1", "AAAA": "::1"}


def answer_to(query: dns.message.Message) -> dns.message.Message | None:
    question = query.question[0]
    kind = dns.rdatatype.to_text(question.rdtype)
    word = question.name.labels[0].decode()
    answer = dns.message.make_response(query)
    answer.flags |= dns.flags.RA
    rcodes = {"nxdomain": dns.rcode.NXDOMAIN, "servfail": dns.rcode.SERVFAIL, "refused": dns.rcode.REFUSED}
    if word == "silent":
        return None
    if word in rcodes:
        answer.set_rcode(rcodes[word])
    elif word == "alias":
        answer.answer.append(dns.rrset.from_text(question.name, 60, "IN", "CNAME", "nxdomain.example.test."))
        answer.set_rcode(dns.rcode.NXDOMAIN)
    elif (word, kind) in {("a", "A"), ("aaaa", "AAAA"), ("both", "A"), ("both", "AAAA")}:
        answer.answer.append(dns.rrset.from_text(question.name, 60, "IN", kind, ADDRESSES[kind]))
    return answer


def with_files(directory: Path, files: dict[str, str], *arguments: object) -> Outcome:
    """Run the check with other files in /etc."""
    mounts = []
    for name, text in files.items():
        (directory / name).write_text(text)
        mounts.append(f"mount --bind {directory / name} /etc/{name}")
    setup = " && ".join([*mounts, 'exec "$@"'])
    return run(["unshare", "--mount", "sh", "-c", setup, "sh", *CHECK, "-v", *map(str, arguments)])


@pytest.fixture(scope="module")
def resolver_address() -> Iterator[str]:
    """The address of a name server; each worker of pytest-xdist has its own."""
    if NO_NAMESPACES:
        pytest.skip(NO_NAMESPACES)
    address = "127.{}.{}.{}".format(*random.SystemRandom().choices(range(2, 250), k=3))
    try:
        with name_server(address):
            yield address
    except OSError as error:
        pytest.skip(f"port 53 of {address} is not free: {error}")


def resolved(directory: Path, address: str, *arguments: object, options: str = "timeout:5 attempts:2") -> Outcome:
    """Run the check with a name server of our own."""
    files = {
        "resolv.conf": f"nameserver {address}\noptions {options}\n",
        "nsswitch.conf": "hosts: dns\n",
        "hosts": "",
    }
    return with_files(directory, files, *arguments)


@pytest.mark.parametrize("name", ["a", "both"])
def test_a_name_with_an_address_is_found(tmp_path: Path, resolver_address: str, name: str) -> None:
    with Scripted(SERVER) as server:
        outcome = resolved(tmp_path, resolver_address, "-H", f"{name}.example.test", "-p", server.port)
    assert outcome.state == "ok", outcome.output
    assert "address: 127.0.0.1\n" in outcome.output


@pytest.mark.parametrize("name", ["nxdomain", "alias"])
@pytest.mark.parametrize("family", ["any", "ipv4", "ipv6"])
def test_a_name_that_is_not_there_is_unknown(tmp_path: Path, resolver_address: str, name: str, family: str) -> None:
    outcome = resolved(tmp_path, resolver_address, "-H", f"{name}.example.test", "--family", family)
    diagnosed(outcome, "name-unknown", "resolve")
    assert f"no such name: {name}.example.test" in outcome.first_line
    assert "hint: DNS: " in outcome.output
    assert set(outcome.perfdata()) == {"time", "resolve_time"}


@pytest.mark.parametrize(
    ("name", "family", "words"),
    [
        ("nodata", "any", "nodata.example.test has no address"),
        ("nodata", "ipv4", "nodata.example.test has no IPv4 address"),
        ("a", "ipv6", "a.example.test has no IPv6 address"),
        ("aaaa", "ipv4", "aaaa.example.test has no IPv4 address"),
    ],
)
def test_a_name_without_such_an_address_is_not_an_unknown_name(
    tmp_path: Path, resolver_address: str, name: str, family: str, words: str
) -> None:
    outcome = resolved(tmp_path, resolver_address, "-H", f"{name}.example.test", "--family", family)
    diagnosed(outcome, "no-address", "resolve")
    assert words in outcome.first_line


@pytest.mark.parametrize("name", ["servfail", "refused"])
def test_a_resolver_that_fails_is_not_an_unknown_name(tmp_path: Path, resolver_address: str, name: str) -> None:
    outcome = resolved(tmp_path, resolver_address, "-H", f"{name}.example.test")
    diagnosed(outcome, "resolver-failed", "resolve")
    assert "/etc/resolv.conf" in outcome.output


def test_a_resolver_that_does_not_answer_costs_no_more_than_the_time_limit(
    tmp_path: Path, resolver_address: str
) -> None:
    outcome = resolved(tmp_path, resolver_address, "-H", "silent.example.test", "-t", "1")
    diagnosed(outcome, "resolver-failed", "resolve", timeout=1)
    assert "no answer from the resolver" in outcome.first_line


def test_a_resolver_that_the_system_gives_up_is_resolver_failed(tmp_path: Path, resolver_address: str) -> None:
    options = "timeout:1 attempts:1"
    outcome = resolved(tmp_path, resolver_address, "-H", "silent.example.test", "-4", "-t", "5", options=options)
    diagnosed(outcome, "resolver-failed", "resolve", timeout=5)
    assert outcome.seconds < 3 + NOISE_SECONDS


@in_namespaces
def test_a_name_server_that_is_not_running_is_resolver_failed(tmp_path: Path) -> None:
    outcome = resolved(tmp_path, "127.250.250.250", "-H", "a.example.test", "-t", "5")
    diagnosed(outcome, "resolver-failed", "resolve", timeout=5)


@in_namespaces
def test_an_address_needs_no_resolver(tmp_path: Path) -> None:
    with Scripted(SERVER) as server:
        outcome = resolved(tmp_path, "127.250.250.250", "-H", "127.0.0.1", "-p", server.port, "-t", "2")
    assert outcome.state == "ok", outcome.output


# Names with several addresses.


def in_hosts(directory: Path, addresses: list[str], *arguments: object) -> Outcome:
    """Run the check where many.example.test has these addresses."""
    files = {
        "hosts": "".join(f"{address} many.example.test\n" for address in addresses),
        "host.conf": "multi on\n",
        "nsswitch.conf": "hosts: files\n",
    }
    return with_files(directory, files, "-H", "many.example.test", *arguments)


@in_namespaces
def test_an_address_that_drops_costs_its_share_and_the_next_is_tried(tmp_path: Path) -> None:
    with Scripted(SERVER, host="127.0.0.3") as server, deaf("127.0.0.2", server.port):
        outcome = in_hosts(tmp_path, ["127.0.0.2", "127.0.0.3"], "-p", server.port, "-t", "3", "-vv")
    assert outcome.state == "ok", outcome.output
    assert "address: 127.0.0.3\n" in outcome.output
    assert f"=== no answer from 127.0.0.2 port {server.port} in 1." in outcome.output
    assert 1.5 < outcome.seconds < 2.5 + NOISE_SECONDS


@in_namespaces
def test_an_address_that_refuses_costs_nothing_and_the_next_is_tried(tmp_path: Path) -> None:
    with Scripted(SERVER, host="127.0.0.3") as server:
        outcome = in_hosts(tmp_path, ["127.0.0.2", "127.0.0.3"], "-p", server.port, "-t", "3", "-vv")
    assert outcome.state == "ok", outcome.output
    assert f"=== connection refused by 127.0.0.2 port {server.port}\n" in outcome.output
    assert outcome.seconds < 1 + NOISE_SECONDS


@in_namespaces
def test_many_addresses_that_drop_share_the_time_limit(tmp_path: Path) -> None:
    port = free_port()
    addresses = [f"127.0.0.{number}" for number in range(2, 7)]
    with contextlib.ExitStack() as stack:
        for address in addresses:
            stack.enter_context(deaf(address, port))
        outcome = in_hosts(tmp_path, addresses, "-p", port, "-t", "2")
    diagnosed(outcome, "timeout", "connect", timeout=2)
    for address in addresses:
        assert f"no answer from {address} port {port} in " in outcome.first_line


@in_namespaces
def test_where_all_addresses_fail_differently_all_are_told(tmp_path: Path) -> None:
    port = free_port()
    with deaf("127.0.0.2", port):
        outcome = in_hosts(tmp_path, ["127.0.0.2", "127.0.0.3"], "-p", port, "-t", "1")
    diagnosed(outcome, "timeout", "connect", timeout=1)
    assert f"no answer from 127.0.0.2 port {port} in 0." in outcome.first_line
    assert f"connection refused by 127.0.0.3 port {port}" in outcome.first_line


@in_namespaces
def test_a_family_without_a_route_tells_less_than_the_one_that_was_refused(tmp_path: Path) -> None:
    port = free_port()
    outcome = in_hosts(tmp_path, ["2001:db8::1", "127.0.0.2"], "-p", port, "-t", "2")
    diagnosed(outcome, "connection-refused", "connect", timeout=2)


@in_namespaces
def test_an_address_of_a_family_without_a_route_does_no_harm(tmp_path: Path) -> None:
    with Scripted(SERVER) as server:
        outcome = in_hosts(tmp_path, ["2001:db8::1", "127.0.0.1"], "-p", server.port, "-t", "2")
    assert outcome.state == "ok", outcome.output


# Unix sockets.


@pytest.mark.parametrize("path", ["missing", "missing/too", "file/below"])
def test_a_unix_socket_that_is_not_there_is_missing(tmp_path: Path, path: str) -> None:
    (tmp_path / "file").touch()
    outcome = check_smtp("-H", tmp_path / path, "-v")
    diagnosed(outcome, "socket-missing", "connect")
    assert outcome.first_line.startswith(f"SMTP CRITICAL - {tmp_path / path}: ")


def test_a_unix_socket_on_which_nobody_listens_refuses(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(str(tmp_path / "left-over"))
    diagnosed(check_smtp("-H", tmp_path / "left-over", "-v"), "connection-refused", "connect")


@pytest.mark.parametrize("kind", ["file", "directory"])
def test_what_is_no_socket_refuses(tmp_path: Path, kind: str) -> None:
    path = tmp_path / kind
    path.mkdir() if kind == "directory" else path.touch()
    diagnosed(check_smtp("-H", path, "-v"), "connection-refused", "connect")


@pytest.mark.parametrize("closed", ["socket", "directory"])
def test_a_unix_socket_that_may_not_be_used_is_denied(tmp_path: Path, closed: str) -> None:
    command = [*CHECK, "-v", "-H", str(tmp_path / "closed" / "smtp")]
    if os.geteuid() == 0:
        if not shutil.which("setpriv"):
            pytest.skip("needs setpriv to run the check without root's privileges")
        command = ["setpriv", "--bounding-set=-dac_override,-dac_read_search", *command]
    (tmp_path / "closed").mkdir()
    with Scripted(SERVER, path=tmp_path / "closed" / "smtp") as server:
        os.chmod(server.path if closed == "socket" else tmp_path / "closed", 0)
        outcome = run(command)
        os.chmod(tmp_path / "closed", 0o700)
    diagnosed(outcome, "socket-denied", "connect")
    assert "mode and owner" in outcome.output
    assert server.connections == 0


def test_a_unix_socket_whose_queue_is_full_is_a_timeout(tmp_path: Path) -> None:
    path = str(tmp_path / "full")
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(socket.socket(socket.AF_UNIX))
        listener.bind(path)
        listener.listen(0)
        for _ in range(3):
            caller = stack.enter_context(socket.socket(socket.AF_UNIX))
            caller.setblocking(False)
            with contextlib.suppress(BlockingIOError):
                caller.connect(path)
        outcome = check_smtp("-H", path, "-t", "1", "-v")
    diagnosed(outcome, "timeout", "connect", timeout=1)

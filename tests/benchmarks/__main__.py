"""How fast and how large `mailprobe report` is, measured side by side with others that do the same on this machine.

    python -m tests.benchmarks [throughput] [silence] [size] [--rounds N]

The others are unpacked beside the system by the benchmark itself. Absolute numbers say more about the machine than
about anybody's code; so all is done in turns, and what counts are the ratios: of each round, the median of all, and the
least and the greatest. CPU time is told, too, since it suffers less from what else the machine does.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path

from nagios_checks.report.command import PER_HOST, WORKERS

from ..servers import free_port
from ..servers.certificates import CertificateAuthority
from . import rivals
from .footprint import watched
from .rivals import BlackboxExporter, Cost, timed
from .server import Server, Silent

CHECKS = 1000
MANY_CHECKS = 10_000
SILENT = 100
TIMEOUT = 5  # seconds
AT_ONCE = 8  # as many of check_smtp
ROUNDS = 5
# As many as keep all workers busy, with no more than the usual number for each host.
HOSTS = WORKERS // PER_HOST
SERVER_NAME = "mail.example.test"
# What was asked for.
TIMES_CHECK_SMTP = 3.0
TIMES_BLACKBOX = 1.0
MAX_SECONDS = 8
MAX_MIB = 200


class Bench:
    """Files, a server, and a run of mailprobe with them."""

    def __init__(self, directory: Path, ca_file: Path, port: int) -> None:
        self.directory = directory
        self.ca_file = ca_file
        self.port = port
        self.hosts = [f"127.0.1.{number}" for number in range(1, HOSTS + 1)]

    def addresses(self, count: int) -> list[str]:
        """As many addresses to check, the hosts in turns."""
        return [self.hosts[place % len(self.hosts)] for place in range(count)]

    def configuration(self, addresses: Iterable[str]) -> Path:
        """A file with a check of each."""
        defaults = {
            "port": self.port,
            "tls": "starttls",
            "ca_file": str(self.ca_file),
            "tls_server_name": SERVER_NAME,
            "timeout": TIMEOUT,
        }
        checks = [
            {"name": f"check {place}", "protocol": "smtp", "host": address}
            for place, address in enumerate(addresses, start=1)
        ]
        path = self.directory / "checks.yaml"
        path.write_text(json.dumps({"defaults": defaults, "checks": checks}, indent=1), encoding="utf-8")
        return path

    def report(self, addresses: list[str], *options: str, code: int = 0, bad: int = 0) -> Cost:
        """Run the command that a crontab has."""
        file = self.configuration(addresses)
        command = [sys.executable, "-m", "nagios_checks.cli", "report", str(file), *options]
        cost, output = timed(command, code=code)
        if f"{len(addresses) - bad} ok" not in output:
            raise RuntimeError(f"not as many checks went well as should: {output[:500]}")
        return cost


def say(words: str = "") -> None:
    print(words, flush=True)


def ratios(ours: list[float], theirs: list[float]) -> str:
    """How many times theirs is of ours, in each round: the median, and the least and the greatest."""
    of_rounds = sorted(their / our for our, their in zip(ours, theirs))
    return f"{statistics.median(of_rounds):.2f} ({of_rounds[0]:.2f} to {of_rounds[-1]:.2f})"


def throughput(bench: Bench, server: Server, rounds: int) -> None:
    """1,000 checks with STARTTLS and verified certificates, beside check_smtp and blackbox_exporter: where all wait for
    the CPUs, and where they wait for the server.
    """
    for server.at_once.value in (True, False):
        say("The server answers " + ("at once" if server.at_once.value else "as over a network, 40 ms later"))
        _throughput(bench, server, rounds)


def _throughput(bench: Bench, server: Server, rounds: int) -> None:
    addresses = bench.addresses(CHECKS)
    history = bench.directory / "history.sqlite"
    with BlackboxExporter(bench.directory, bench.ca_file, SERVER_NAME) as blackbox:
        runners: dict[str, Callable[[], Cost]] = {
            "mailprobe report": lambda: bench.report(addresses),
            "  with --history": lambda: bench.report(addresses, "--history", str(history)),
            f"check_smtp -S, {AT_ONCE} at once": lambda: rivals.check_smtp(addresses, bench.port, AT_ONCE),
            f"blackbox_exporter, {WORKERS} at once": lambda: blackbox.probe(addresses, bench.port, WORKERS),
        }
        costs: dict[str, list[Cost]] = {name: [] for name in runners}
        for runner in runners.values():
            runner()  # what is cold is nobody's fault
        before = server.cpu_seconds()
        for number in range(rounds):
            for name in list(runners)[:: -1 if number % 2 else 1]:
                costs[name].append(runners[name]())
        served = (server.cpu_seconds() - before) / rounds / len(runners)
    ours, with_history, checks_smtp, blackboxes = costs.values()
    say(f"{CHECKS} checks, {rounds} rounds; medians; the server takes {1000 * served / CHECKS:.2f} ms of CPU each")
    for name, each in costs.items():
        rate = CHECKS / statistics.median(cost.seconds for cost in each)
        cpu = 1000 * statistics.median(cost.cpu for cost in each) / CHECKS
        say(f"  {name:34} {rate:7.0f} checks/s {cpu:6.2f} ms of CPU each")
    for name, rival, wanted in (
        ("check_smtp -S", checks_smtp, TIMES_CHECK_SMTP),
        ("blackbox_exporter", blackboxes, TIMES_BLACKBOX),
    ):
        for what, mine in (("", ours), (" with history", with_history)):
            seconds = ratios([cost.seconds for cost in mine], [cost.seconds for cost in rival])
            cpu_time = ratios([cost.cpu for cost in mine], [cost.cpu for cost in rival])
            say(f"  throughput{what} / {name}: {seconds}; by CPU time {cpu_time}; wanted: {wanted:g}")


def silence(bench: Bench, server: Server, rounds: int) -> None:
    """1,000 checks of which 100 never answer: every tenth, or the last 100 of the file."""
    mute = [f"127.0.2.{number}" for number in range(1, SILENT + 1)]
    well = bench.addresses(CHECKS - SILENT)
    step = len(well) // SILENT
    spread = [address for place, bad in enumerate(mute) for address in (*well[place * step : (place + 1) * step], bad)]
    say(f"{CHECKS} checks of which {SILENT} never answer, time limit {TIMEOUT} s; wanted: at most {MAX_SECONDS} s")
    with Silent(mute, bench.port):
        for what, addresses in (("every tenth", spread), ("the last ones", [*well, *mute])):
            took = [bench.report(addresses, code=2, bad=SILENT).seconds for _ in range(rounds)]
            say(f"  {what:14} {statistics.median(took):5.2f} s ({min(took):.2f} to {max(took):.2f})")


def size(bench: Bench, server: Server, rounds: int) -> None:
    """10,000 checks: memory, threads and descriptors."""
    say(f"{MANY_CHECKS} checks; wanted: at most {MAX_MIB} MiB, no thread and no descriptor more than before")
    file = bench.configuration(bench.addresses(MANY_CHECKS))
    for name in ("text", "html", "json"):
        command = [sys.executable, "-m", "tests.benchmarks.footprint", str(file), "--format", name]
        peak, output = watched([*command, "--output", os.devnull if name == "text" else str(bench.directory / name)])
        told = json.loads(output.splitlines()[-1])
        before, after = told["before"], told["after"]
        say(
            f"  {name:6} all processes together at most {peak} MiB; the first one alone at most {after['peak']} MiB"
            f" (before the run {before['peak']}); threads {before['threads']} -> {after['threads']},"
            f" descriptors {before['descriptors']} -> {after['descriptors']}"
        )


BENCHMARKS = {"throughput": throughput, "silence": silence, "size": size}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks", description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"{', '.join(BENCHMARKS)}; default: all")
    parser.add_argument("--rounds", type=int, default=ROUNDS, help=f"default: {ROUNDS}")
    given = parser.parse_args()
    unknown = set(given.names) - set(BENCHMARKS)
    if unknown or given.rounds < 1:
        parser.error(f"there is no {', '.join(sorted(unknown))}" if unknown else "--rounds: at least 1")
    rivals.install()
    for version in rivals.versions():
        say(version)
    authority = CertificateAuthority()
    try:
        with tempfile.TemporaryDirectory() as directory:
            bench = Bench(Path(directory), authority.pem_path, free_port())
            with Server(authority.issue(SERVER_NAME), bench.hosts, bench.port) as server:
                for name in given.names or BENCHMARKS:
                    BENCHMARKS[name](bench, server, given.rounds)
    finally:
        authority.remove()


if __name__ == "__main__":
    main()

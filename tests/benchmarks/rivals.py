"""The others: Debian's packages, unpacked beside the system; nothing is installed, and no root is needed."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from ..servers import free_port, wait_until

PACKAGES = {
    "monitoring-plugins-basic": "usr/lib/nagios/plugins/check_smtp",
    "prometheus-blackbox-exporter": "usr/bin/prometheus-blackbox-exporter",
}
DIRECTORY = Path(__file__).resolve().parent.parent / ".rivals"
CHECK_SMTP, BLACKBOX = (DIRECTORY / path for path in PACKAGES.values())
TOOLS = ("apt-get", "dpkg", "xargs", "curl")

# The conversation that both others have: EHLO, STARTTLS, and over TLS EHLO and QUIT.
MODULE = """\
modules:
  smtp:
    prober: tcp
    timeout: 10s
    tcp:
      preferred_ip_protocol: ip4
      query_response:
        - expect: "^220"
        - send: "EHLO prober\\r"
        - expect: "^250-STARTTLS"
        - send: "STARTTLS\\r"
        - expect: "^220"
        - starttls: true
        - send: "EHLO prober\\r"
        - expect: "^250 "
        - send: "QUIT\\r"
        - expect: "^221"
      tls_config: {{ca_file: "{ca_file}", server_name: "{server_name}"}}
"""


@dataclass(frozen=True)
class Cost:
    """What a run took: seconds on the clock, and of CPU time, the server's and that of whoever asks an exporter
    apart.
    """

    seconds: float
    cpu: float


def install() -> None:
    """Unpack what is not there yet. Raises RuntimeError with words for the user."""
    missing = [tool for tool in TOOLS if shutil.which(tool) is None]
    if missing:
        raise RuntimeError(f"the benchmark needs {', '.join(missing)}, on Debian or a derivative")
    wanted = [package for package, path in PACKAGES.items() if not (DIRECTORY / path).exists()]
    with tempfile.TemporaryDirectory() as download:
        if os.geteuid() == 0:
            shutil.chown(download, "_apt")  # the user as whom apt-get then downloads
        for package in wanted:
            if subprocess.run(["apt-get", "--quiet", "--quiet", "download", package], cwd=download).returncode != 0:
                raise RuntimeError(f"{package} cannot be downloaded: try apt-get update first")
        for archive in Path(download).glob("*.deb"):
            subprocess.run(["dpkg", "-x", archive, DIRECTORY], check=True)


def versions() -> Iterator[str]:
    """The first line of what each says of its version."""
    for command in ([CHECK_SMTP, "--version"], [BLACKBOX, "--version"]):
        said = subprocess.run(command, capture_output=True, text=True)
        yield (said.stdout or said.stderr).partition("\n")[0]


def check_smtp(addresses: list[str], port: int, at_once: int) -> Cost:
    """check_smtp -S once for each address, as many at once. It does not verify the certificate: it cannot."""
    command = [CHECK_SMTP, "-S", "-p", str(port), "-H"]
    cost, output = timed(["xargs", "-P", str(at_once), "-n", "1", *map(str, command)], "\n".join(addresses))
    _all_well(output.count("SMTP OK"), addresses, output)
    return cost


class BlackboxExporter:
    """A running blackbox_exporter; from `with` to its end."""

    def __init__(self, directory: Path, ca_file: Path, server_name: str) -> None:
        self._directory = directory
        self._port = free_port()
        configuration = directory / "blackbox.yml"
        configuration.write_text(MODULE.format(ca_file=ca_file, server_name=server_name), encoding="utf-8")
        self._command = [
            str(BLACKBOX),
            f"--config.file={configuration}",
            f"--web.listen-address=127.0.0.1:{self._port}",
            "--log.level=error",
        ]

    def __enter__(self) -> BlackboxExporter:
        self._process = subprocess.Popen(self._command)
        ready = ["curl", "--silent", "--output", os.devnull, f"http://127.0.0.1:{self._port}/"]
        wait_until(lambda: subprocess.run(ready).returncode == 0, "blackbox_exporter to start")
        return self

    def __exit__(self, *_exception: object) -> None:
        self._process.terminate()
        self._process.wait()

    def probe(self, addresses: list[str], port: int, at_once: int) -> Cost:
        """Ask it by HTTP for a probe of each address, as many at once."""
        urls = self._directory / "urls"
        base = f"http://127.0.0.1:{self._port}/probe?module=smtp&target="
        urls.write_text("".join(f'url = "{base}{address}:{port}"\n' for address in addresses), encoding="utf-8")
        before = cpu_seconds(self._process.pid)
        command = ["curl", "--silent", "--no-progress-meter", "--parallel", "--parallel-max", str(at_once)]
        cost, output = timed([*command, "--config", str(urls)])
        _all_well(output.count("probe_success 1"), addresses, output)
        return Cost(cost.seconds, cpu_seconds(self._process.pid) - before)


def cpu_seconds(pid: int) -> float:
    """The CPU time of a running process and all its threads (proc_pid_stat(5))."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def timed(command: list[str], words: str = "", code: int = 0) -> tuple[Cost, str]:
    """Run a command to its end; what it and its children cost, and what it printed."""
    with _costing() as costs:
        ran = subprocess.run(command, input=words, stdout=subprocess.PIPE, text=True)
    if ran.returncode != code:
        raise RuntimeError(f"{command[0]} ended with {ran.returncode}: {ran.stdout[:500]}")
    return costs[0], ran.stdout


@contextmanager
def _costing() -> Iterator[list[Cost]]:
    costs: list[Cost] = []
    started, before = time.monotonic(), os.times()
    yield costs
    after = os.times()
    used = after.children_user + after.children_system - before.children_user - before.children_system
    costs.append(Cost(time.monotonic() - started, used))


def _all_well(count: int, addresses: list[str], output: str) -> None:
    if count != len(addresses):
        raise RuntimeError(f"only {count} of {len(addresses)} checks went well: {output[:500]}")

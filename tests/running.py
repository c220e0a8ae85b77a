"""Run a command as a monitoring system does, and see what it printed, how it ended, and what it cost."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .canary import keep

REPOSITORY = Path(__file__).resolve().parent.parent
# A run that does not end by itself is killed after its own time limit and this much, and that is a failure.
WATCHDOG_SECONDS = 20
# What a busy machine may take to start a Python, beyond what the probe promises.
NOISE_SECONDS = 1

# The Monitoring Plugins' guidelines: 'label'=value[UOM];[warn];[crit];[min];[max]
PERFDATUM = re.compile(r"\w+=-?[0-9]+(\.[0-9]+)?(s|B|%|c)?(;[^; ]*){0,4}")
STATES = ("ok", "warning", "critical", "unknown")


@dataclass(frozen=True)
class Outcome:
    """What came of a run: `peak_mib` is the most memory that the process ever had."""

    code: int
    output: str
    errors: str
    seconds: float
    peak_mib: float

    @property
    def state(self) -> str:
        return STATES[self.code]

    @property
    def first_line(self) -> str:
        return self.output.partition("\n")[0]

    @property
    def json(self) -> Any:
        return json.loads(self.output)

    def perfdata(self) -> dict[str, str]:
        """The performance data of the first line, by label; fails when it does not follow the grammar."""
        dummy, bar, data = self.first_line.partition(" | ")
        assert bar, f"no performance data in {self.first_line!r}"
        found = data.split(" ")
        assert all(PERFDATUM.fullmatch(datum) for datum in found), data
        return dict(datum.split("=", 1) for datum in found)


def peak_kib(pid: int | str = "self") -> int:
    """The most memory that a process, by default this one, has had; 0 when it is gone.

    What `getrusage` and wait4(2) tell of that begins with the memory of whoever started it.
    """
    try:
        status = Path(f"/proc/{pid}/status").read_text(encoding="utf-8")
    except OSError:
        return 0
    found = re.search(r"^VmHWM:\s+([0-9]+) kB$", status, re.MULTILINE)
    return int(found[1]) if found else 0


def run(command: list[str], env: dict[str, str] | None = None, stdin: str = "") -> Outcome:
    """Run a command to its end, with a text as its standard input."""
    with (
        tempfile.TemporaryFile("w+") as given,
        tempfile.TemporaryFile("w+") as output,
        tempfile.TemporaryFile("w+") as errors,
    ):
        given.write(stdin)
        given.seek(0)
        started, peak = time.monotonic(), 0
        process = subprocess.Popen(
            command, stdin=given, stdout=output, stderr=errors, env={**os.environ, **(env or {})}
        )
        while True:
            peak = peak_kib(process.pid) or peak
            pid, status = os.waitpid(process.pid, os.WNOHANG)
            if pid:
                break
            if time.monotonic() - started > WATCHDOG_SECONDS:
                process.kill()
            time.sleep(0.005)
        process.returncode = os.waitstatus_to_exitcode(status)
        seconds = time.monotonic() - started
        output.seek(0)
        errors.seek(0)
        outcome = Outcome(process.returncode, output.read(), errors.read(), seconds, peak / 1024)
    keep(f"{command}\n{outcome.output}\n{outcome.errors}")
    return outcome


def check(protocol: str, *arguments: object, env: dict[str, str] | None = None) -> Outcome:
    """Run the check of a protocol with the Python of the tests, from the source tree or wherever it is installed."""
    return run([sys.executable, "-m", f"nagios_checks.{protocol}", *map(str, arguments)], env)


def check_smtp(*arguments: object, env: dict[str, str] | None = None) -> Outcome:
    """Run check_mail_smtp."""
    return check("smtp", *arguments, env=env)

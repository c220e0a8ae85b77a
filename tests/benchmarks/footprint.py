"""Runs `mailprobe report` in this process, and tells what the process has at its end: `... FILE --output OUT`."""

from __future__ import annotations

import contextlib
import json
import os
import re
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from nagios_checks.cli import main

INTERVAL = 0.05  # seconds between two looks at the memory


def state() -> dict[str, int]:
    """The most memory ever (MiB), and the present threads and descriptors."""
    status = Path("/proc/self/status").read_text()
    peak = re.search(r"^VmHWM:\s+([0-9]+) kB$", status, re.MULTILINE)
    return {
        "peak": int(peak[1]) // 1024 if peak else 0,
        "threads": threading.active_count(),
        "descriptors": len(os.listdir("/proc/self/fd")),
    }


def watched(command: list[str]) -> tuple[int, str]:
    """Run a command to its end: the most memory that it and its children ever had together (MiB), what several of them
    share counted once (Pss, proc_pid_smaps(5)), and what it printed.
    """
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    with ThreadPoolExecutor(1) as reader:
        output = reader.submit(lambda: process.communicate()[0])
        peak = 0
        while not output.done():
            peak = max(peak, sum(map(_share, _family(process.pid))))
            time.sleep(INTERVAL)
    if process.returncode != 0:
        raise RuntimeError(f"{command[0]} ended with {process.returncode}")
    return peak // 1024, output.result()


def _family(pid: int) -> list[int]:
    """A process and all that come from it; what ends meanwhile is left out."""
    with contextlib.suppress(OSError):
        tasks = Path(f"/proc/{pid}/task").glob("*/children")
        children = [int(number) for task in tasks for number in task.read_text().split()]
        return [pid, *(each for child in children for each in _family(child))]
    return []


def _share(pid: int) -> int:
    """What a process has of the memory, in KiB: all that is its own, and its part of what it shares."""
    with contextlib.suppress(OSError):
        found = re.search(r"^Pss:\s+([0-9]+) kB$", Path(f"/proc/{pid}/smaps_rollup").read_text(), re.MULTILINE)
        return int(found[1]) if found else 0
    return 0


if __name__ == "__main__":
    before = state()
    with contextlib.suppress(SystemExit):
        main(["report", *sys.argv[1:]])
    sys.stdout.write(json.dumps({"before": before, "after": state()}) + "\n")

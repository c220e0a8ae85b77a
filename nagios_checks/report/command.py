"""`mailprobe report`: its command line, and what it does in which order."""

from __future__ import annotations

import argparse
import os
import re
import signal
import warnings
from collections.abc import Sequence
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any, NoReturn

from mailprobe.codes import STATES
from mailprobe.text import printable

from ..arguments import EXIT_UNKNOWN, NUMBERS, Misuse
from ..output import complain, print_text, write
from .formats import FORMATS
from .outcome import EXIT_CODES

if TYPE_CHECKING:
    from .history import News
    from .outcome import Health
    from .plan import Config

# Of 1,000 checks 100 may be silent until their time limit and still hold up none of the others.
WORKERS = 128
# Servers take a few sessions from one address as normal; at 10 and more rate limits begin.
PER_HOST = 4
# One process more costs some ten milliseconds and 30 MiB, a check two milliseconds of CPU time.
CHECKS_A_PROCESS = 100
# Beyond that, whoever asks is seldom what all wait for, and a cron job takes too much of a monitoring host.
MAX_PROCESSES = 4
KEEP_DAYS = 400.0
UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 7 * 86400}


class _Output(argparse.Action):
    """`--output` belongs to the `--format` before it."""

    def __call__(self, parser: Any, namespace: Any, value: Any, option_string: str | None = None) -> None:
        pairs = list(namespace.formats or [])
        if option_string == "--format":
            pairs.append((value, None))
        elif not pairs or pairs[-1][1] is not None:
            raise Misuse("--output: goes behind the --format that it is for")
        else:
            pairs[-1] = (pairs[-1][0], None if value == "-" else value)
        namespace.formats = pairs


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options."""
    parser.add_argument("file", type=_path, metavar="FILE", help="The checks, in YAML; mailprobe schema describes it.")
    parser.add_argument(
        "--check-config",
        action="store_true",
        help="Read the file, the secrets and the files that it names, tell all that is wrong, and run nothing.",
    )
    group = parser.add_argument_group("What to write")
    add = group.add_argument
    add("--format", choices=FORMATS, action=_Output, dest="formats", help="Default: text. May be given more than once.")
    add(
        "--output",
        action=_Output,
        type=_path,
        dest="formats",
        metavar="FILE",
        help="File for the --format before it, which is written whole or not at all. Default: standard output, or -.",
    )
    add("--all", action="store_true", help="Tell of healthy checks, too, in formats that leave them out.")
    add("--exit-zero", action="store_true", help="Exit with 0 whatever the states of the checks are.")
    group = parser.add_argument_group("How to run")
    add = group.add_argument
    add("--workers", type=_count, default=WORKERS, metavar="N", help=f"Checks at once. Default: {WORKERS}.")
    add("--per-host", type=_count, default=PER_HOST, metavar="N", help=f"Of one host at once. Default: {PER_HOST}.")
    add(
        "--processes",
        type=_count,
        metavar="N",
        help=f"Processes to share the checks out to. Default: one for each CPU, at most {MAX_PROCESSES}; below"
        f" {CHECKS_A_PROCESS} checks one.",
    )
    add(
        "--deadline",
        type=_duration,
        metavar="TIME",
        help="What has not begun by then is not run, and is unknown; as in 90s, 5m, 1h.",
    )
    group = parser.add_argument_group("What was before")
    add = group.add_argument
    add(
        "--history",
        type=_path,
        metavar="FILE",
        help="Keep states and metrics in this SQLite file, and tell of changes.",
    )
    add(
        "--keep",
        type=NUMBERS["float"],
        default=KEEP_DAYS,
        metavar="DAYS",
        help=f"How long; after a day one run an hour is kept, after a week one a day. Default: {KEEP_DAYS:g}.",
    )
    add(
        "--changes-only",
        action="store_true",
        help="Print nothing and exit with 0 when no state has changed since something was printed; files are written.",
    )
    add(
        "--remind-after",
        type=_duration,
        metavar="TIME",
        help="With --changes-only, print again after so long, as in 12h or 1d, while something is not well.",
    )


def _count(text: str) -> int:
    number: int = NUMBERS["int"](text)
    if not 1 <= number <= 10_000:
        raise argparse.ArgumentTypeError(f"{number} is not from 1 to 10000")
    return number


def _path(text: str) -> str:
    if not text:
        raise argparse.ArgumentTypeError("is empty: give the name of a file")
    return text


def _duration(text: str) -> float:
    found = re.fullmatch(r"([0-9]{1,9}(?:\.[0-9]{1,3})?)([smhdw]?)", text)
    if found is None or float(found[1]) == 0:
        raise argparse.ArgumentTypeError(f"'{printable(text, limit=80)}' is no time like 90s, 5m, 12h or 1d")
    return float(found[1]) * UNITS[found[2] or "s"]


def execute(given: argparse.Namespace) -> int:
    """Run the command; returns its exit code. Raises `Misuse`."""
    outputs: Sequence[tuple[str, str | None]] = given.formats or [("text", None)]
    _check(given, outputs)
    # Of a strange certificate or regular expression, Python's warnings would go to standard error.
    warnings.simplefilter("ignore")
    signal.signal(signal.SIGTERM, _interrupt)  # what stops a systemd unit ends the run as Ctrl-C does
    # Who started us may ignore it, and then nobody learns how a process of ours has ended.
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    from .config import load
    from .plan import ConfigError
    from .registry import PROTOCOLS

    try:
        config = load(given.file, PROTOCOLS)
    except ConfigError as error:
        for fault in error.faults:
            complain(str(fault))
        return EXIT_UNKNOWN
    return _check_config(config, given.file) if given.check_config else _report(config, given, outputs)


def _interrupt(*dummy: object) -> NoReturn:
    raise KeyboardInterrupt


def _check(given: argparse.Namespace, outputs: Sequence[tuple[str, str | None]]) -> None:
    """What options must not be together."""
    files = [path for dummy, path in outputs if path is not None]
    if len(outputs) - len(files) > 1:
        printed = " and ".join(name for name, path in outputs if path is None)
        raise Misuse(f"--format: {printed} would both be printed: give --output behind one of them")
    if len(set(map(os.path.realpath, files))) < len(files):
        raise Misuse("--output: two formats go to one file")
    for path in files:
        for kept, words in ((given.file, "the file of checks"), (given.history, "the history")):
            if kept is not None and os.path.realpath(kept) == os.path.realpath(path):
                raise Misuse(f"--output: {path} is {words}, which would be lost")
    if given.keep <= 0:
        raise Misuse("--keep: is more than 0 days")
    if given.history is None and given.changes_only:
        raise Misuse("--changes-only: needs --history, which knows what was before")
    if given.remind_after is not None and not given.changes_only:
        raise Misuse("--remind-after: goes with --changes-only")


def _check_config(config: Config, file: str) -> int:
    from .config import unusable

    faults = unusable(config, file)
    for fault in (*faults, *config.advice):
        complain(str(fault))
    if faults:
        return EXIT_UNKNOWN
    words = f"{file}: {len(config.checks)} check{'s' * (len(config.checks) != 1)}, nothing is wrong"
    print_text((printable(words), "\n"))
    return 0


def _report(config: Config, given: argparse.Namespace, outputs: Sequence[tuple[str, str | None]]) -> int:
    from .plan import once
    from .progress import bar
    from .run import Limits, run

    processes = given.processes or _worthwhile_processes(len(config.checks))
    ran = run(config, given.file, Limits(given.workers, given.per_host, given.deadline, processes), bar)
    health = ran.health
    troubles: list[str] = []
    if config.advice:
        first, *more = config.advice
        others = f"; and {len(more)} more such places, which --check-config tells" if more else ""
        health.notes.append(f"{first}{others}")
    news = _remember(given, health, ran.missed, troubles)
    silent = given.changes_only and news is not None and not (ran.missed or _is_worth_telling(health, news, given))
    printed = _write_all(health, given, outputs, silent, troubles)
    if printed and news is not None:
        _told(given.history, health, ran.missed, troubles)
    # Of what a check lacks somebody was told when its state changed.
    complaints = troubles if silent else [*map(str, once(ran.faults)), *troubles]
    for trouble in complaints:
        complain(trouble)
    states = ["ok" if given.exit_zero or silent else health.state, "unknown" if complaints else "ok"]
    return EXIT_CODES[min(states, key=STATES.index)]


def _worthwhile_processes(checks: int) -> int:
    """One for each CPU, unless there is too little to do for that. On a system that cannot tell the CPUs that are ours,
    macOS among them, copying a process that has libraries loaded is not safe either.
    """
    cpus = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 1
    return min(cpus, MAX_PROCESSES, 1 + checks // CHECKS_A_PROCESS)


def _remember(given: argparse.Namespace, health: Health, missed: frozenset[str], troubles: list[str]) -> News | None:
    if given.history is None:
        return None
    from .history import HistoryError, record

    try:
        return record(given.history, health, missed, given.keep)
    except HistoryError as error:
        reason = str(error)
    except KeyboardInterrupt:
        reason = "interrupted"
    troubles.append(f"{given.history}: {reason}")
    health.notes.append(f"there is no history in this report: {given.history}: {reason}")
    return None


def _told(history: str, health: Health, missed: frozenset[str], troubles: list[str]) -> None:
    from .history import HistoryError, tell

    try:
        tell(history, health, missed)
    except HistoryError as error:
        troubles.append(f"{history}: {error}")


def _is_worth_telling(health: Health, news: News, given: argparse.Namespace) -> bool:
    if news.changed:
        return True
    if given.remind_after is None or health.state == "ok":
        return False
    if news.told is None:
        return True
    passed = (datetime.now(timezone.utc) - news.told).total_seconds()
    return not 0 <= passed < given.remind_after  # below 0 the clock was wrong at that time, by years perhaps


def _write_all(
    health: Health,
    given: argparse.Namespace,
    outputs: Sequence[tuple[str, str | None]],
    silent: bool,
    troubles: list[str],
) -> bool:
    """Write each format where it belongs; returns whether something was printed for somebody."""
    from .formats import Choices, render

    printed = False
    for name, path in outputs:
        if path is None and silent:
            continue
        try:
            pieces = render(name, health, Choices(all=given.all))
            if path is None:
                print_text(pieces)
                printed = True
            else:
                write(path, pieces)
        except OSError as error:
            troubles.append(f"{path or 'standard output'} cannot be written: {error.strerror}")
    return printed

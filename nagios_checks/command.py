"""The single command of every check: its command line, its end whatever happens, its exit code."""

from __future__ import annotations

import signal
import socket
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import NoReturn

from mailprobe.options import UsageError
from mailprobe.text import printable
from mailprobe.version import __version__

from .arguments import (
    EXIT_UNKNOWN,
    Misuse,
    Parser,
    add_options,
    add_thresholds,
    misuse,
    parse,
    to_options,
    to_ranges,
)
from .common import TLS_METRICS, CheckSpec, build
from .output import print_text
from .present import as_json, as_text

# How long after its time limit a run that does not end by itself is ended; a user's regular expression can do that.
OVERRUN_SECONDS = 0.4


def parser(spec: CheckSpec) -> Parser:
    """The command line of a check."""
    made = Parser(
        prog=f"check_mail_{spec.name}",
        description=spec.description,
        epilog="Exit codes: 0 OK, 1 WARNING (a flaw, or refused for now), 2 CRITICAL, 3 UNKNOWN (wrong options, --help,"
        " --version, or a range for something that was not measured).",
        allow_abbrev=False,
        add_help=False,
    )
    add_options(made, spec.options)
    add_thresholds(made, spec.known_metrics)
    group = made.add_argument_group("What to print")
    group.add_argument(
        "-v",
        "--verbose",
        action="count",
        default=0,
        help="Findings with hints, and facts; twice: the transcript of the conversation, too.",
    )
    group.add_argument("--json", action="store_true", help="Print the whole report as one JSON document instead.")
    group.add_argument(
        "--extra-opts",
        metavar="=[SECTION][@FILE]",
        help="Read options from a section of an ini file, as the Monitoring Plugins do, passwords too (password = ...);"
        " by default the section is named as this program.",
    )
    group.add_argument(
        "-V", "--version", action="version", version=f"%(prog)s {__version__}", help="Print the version."
    )
    group.add_argument("-h", "--help", action="help", help="Print this help.")
    return made


def main(spec: CheckSpec, argv: list[str] | None = None) -> NoReturn:
    """Run a check as a command and exit with its state. `argv` is without the program's name."""
    arguments = sys.argv[1:] if argv is None else argv
    # Of a strange certificate or regular expression, Python's warnings would go to standard error. Said here, since the
    # filter is the process's and the core runs on threads.
    warnings.simplefilter("ignore")
    try:
        code, output = _ended(spec, arguments)
    except MemoryError:  # there was not even enough to say so
        code, output = EXIT_UNKNOWN, "UNKNOWN - this host has no memory left\n"
    with suppress(OSError):  # a pipe that nobody reads, a full disk: the exit code still tells
        print_text((output,))
    sys.exit(code)


def _ended(spec: CheckSpec, arguments: list[str]) -> tuple[int, str]:
    """The exit code and the output of a run, however it ended."""
    try:
        with _stopped_by_signals():
            return _run(spec, arguments)
    except Misuse as misuse:
        words, limit = str(misuse), 1000
    except KeyboardInterrupt as stopped:
        words, limit = f"the check was stopped by {stopped or 'SIGINT'}", 300
    except (OSError, MemoryError) as error:  # no descriptors, no memory
        words, limit = f"trouble on this host, not the server's: {_told(error)}", 300
    except Exception as error:  # our own bug
        words, limit = f"internal error, please report it: {_told(error)}", 300
    return EXIT_UNKNOWN, f"{spec.name.upper()} UNKNOWN - {printable(words, limit=limit)}\n"


def _told(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}".rstrip(": ")


def _run(spec: CheckSpec, arguments: list[str]) -> tuple[int, str]:
    given, secrets = parse(parser(spec), spec.options, arguments)
    options = to_options(spec.options, given, secrets)
    warning, critical = to_ranges(given, (known.metric for known in spec.known_metrics))
    for metric in TLS_METRICS:
        if options.tls == "none" and metric in {**warning, **critical}:
            raise Misuse(f"--tls: {metric} is only known with TLS: set it to starttls or implicit")
    check, resource = build(spec, options, warning, critical)
    try:
        with _ended_after(options.timeout + OVERRUN_SECONDS):
            check()
    except UsageError as error:
        raise misuse(spec.options, error) from None
    if resource.report is None:
        raise RuntimeError("the check ended without a report")
    if given.json:
        return check.exitcode, as_json(check, resource.report)
    return check.exitcode, as_text(check, resource.report, given.verbose)


@contextmanager
def _ended_after(seconds: float) -> Iterator[None]:
    """The net below the probe's own deadline: an alarm, for the main thread of a single command."""

    def ring(*dummy: object) -> NoReturn:
        # In a stage of the conversation it is explained like any other, so that what was measured is not lost.
        raise socket.timeout(f"the run did not end in {seconds:g} s")

    signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)


@contextmanager
def _stopped_by_signals() -> Iterator[None]:
    """SIGTERM and SIGINT end the check in one clean line, after a farewell where that is due; a second one at once."""

    def stop(number: int, dummy: object) -> NoReturn:
        signal.signal(number, signal.SIG_DFL)
        raise KeyboardInterrupt(signal.Signals(number).name)

    before = {number: signal.signal(number, stop) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)

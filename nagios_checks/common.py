"""The body of every check: acquire a report, evaluate it, present it, each once for all protocols.

A check is a `CheckSpec`. `build()` makes nagiosplugin's `Check` of it, which the report calls as well; `main()` is the
single command.
"""

from __future__ import annotations

import os
import signal
import socket
import sys
import warnings
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, Callable, NoReturn

import nagiosplugin
from nagiosplugin.state import Critical, Ok, ServiceState, Unknown, Warn

from mailprobe.codes import Code, Stage
from mailprobe.families import PromiseOptions
from mailprobe.options import UsageError
from mailprobe.report import Facts, Problem, Report
from mailprobe.run import overrun
from mailprobe.text import printable
from mailprobe.version import __version__

from .arguments import (
    EXIT_UNKNOWN,
    Misuse,
    Parser,
    Threshold,
    add_options,
    add_thresholds,
    misuse,
    parse,
    to_options,
    to_ranges,
)
from .present import as_json, as_text

# The stages that every conversation has; a protocol adds its own before the farewell.
COMMON_STAGES = (Stage.RESOLVE, Stage.CONNECT, Stage.GREETING, Stage.CAPABILITIES, Stage.TLS, Stage.AUTH)
# Metrics that only TLS gives.
CERTIFICATE_METRICS = ("certificate_days", "certificate_lifetime_percent", "chain_days")
TLS_METRICS = (*CERTIFICATE_METRICS, "tls_time")

STATES: Mapping[str, ServiceState] = {"ok": Ok, "warning": Warn, "critical": Critical, "unknown": Unknown}
# A CRITICAL must not hide behind a part that could not be measured: nagiosplugin ranks by number, UNKNOWN the worst.
RANKS = {Ok: 0, Unknown: 1, Warn: 2, Critical: 3}
# What a greeting may take of the status line, so that the rest of it is still seen.
MAX_BANNER = 200
# How long after its time limit a run that does not end by itself is ended; a user's regular expression can do that.
OVERRUN_SECONDS = 0.4


@dataclass(frozen=True)
class CheckSpec:
    """The declaration of a check: what is particular to one protocol."""

    name: str
    description: str
    options: type[PromiseOptions]
    facts: type[Facts]
    probe: Callable[[Any], Report[Any]]
    metrics: Callable[[Report[Any]], Iterable[nagiosplugin.Metric]]
    """What was measured beyond the times of the stages and the days of the certificate."""
    headline: Callable[[Report[Any]], Iterable[str]]
    """What to say when all is well, beyond what is said of every protocol."""
    stages: tuple[Stage, ...]
    """The protocol's own stages."""
    thresholds: tuple[Threshold, ...] = field(default=())

    @property
    def known_metrics(self) -> tuple[Threshold, ...]:
        """All metrics that a range can be given for."""
        return (
            Threshold("time", "seconds for the whole run"),
            *(Threshold(f"{stage.value}_time", "") for stage in (*COMMON_STAGES, *self.stages)),
            Threshold("quit_time", "seconds for the stage of that name"),
            Threshold("certificate_days", "whole days until the certificate expires"),
            Threshold("certificate_lifetime_percent", "what is left of the certificate's lifetime"),
            Threshold("chain_days", "whole days until the first certificate of the chain expires"),
            *self.thresholds,
        )


class Seconds(float):
    """A time that prints as plain decimals; `1e-05` is no number to many readers of performance data."""

    def __str__(self) -> str:
        return f"{self:.6f}"


class Decimal(float):
    """A number with two decimals, and without those that say nothing."""

    def __str__(self) -> str:
        return f"{self:.2f}".rstrip("0").rstrip(".")


class ProbeResource(nagiosplugin.Resource):
    """Acquires: runs the probe and hands its problems and measurements on as metrics."""

    def __init__(self, spec: CheckSpec, options: PromiseOptions, judged: Iterable[str]) -> None:
        self.spec = spec
        self.options = options
        self.judged = tuple(judged)
        self.report: Report[Any] | None = None

    @property
    def name(self) -> str:
        """The first word of the status line."""
        return self.spec.name.upper()

    def probe(self) -> Iterator[nagiosplugin.Metric]:
        """Problems first, so that among equals the finding is what the status line tells."""
        report = self.report = self._probe()
        for problem in report.problems:
            yield nagiosplugin.Metric(problem.code.value, problem, context="problem")
        if not report.addresses:
            yield from self._measured(report, "", set())
            return
        # Of several addresses, each is measured, and judged: one that is slow must not hide behind the others.
        yield from self._stage_times(report, Stage.RESOLVE)
        for part in report.addresses:
            yield from self._measured(part, f"[{part.address}]", {f"{Stage.RESOLVE.value}_time"})

    def _measured(self, report: Report[Any], suffix: str, measured: set[str]) -> Iterator[nagiosplugin.Metric]:
        """What was measured, the names with a suffix, and what should have been beside what is in `measured`."""
        for metric in (*self._times(report), *self._certificate(report), *self.spec.metrics(report)):
            kind = metric.context.rpartition(" ")[2]
            measured.add(kind)
            if metric.value is not None:
                yield metric.replace(name=metric.name + suffix)
            elif kind in self.judged:
                yield metric.replace(name=metric.name + suffix, context="missing")  # what is absent is never zero
        for name in self.judged:
            if name not in measured:
                yield nagiosplugin.Metric(name + suffix, None, context="missing")

    def _probe(self) -> Report[Any]:
        try:
            return self.spec.probe(self.options)
        except socket.timeout:  # outside of any stage: what took so long is on this host
            return overrun(self.options, self.spec.facts())

    def _times(self, report: Report[Any]) -> Iterator[nagiosplugin.Metric]:
        yield nagiosplugin.Metric("time", Seconds(report.elapsed), "s", 0, f"{self.options.timeout:g}")
        yield from self._stage_times(report, *report.timings)

    def _stage_times(self, report: Report[Any], *stages: Stage) -> Iterator[nagiosplugin.Metric]:
        for stage in stages:
            yield nagiosplugin.Metric(f"{stage.value}_time", Seconds(report.timings[stage]), "s", 0)

    def _certificate(self, report: Report[Any]) -> Iterator[nagiosplugin.Metric]:
        expired = any(problem.code is Code.CERTIFICATE_EXPIRED for problem in report.problems)
        leaf = report.certificate
        percent = None if leaf.lifetime_percent is None else Decimal(leaf.lifetime_percent)
        for name, value, unit in zip(
            CERTIFICATE_METRICS, (leaf.days_left, percent, report.tls.chain_days), (None, "%", None)
        ):
            yield nagiosplugin.Metric(name, value, unit, context=f"told {name}" if expired else None)


class ProblemContext(nagiosplugin.Context):
    """Evaluates a problem, which has a state of its own."""

    def evaluate(self, metric: nagiosplugin.Metric, resource: nagiosplugin.Resource) -> nagiosplugin.Result:
        """The result of one finding, its words being the message and the word for it that can be looked up."""
        problem: Problem = metric.value
        return nagiosplugin.Result(
            STATES[problem.state], f"{_at(problem)}{problem.message} [{problem.code.value}]", metric
        )


class MetricContext(nagiosplugin.ScalarContext):
    """Evaluates a measurement; a range that was not given judges nothing (nagiosplugin's own default is from 0 up)."""

    def __init__(self, name: str, warning: str | None, critical: str | None) -> None:
        super().__init__(name, warning or "~:", critical or "~:")
        self._given = {"warn": warning or "", "crit": critical or ""}

    def describe(self, metric: nagiosplugin.Metric) -> str:
        """The metric in plain decimals."""
        return f"{metric.name} is {metric.value}{metric.uom or ''}"

    def performance(self, metric: nagiosplugin.Metric, resource: nagiosplugin.Resource) -> nagiosplugin.Performance:
        """Performance data with the ranges as they were given."""
        return super().performance(metric, resource)._replace(**self._given)


class ToldContext(MetricContext):
    """One finding, one result: a measurement that a problem has told of already is not judged again."""

    def evaluate(self, metric: nagiosplugin.Metric, resource: nagiosplugin.Resource) -> nagiosplugin.Result:
        """OK whatever the range."""
        return nagiosplugin.Result(Ok, None, metric)


class MissingContext(nagiosplugin.Context):
    """Evaluates a measurement that a threshold needs and nothing gave."""

    def evaluate(self, metric: nagiosplugin.Metric, resource: nagiosplugin.Resource) -> nagiosplugin.Result:
        """UNKNOWN: there is nothing to compare the range with."""
        return nagiosplugin.Result(Unknown, f"{metric.name} was not measured, so its range cannot be judged", metric)


class WorstFirst(nagiosplugin.Results):
    """Results in which CRITICAL wins over WARNING, and both over UNKNOWN."""

    def __iter__(self) -> Iterator[nagiosplugin.Result]:
        """The worst first."""
        return iter(sorted(self.results, key=lambda result: -RANKS[result.state]))

    @property
    def most_significant_state(self) -> ServiceState:
        """The worst state of all results; raises ValueError when there are none."""
        return max(self.by_state, key=RANKS.__getitem__)


class ReportSummary(nagiosplugin.Summary):
    """Presents: the words of the status line."""

    def __init__(self, spec: CheckSpec, resource: ProbeResource) -> None:
        self.spec = spec
        self.resource = resource

    def ok(self, results: nagiosplugin.Results) -> str:
        """The headline."""
        report = self._report
        return self._at(
            f"{', '.join((*_common_headline(report), *self.spec.headline(report)))}, in {report.elapsed:.3f} s"
        )

    def problem(self, results: nagiosplugin.Results) -> str:
        """The worst result, and how many more there are."""
        bad = [result for result in results if result.state is not Ok]
        more = f" (and {len(bad) - 1} more)" if len(bad) > 1 else ""
        return self._at(f"{bad[0]}{more}")

    def verbose(self, results: nagiosplugin.Results) -> list[str]:
        """All results that are not OK, the worst first, with the hints of those that are findings."""
        lines = []
        for result in results:
            if isinstance(problem := result.metric.value, Problem):  # also one that is OK by --state
                where = f"{problem.code.value} at {problem.stage.value}"
                lines.append(f"[{result.state}] {where}: {_at(problem)}{problem.message}")
                lines.append(f"    hint: {problem.hint}")
            elif result.state is not Ok:
                lines.append(f"[{result.state}] {result.metric.name}: {result}")
        return lines

    @property
    def _report(self) -> Report[Any]:
        if self.resource.report is None:
            raise RuntimeError("the check has not run")
        return self.resource.report

    def _at(self, words: str) -> str:
        return f"{self._report.where}: {words}"


def _at(problem: Problem) -> str:
    return f"{problem.address}: " if problem.address else ""


def _common_headline(report: Report[Any]) -> Iterator[str]:
    if report.addresses:
        yield f"all {len(report.addresses)} addresses work"
    if report.problems:
        codes = ", ".join(dict.fromkeys(problem.code.value for problem in report.problems))
        yield f"in spite of {codes} (--state)"
    yield f"'{printable(report.facts.banner or '', limit=MAX_BANNER)}'"
    if report.tls.version:
        yield report.tls.version
    if report.certificate.days_left is not None:
        yield f"certificate valid for {report.certificate.days_left} days"
    if report.facts.login == "accepted":
        yield f"logged in with {report.facts.mechanism}"
    elif report.facts.login == "refused":
        yield f"login refused, as it must be, with {report.facts.mechanism}"


def measured(*values: tuple[str, float | None, str | None]) -> Iterator[nagiosplugin.Metric]:
    """Metrics for values (name, number, unit); None is what was not measured."""
    for name, value, unit in values:
        yield nagiosplugin.Metric(name, Decimal(value) if isinstance(value, float) else value, unit, 0)


def build(
    spec: CheckSpec, options: PromiseOptions, warning: Mapping[str, str], critical: Mapping[str, str]
) -> tuple[nagiosplugin.Check, ProbeResource]:
    """The check, not yet run, and its resource, which has the report afterwards. Ranges are texts by metric."""
    resource = ProbeResource(spec, options, dict.fromkeys([*critical, *warning]))
    contexts = _contexts(spec, tuple(warning.items()), tuple(critical.items()))
    return nagiosplugin.Check(resource, *contexts, ReportSummary(spec, resource), WorstFirst()), resource


@lru_cache(maxsize=256)  # most checks of a report have the same ranges, and a context holds nothing else
def _contexts(
    spec: CheckSpec, warnings: tuple[tuple[str, str], ...], criticals: tuple[tuple[str, str], ...]
) -> tuple[nagiosplugin.Context, ...]:
    warning, critical, metrics = dict(warnings), dict(criticals), spec.known_metrics
    return (
        *(MetricContext(known.metric, warning.get(known.metric), critical.get(known.metric)) for known in metrics),
        ProblemContext("problem"),
        *(ToldContext(f"told {name}", warning.get(name), critical.get(name)) for name in CERTIFICATE_METRICS),
        MissingContext("missing"),
    )


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
    if not _write(output):
        # What is still buffered would fail again when Python ends, and that makes exit code 120.
        os._exit(code)
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


def _write(output: str) -> bool:
    """Print what a terminal of any encoding can show. Whether that went well: it must not change the exit code."""
    if sys.stdout is None:
        return True  # Somebody closed it before we began.
    try:
        encoding = sys.stdout.encoding or "utf-8"
        sys.stdout.write(output.encode(encoding, "backslashreplace").decode(encoding))
        sys.stdout.flush()
    except (OSError, ValueError):
        return False
    return True

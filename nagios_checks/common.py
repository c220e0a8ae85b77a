"""The body of every check: acquire a report, evaluate it, present it, each once for all protocols.

A check is a `CheckSpec`. `build()` makes nagiosplugin's `Check` of it, for the single command and for the report.
"""

from __future__ import annotations

import socket
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, Callable

import nagiosplugin
from nagiosplugin.state import Critical, Ok, ServiceState, Unknown, Warn

from mailprobe.codes import Code, Stage
from mailprobe.families import PromiseOptions
from mailprobe.report import Facts, Problem, Report
from mailprobe.run import overrun
from mailprobe.text import printable

from .arguments import Threshold

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

"""Run the checks of a file side by side, through the very code of the single checks, and gather what they say."""

from __future__ import annotations

import socket
import sys
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, closing
from dataclasses import dataclass
from datetime import datetime, timezone
from functools import partial
from typing import Any

import nagiosplugin
from nagiosplugin.state import Ok

from mailprobe import batch, certificate
from mailprobe.options import UsageError
from mailprobe.report import Problem
from mailprobe.run import new_report
from mailprobe.smtp import SmtpOptions
from mailprobe.text import printable
from mailprobe.tls import Contexts

from ..common import build
from ..present import MAX_STATUS
from . import patterns, processes
from .outcome import Finding, Health, Measurement, Outcome, dumped
from .plan import Config, Fault, Planned

# Called with how many checks there are; what is then in force for the run is told of each outcome.
Watch = Callable[[int], AbstractContextManager[Callable[[Outcome], None]]]


@dataclass(frozen=True)
class Limits:
    """How many checks run at once, how many of them with one host, the seconds after which none begins, and in how many
    processes they run.
    """

    workers: int
    per_host: int
    deadline: float | None = None
    processes: int = 1


@dataclass(frozen=True)
class Ran:
    """What came of a run: the names of the checks that were `missed`, and the mistakes in the file that showed."""

    health: Health
    missed: frozenset[str]
    faults: list[Fault]


def run(config: Config, file: str, limits: Limits, watch: Watch) -> Ran:
    """Run all checks; `watch` is told how many there are, and then of each as it ends. Ctrl-C (KeyboardInterrupt) ends
    the run with what is there.

    The checks are taken out of `config`.
    """
    started, clock = datetime.now(timezone.utc), time.monotonic()
    faults: list[Fault] = []
    contexts = Contexts()
    for check in config.checks:
        check.options.share(contexts)
        if isinstance(check.options, SmtpOptions):
            check.options.search_by(patterns.search)
    jobs = [batch.Job(check.options.hostname.lower(), partial(_outcome, check, file)) for check in config.checks]
    outcomes: list[Outcome | None] = [None] * len(jobs)
    reason = ""
    left = dict(enumerate(config.checks))
    config.checks.clear()
    if limits.processes > 1:
        certificate.get_ready()
    try:
        batched = processes.run(
            jobs,
            workers=limits.workers,
            per_key=limits.per_host,
            seconds=limits.deadline,
            processes=limits.processes,
        )
        jobs.clear()  # what has ended is forgotten: of 10,000 checks, options and outcomes do not need memory at once
        with closing(batched) as ended, watch(len(left)) as tell:  # only here, since a bar has a thread
            for done in ended:
                if done.begun:
                    if isinstance(done.value, Outcome):
                        outcome = done.value
                        outcome.measurements = [_with_shared_name(each) for each in outcome.measurements]
                    elif done.value is not None:
                        faults.append(done.value)
                        outcome = _unknown(left[done.place], str(done.value))
                    else:
                        outcome = _failed(left[done.place], done.error)
                    outcomes[done.place] = outcome
                    del left[done.place]
                    tell(outcome)
                else:
                    reason = f"the deadline of {limits.deadline:g} s had passed"
    except KeyboardInterrupt:
        reason = "the run was interrupted"
    elapsed = time.monotonic() - clock
    for place, check in left.items():
        outcomes[place] = _unknown(check, f"not run: {reason}")
    health = Health(
        config.title or f"Mail as seen from {socket.gethostname()}",
        started,
        elapsed,
        [outcome for outcome in outcomes if outcome is not None],
        [f"{len(left)} of {len(outcomes)} checks were not run: {reason}"] if left else [],
    )
    return Ran(health, frozenset(check.name for check in left.values()), faults)


def _outcome(planned: Planned, file: str) -> Outcome | Fault:
    """One check, on whatever thread this is; why it cannot be run as its file has it, if a secret or another file is
    not there.
    """
    if planned.fault is not None:
        return planned.fault
    check, resource = build(planned.spec, planned.options, planned.warning, planned.critical)
    try:
        check()
    except UsageError as error:
        return planned.blame(file, error)
    if resource.report is None:
        raise RuntimeError("the check ended without a report")
    return Outcome(
        name=planned.name,
        protocol=planned.protocol,
        where=resource.report.where,
        state=str(check.state),
        summary=printable(check.summary_str, limit=MAX_STATUS),
        group=planned.group,
        findings=[_finding(result) for result in check.results if result.state is not Ok],
        measurements=[_measurement(result.metric) for result in check.results if _is_measured(result.metric)],
        perfdata=check.perfdata,
        document=dumped(resource.report.to_dict()),
    )


def _finding(result: nagiosplugin.Result) -> Finding:
    problem: Any = result.metric.value
    if isinstance(problem, Problem):
        return Finding(
            str(result.state),
            problem.code.value,
            problem.message,
            problem.stage.value,
            problem.hint,
            problem.address,
        )
    return Finding(str(result.state), result.metric.name, str(result))


def _is_measured(metric: nagiosplugin.Metric) -> bool:
    return isinstance(metric.value, (int, float))


def _measurement(metric: nagiosplugin.Metric) -> Measurement:
    return Measurement(metric.name, float(metric.value), metric.uom or "")


def _with_shared_name(measurement: Measurement) -> Measurement:
    """Thousands of checks measure the same few things, and what comes from another process has its own words."""
    return measurement._replace(name=sys.intern(measurement.name))


def _failed(planned: Planned, error: BaseException | None) -> Outcome:
    """Our own bug, a machine without memory: that check's trouble, and nobody else's."""
    told = str(error) if isinstance(error, processes.Failure) else f"{type(error).__name__}: {error}"
    words = printable(told, limit=300)
    return _unknown(planned, f"internal error, please report it: {words}")


def _unknown(planned: Planned, words: str) -> Outcome:
    options = planned.options
    where = new_report(options, planned.spec.facts()).where
    words = printable(words, limit=MAX_STATUS)
    return Outcome(planned.name, planned.protocol, where, "unknown", words, planned.group)

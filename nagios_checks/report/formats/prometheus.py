"""The report as a file for the textfile collector of Prometheus' node_exporter; written by Prometheus' own library."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from prometheus_client import CollectorRegistry, Metric, generate_latest
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from mailprobe.codes import STATES
from mailprobe.text import printable

from ...imap import FOLDER_METRICS
from ..outcome import EXIT_CODES, Health, Measurement, Outcome
from . import Choices
from .view import host_of, instant

# Base units, as Prometheus wants them: the end of the name, and what a value is divided by.
UNITS = {"s": ("seconds", 1), "B": ("bytes", 1), "%": ("ratio", 100)}
FOLDER_NAMES = tuple(name for name, dummy, dummy_words in FOLDER_METRICS)
CHECK_LABELS = ("check", "protocol", "host")


@dataclass
class Family:
    """All samples of one metric, by their labels; the first of equal ones stays. `labels` are those that all have."""

    help: str
    labels: tuple[str, ...]
    samples: dict[tuple[tuple[str, str], ...], float] = field(default_factory=dict)


class HealthCollector(Collector):
    """Hands the metrics of a run to Prometheus' library; each of them as a gauge."""

    def __init__(self, health: Health) -> None:
        self._health = health

    def collect(self) -> Iterator[Metric]:
        """All families of metrics."""
        for name, family in _families(self._health).items():
            gauge = GaugeMetricFamily(name, family.help)
            for labels, value in family.samples.items():
                gauge.add_sample(name, dict(labels), value)
            yield gauge


def render(health: Health, choices: Choices) -> Iterator[str]:
    """The metrics in Prometheus' text format."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(HealthCollector(health))
    yield generate_latest(registry).decode()


def _families(health: Health) -> Mapping[str, Family]:
    families: dict[str, Family] = {}

    def add(name: str, words: str, value: float, labels: Mapping[str, str]) -> None:
        common = tuple(label for label in labels if label != "address")
        family = families.setdefault(name, Family(words, common))
        if math.isfinite(value) and family.labels == common:
            family.samples.setdefault(tuple((label, printable(text)) for label, text in labels.items()), value)

    add("mailprobe_run_timestamp_seconds", "When the run began.", health.started.timestamp(), {})
    add("mailprobe_run_duration_seconds", "What the run took.", health.elapsed, {})
    for state in STATES:
        add("mailprobe_checks", "Checks in each state.", health.counts[state], {"state": state})
    for outcome in health.outcomes:
        labels = dict(zip(CHECK_LABELS, (outcome.name, outcome.protocol, host_of(outcome))))
        for name, words, value, more in _samples(outcome):
            add(name, words, value, {**labels, **more})
    return families


def _samples(outcome: Outcome) -> Iterator[tuple[str, str, float, Mapping[str, str]]]:
    """Each metric of a check: name, help, value, and labels beyond those of the check."""
    words = "The check's state: 0 ok, 1 warning, 2 critical, 3 unknown."
    yield "mailprobe_state", words, EXIT_CODES[outcome.state], {}
    if outcome.past:
        since = outcome.past.since.timestamp()
        yield "mailprobe_state_since_timestamp_seconds", "When the check came into its state.", since, {}
        yield "mailprobe_flapping", "1 when the check changes its state to and fro.", outcome.past.flapping, {}
    for finding in outcome.findings:
        if finding.state != "ok":
            more = {"code": finding.code, "state": finding.state}
            yield "mailprobe_finding", "What is wrong, as a code that the README explains; always 1.", 1, more
    several = outcome.report.get("addresses") or []
    for part in several or [outcome.report]:
        not_after = instant((part.get("certificate") or {}).get("not_after"))
        if not_after:
            words = "When the server's certificate expires."
            more = {"address": str(part.get("address"))} if several else {}
            yield "mailprobe_certificate_expiry_timestamp_seconds", words, not_after.timestamp(), more
    for measurement in outcome.measurements:
        yield from _measured(measurement)


def _measured(measurement: Measurement) -> Iterator[tuple[str, str, float, Mapping[str, str]]]:
    base, more = measurement.metric, {"address": measurement.address} if measurement.address else {}
    if base == "certificate_days":
        return  # days are no base unit; the time of its expiry says it better
    for name in FOLDER_NAMES:
        if base == name or base.startswith(f"{name}_"):
            base, more = name, {"folder": base[len(name) + 1 :], **more}
            break
    unit, divisor = UNITS.get(measurement.unit, ("", 1))
    plain = re.sub(r"[^a-zA-Z0-9_]", "_", base)
    if unit and not plain.endswith(f"_{unit}"):
        plain = f"{plain.removesuffix('_percent')}_{unit}"
    words = f"{printable(base, limit=80)}, as the check measured it."
    yield f"mailprobe_{plain}", words, measurement.value / divisor, more

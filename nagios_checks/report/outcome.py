"""What a run of many checks gave: made by `run`, dated by `history`, read by every format."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from functools import lru_cache
from typing import Any, NamedTuple

from mailprobe.codes import STATES

EXIT_CODES = {"ok": 0, "warning": 1, "critical": 2, "unknown": 3}


# Tuples, since a report of thousands of checks has tens of thousands of them.


class Measurement(NamedTuple):
    """One metric: `name` as in the performance data, `unit` of it (`s`, `B`, `%`) or empty."""

    name: str
    value: float
    unit: str = ""

    @property
    def metric(self) -> str:
        """The name without the address that one of several has (`time[192.0.2.1]`)."""
        return self.name.partition("[")[0]

    @property
    def address(self) -> str:
        """That address; empty where there is only one."""
        return self.name.partition("[")[2].removesuffix("]")


class Finding(NamedTuple):
    """What is wrong: a problem of the probe's, or a measurement outside of its range (then `code` is the metric's name,
    and `stage` and `hint` are empty).
    """

    state: str
    code: str
    message: str
    stage: str = ""
    hint: str = ""
    address: str | None = None


@dataclass(frozen=True)
class Past:
    """What the history knows of a check. Times are aware, in UTC; `trends` has for each metric its last values as
    (time, value), the oldest first; `changes` are the last changes of state as (time, state), the oldest first; `told`
    is the state that somebody was told of last, None when nobody was.
    """

    since: datetime
    previous_state: str | None = None
    changed: bool = False
    flapping: bool = False
    changes: Sequence[tuple[datetime, str]] = ()
    trends: dict[str, list[tuple[datetime, float]]] = field(default_factory=dict)
    told: str | None = None


@dataclass
class Outcome:
    """One check's verdict. `state` is a word of STATES, `summary` the words of its status line, `document` the probe's
    whole report, what `Report.to_dict()` gives, as JSON; None when there was no run of it (our own bug, or
    interrupted). As a text it takes a third of the memory, and goes from process to process as it is.
    """

    name: str
    protocol: str
    where: str
    state: str
    summary: str
    group: str | None = None
    findings: list[Finding] = field(default_factory=list)
    measurements: list[Measurement] = field(default_factory=list)
    perfdata: list[str] = field(default_factory=list)
    document: str | None = None
    past: Past | None = None

    @property
    def report(self) -> Mapping[str, Any]:
        """The probe's report; empty when there is none."""
        return _loaded(self.document) if self.document else {}

    def measured(self, metric: str) -> float | None:
        """A measurement, of several addresses that of the worst; None when it was not made."""
        values = [m.value for m in self.measurements if m.metric == metric and math.isfinite(m.value)]
        return (min if metric == "certificate_days" else max)(values, default=None)


@dataclass
class Health:
    """All outcomes of one run, in the order of the file. `notes` tell what did not go as asked (no history,
    interrupted) without being a check's fault.
    """

    title: str
    started: datetime
    elapsed: float
    outcomes: list[Outcome] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def state(self) -> str:
        """The worst state of all; `unknown` when nothing was checked."""
        return next((state for state in STATES if any(o.state == state for o in self.outcomes)), "unknown")

    @property
    def counts(self) -> dict[str, int]:
        """How many checks are in each state, the worst first."""
        found = Counter(outcome.state for outcome in self.outcomes)
        return {state: found[state] for state in STATES}

    @property
    def worst_first(self) -> list[Outcome]:
        """The outcomes as a reader wants them: the bad ones first, else in the order of the file."""
        return sorted(self.outcomes, key=lambda outcome: STATES.index(outcome.state))


def dumped(value: Any) -> str:
    """`value` as JSON: in ASCII, on one line, and without a character that begins markup where it is pasted."""
    try:
        text = json.dumps(value, allow_nan=False)
    except ValueError:
        text = json.dumps(_finite(value), allow_nan=False)
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _finite(value: Any) -> Any:
    """`value` with null for every number that JSON does not have."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    return value


@lru_cache(maxsize=2)
def _loaded(document: str) -> Mapping[str, Any]:
    """Read again for each check that is told of, and kept while that one is."""
    loaded: Mapping[str, Any] = json.loads(document)
    return loaded

"""The report as one JSON document, for programs: everything, as `report.schema.json` beside this file describes it."""

from __future__ import annotations

import itertools
import json
import math
from dataclasses import asdict
from datetime import datetime, timezone
from typing import Any

from ..outcome import EXIT_CODES, Health, Outcome, Past
from . import Choices

# Raised when a key goes or changes its meaning; a new key is no new version.
VERSION = 1


def render(health: Health, choices: Choices) -> str:
    """The document, a line for each check; in ASCII, and without a character that begins markup where it is pasted."""
    head = {
        "version": VERSION,
        "title": health.title,
        "started": _time(health.started),
        "elapsed": round(health.elapsed, 6),
        "state": health.state,
        "exit_code": EXIT_CODES[health.state],
        "counts": health.counts,
        "notes": list(health.notes),
    }
    # Line by line, because an indented document of thousands of checks takes seconds, and several times the memory.
    lines = ["{"]
    lines += [f"{_dumped(key)}: {_dumped(value)}," for key, value in head.items()]
    lines.append('"checks": [')
    separators = itertools.chain(itertools.repeat(",", max(0, len(health.outcomes) - 1)), [""])
    lines += [_dumped(_check(outcome)) + separator for outcome, separator in zip(health.outcomes, separators)]
    return "\n".join([*lines, "]", "}", ""])


def _dumped(value: Any) -> str:
    try:
        text = json.dumps(value, allow_nan=False)
    except ValueError:
        text = json.dumps(_finite(value), allow_nan=False)
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _check(outcome: Outcome) -> dict[str, Any]:
    return {
        "name": outcome.name,
        "group": outcome.group,
        "protocol": outcome.protocol,
        "where": outcome.where,
        "state": outcome.state,
        "exit_code": EXIT_CODES[outcome.state],
        "summary": outcome.summary,
        "findings": [asdict(finding) for finding in outcome.findings],
        "measurements": [asdict(measurement) for measurement in outcome.measurements],
        "perfdata": list(outcome.perfdata),
        "past": None if outcome.past is None else _past(outcome.past),
        "report": outcome.report,
    }


def _past(past: Past) -> dict[str, Any]:
    return {
        "since": _time(past.since),
        "previous_state": past.previous_state,
        "changed": past.changed,
        "flapping": past.flapping,
        "changes": [{"time": _time(time), "state": state} for time, state in past.changes],
        "trends": [
            {"metric": metric, "values": [{"time": _time(time), "value": value} for time, value in values]}
            for metric, values in past.trends.items()
        ],
    }


def _time(time: datetime) -> str:
    return time.astimezone(timezone.utc).isoformat(timespec="seconds")


def _finite(value: Any) -> Any:
    """`value` with null for every number that JSON does not have."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    return value

"""The report as one JSON document, for programs: everything, as `report.schema.json` beside this file describes it."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, timezone
from typing import Any

from ..outcome import EXIT_CODES, Health, Outcome, Past, dumped
from . import Choices

# Raised when a key goes or changes its meaning; a new key is no new version.
VERSION = 1


def render(health: Health, choices: Choices) -> Iterator[str]:
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
    yield "{\n"
    yield from (f"{dumped(key)}: {dumped(value)},\n" for key, value in head.items())
    yield '"checks": ['
    separator = "\n"
    for outcome in health.outcomes:
        yield separator + _check(outcome)
        separator = ",\n"
    yield "\n]\n}\n"


def _check(outcome: Outcome) -> str:
    known = {
        "name": outcome.name,
        "group": outcome.group,
        "protocol": outcome.protocol,
        "where": outcome.where,
        "state": outcome.state,
        "exit_code": EXIT_CODES[outcome.state],
        "summary": outcome.summary,
        "findings": [finding._asdict() for finding in outcome.findings],
        "measurements": [measurement._asdict() for measurement in outcome.measurements],
        "perfdata": list(outcome.perfdata),
        "past": None if outcome.past is None else _past(outcome.past),
    }
    # The probe's report is JSON already.
    return f'{dumped(known)[:-1]}, "report": {outcome.document or "null"}}}'


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

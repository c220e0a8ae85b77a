"""The report as one HTML page: nothing is loaded, nothing runs, and whatever a server says stays text.

The template is `page.html`, its style `page.css`, which the page's own policy allows by its hash; no other style and no
script is allowed at all.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from functools import lru_cache
from importlib.resources import files
from typing import Any

from jinja2 import Environment, StrictUndefined, Template

from mailprobe.text import printable
from mailprobe.version import __version__

from ..outcome import Health, Outcome, Past
from . import Choices, view

# How many healthy checks have details of their own; with thousands a phone would not show the page any more. Those
# with a problem always have them.
MAX_HEALTHY = 300
# As much history as a small chart can show, and a list can be read.
MAX_POINTS = 200
MAX_CHANGES = 8
# Names that a certificate's row has room for.
MAX_USERS = 6
# The longest bar of a certificate, in days: what public authorities gave at most (398), and a margin.
LONGEST_BAR = 400
# The charts' metrics, and how they are called and told.
TRENDS = {"time": "Time", "certificate_days": "Certificate"}
CHART_WIDTH, CHART_HEIGHT, CHART_BASE = 100.0, 36.0, 38.0


def render(health: Health, choices: Choices) -> Iterator[str]:
    """The page; every check is on it, whatever `choices.all` is."""
    template, style = _template()
    style_hash = "sha256-" + base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    return template.generate(page=_page(health), style=style, style_hash=style_hash, version=__version__)


@lru_cache(maxsize=1)
def _template() -> tuple[Template, str]:
    here = files(__package__)
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters.update(cell=view.cell, words=_words)
    source = here.joinpath("page.html").read_text(encoding="utf-8")
    return environment.from_string(source), here.joinpath("page.css").read_text(encoding="utf-8")


def _words(state: str) -> str:
    return "OK" if state == "ok" else state.capitalize()


def _page(health: Health) -> Mapping[str, Any]:
    outcomes = health.worst_first
    bad = [outcome for outcome in outcomes if outcome.state != "ok"]
    detailed = len(bad) + MAX_HEALTHY
    checks = [_check(outcome, number, number <= detailed, health) for number, outcome in enumerate(outcomes, 1)]
    by_outcome = {id(outcome): check for outcome, check in zip(outcomes, checks)}
    return {
        "title": printable(health.title, limit=200),
        "counted": view.counted(health),
        "checks": view.checks_words(len(outcomes)),
        "state": health.state,
        "counts": health.counts,
        "iso": health.started.isoformat(timespec="seconds"),
        "time": view.moment(health.started, view.zone_of(health)),
        "took": view.seconds(health.elapsed),
        "notes": health.notes,
        "rows": checks,
        "bad": checks[: len(bad)],
        "healthy": checks[len(bad) : detailed],
        "more_healthy": len(checks[detailed:]),
        "certificates": _certificates(health, by_outcome),
    }


def _check(outcome: Outcome, number: int, detailed: bool, health: Health) -> Mapping[str, Any]:
    days, took = outcome.measured("certificate_days"), view.elapsed(outcome)
    past = outcome.past
    row = {
        "id": f"check-{number}",
        "detailed": detailed,
        "state": outcome.state,
        "name": view.cell(outcome.name),
        "place": ", ".join(filter(None, (outcome.group, f"{outcome.protocol} at {outcome.where}"))),
        "summary": view.summary(outcome),
        **_age(past, health),
        "since": view.since(past, health) if past else "",
        "flapping": view.flapping(past, health) if past else "",
        "took": "" if took is None else view.seconds(took),
        "certificate": "" if days is None else view.days_words(int(days)),
    }
    return {**row, **_details(outcome, health)} if detailed else row


def _age(past: Past | None, health: Health) -> Mapping[str, str]:
    """Since when, as short as a table wants it."""
    if past is None:
        return {"age": "", "age_more": ""}
    if past.previous_state is None:
        return {"age": "first run", "age_more": ""}
    if past.changed:
        return {"age": "new", "age_more": f"{_words(past.previous_state)} before"}
    since = view.moment(past.since, view.zone_of(health))
    return {"age": view.age(past.since, health), "age_more": "flapping" if past.flapping else f"since {since}"}


def _details(outcome: Outcome, health: Health) -> Mapping[str, Any]:
    found = view.findings(outcome)
    zone = view.zone_of(health)
    return {
        "findings": [
            {"state": f.state, "code": f.code, "message": f.message, "place": view.place(f), "hint": f.hint}
            for f in found[: view.MAX_FINDINGS]
        ],
        "more_findings": max(0, len(found) - view.MAX_FINDINGS),
        "facts": list(view.facts(outcome)),
        "stages": _stages(outcome),
        "charts": _charts(outcome, health),
        "changes": [
            {"iso": time.isoformat(timespec="seconds"), "time": view.moment(time, zone), "state": state}
            for time, state in reversed((outcome.past.changes if outcome.past else ())[-MAX_CHANGES:])
        ],
        "transcript": view.transcript(outcome),
    }


def _stages(outcome: Outcome) -> list[Mapping[str, Any]]:
    stages = view.stages(outcome)
    whole = sum(value for dummy, value in stages) or 1.0
    return [{"name": name, "share": 100 * value / whole, "words": view.seconds(value)} for name, value in stages]


def _charts(outcome: Outcome, health: Health) -> list[Mapping[str, str]]:
    trends = outcome.past.trends if outcome.past else {}
    charts: list[Mapping[str, str]] = []
    for metric, title in TRENDS.items():
        values = view.finite(trends.get(metric, ()))[-MAX_POINTS:]
        if len(values) > 1:
            charts.append({"points": _points(values), "words": _trend_words(title, metric, values, health)})
    return charts


def _points(values: Sequence[tuple[datetime, float]]) -> str:
    """The points of a line, by time from left to right, and from zero up."""
    begin = values[0][0]
    whole = (values[-1][0] - begin).total_seconds() or 1.0
    highest = max(0.0, *(value for dummy, value in values)) or 1.0
    return " ".join(
        f"{CHART_WIDTH * (time - begin).total_seconds() / whole:.2f},"
        f"{CHART_BASE - CHART_HEIGHT * (max(0.0, value) / highest):.2f}"
        for time, value in values
    )


def _trend_words(title: str, metric: str, values: Sequence[tuple[datetime, float]], health: Health) -> str:
    def told(value: float) -> str:
        return view.seconds(value) if metric == "time" else view.days_words(int(value))

    numbers = [value for dummy, value in values]
    begin = view.moment(values[0][0], view.zone_of(health))
    return (
        f"{title}: {told(numbers[-1])} now, from {told(min(numbers))} to {told(max(numbers))}"
        f" in {len(numbers)} runs since {begin}"
    )


def _certificates(health: Health, by_outcome: Mapping[int, Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    uses = view.certificates(health)
    longest = min(LONGEST_BAR, max((use.days_left for use in uses), default=1)) or 1
    return [
        {
            "state": use.state,
            "left": view.days_words(use.days_left),
            # One that has expired is a whole bar: nothing at all would be overlooked.
            "share": 100.0 if use.days_left < 0 else 100 * min(1.0, use.days_left / longest),
            "iso": use.not_after.isoformat(timespec="seconds"),
            "expires": use.not_after.strftime("%Y-%m-%d"),
            "name": use.name,
            "issuer": use.issuer,
            "intermediate": use.intermediate,
            "users": [by_outcome[id(user)] for user in use.users[:MAX_USERS]],
            "more_users": max(0, len(use.users) - MAX_USERS),
        }
        for use in uses
    ]

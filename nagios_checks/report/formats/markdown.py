"""The report as Markdown, for a ticket: whatever is not our own word stands in a code span, where nothing is markup.

Escaping would not do: the trackers that render Markdown look for @names, #numbers and addresses in the text that comes
out of it, and leave only code alone.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from ..outcome import Finding, Health, Outcome
from . import Choices
from .view import (
    MAX_FINDINGS,
    cell,
    counted,
    days_words,
    elapsed,
    findings,
    flapping,
    moment,
    seconds,
    since,
    well_again,
    zone_of,
)

# Names that no renderer finds anything in: letters, digits, blanks, commas, hyphens and brackets. A dot between letters
# would make an address of them.
HARMLESS = re.compile(r"[^\W_](?:[^\W_]|[ ,()'-]){0,99}")
# What trackers take for a commit and link.
COMMIT = re.compile(r"\b[0-9a-f]{7,40}\b", re.IGNORECASE)
ICONS = {"critical": "\N{CROSS MARK}", "warning": "\N{WARNING SIGN}", "unknown": "\N{BLACK QUESTION MARK ORNAMENT}"}
ICONS["ok"] = "\N{WHITE HEAVY CHECK MARK}"


def render(health: Health, choices: Choices) -> Iterator[str]:
    """The report as GitHub Flavored Markdown; of the healthy checks the table has those that were not well before."""
    return (f"{line}\n" for line in _lines(health, choices))


def _lines(health: Health, choices: Choices) -> Iterator[str]:
    yield f"# {_name(health.title)}: {health.state.upper()}"
    yield ""
    yield f"{counted(health)} ({moment(health.started, zone_of(health))}, in {seconds(health.elapsed)})"
    for note in health.notes:
        yield ""
        yield f"> Note: {code(note)}"
    shown = [
        outcome for outcome in health.worst_first if choices.all or outcome.state != "ok" or well_again(outcome, health)
    ]
    if shown:
        yield ""
        yield "| State | Check | Where | Since | Time | Certificate |"
        yield "| --- | --- | --- | --- | --- | --- |"
        yield from (_row(outcome, health) for outcome in shown)
    for outcome in shown:
        if outcome.state != "ok":
            yield ""
            yield from _problem(outcome, health)


def _row(outcome: Outcome, health: Health) -> str:
    days, took = outcome.measured("certificate_days"), elapsed(outcome)
    cells = (
        _state(outcome.state),
        _name(outcome.name),
        f"{_name(outcome.protocol)} {code(outcome.where)}",
        well_again(outcome, health) or (since(outcome.past, health) if outcome.past else ""),
        "" if took is None else seconds(took),
        "" if days is None else days_words(int(days)),
    )
    return f"| {' | '.join(cells)} |"


def _problem(outcome: Outcome, health: Health) -> Iterator[str]:
    yield f"## {_state(outcome.state)}: {_name(outcome.name)}"
    yield ""
    past = [since(outcome.past, health), flapping(outcome.past, health)] if outcome.past else []
    yield "; ".join(filter(None, [f"{_name(outcome.protocol)} at {code(outcome.where)}", *past]))
    yield ""
    found = findings(outcome)
    for finding in found[:MAX_FINDINGS]:
        yield from _finding(finding)
    if len(found) > MAX_FINDINGS:
        yield f"- and {len(found) - MAX_FINDINGS} more: the json format has them all"


def _finding(finding: Finding) -> Iterator[str]:
    at = " ".join(filter(None, [code(finding.code), _place(finding)]))
    yield f"- **{finding.state.upper()}**{f' {at}' if at else ''}: {code(finding.message)}"
    if finding.hint:
        yield f"  - What to do: {_plain(finding.hint)}"


def _place(finding: Finding) -> str:
    stage = f"at {_name(finding.stage)}" if finding.stage else ""
    return ", ".join(filter(None, [stage, f"with {code(finding.address)}" if finding.address else ""]))


def _state(state: str) -> str:
    return f"{ICONS[state]} {state.upper()}"


def code(text: str) -> str:
    """`text` in a code span, fenced by more backticks than there are in it in a row."""
    shown = cell(text)
    fence = "`" * (max((len(run) for run in re.findall("`+", shown)), default=0) + 1)
    padding = " " if shown.startswith("`") or shown.endswith("`") else ""
    return f"{fence}{padding}{shown}{padding}{fence}" if shown else ""


def _name(text: str) -> str:
    """A name of the configuration's: as it is where it is plain, else as code."""
    return text if HARMLESS.fullmatch(text) and not COMMIT.search(text) else code(text)


def _plain(hint: str) -> str:
    """One of our own hints: what of it Markdown would act on is escaped."""
    return re.sub(r"([\\`*_{}\[\]<>#~])", r"\\\1", cell(hint))

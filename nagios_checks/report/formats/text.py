"""The report as plain text, for a cron mail: problems first, what to do about each, then what is healthy."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator

from mailprobe.text import printable

from ..outcome import Finding, Health, Outcome
from . import Choices
from .view import MAX_FINDINGS, counted, findings, flapping, moment, place, seconds, since, summary, well_again, zone_of

# What a mail client shows without breaking lines, and still when the mail is quoted.
WIDTH = 78
# The longest word of a state and two blanks, so that the names are below each other.
MARGIN = 10
# Typographic signs with a plain counterpart; all others beyond ASCII appear as escapes, since a cron's mail often says
# nothing of its encoding.
PLAIN = {
    0x2018: "'",
    0x2019: "'",
    0x201C: '"',
    0x201D: '"',
    0x2013: "-",
    0x2014: "-",
    0x2026: "...",
}


def render(health: Health, choices: Choices) -> Iterator[str]:
    """The report in ASCII, no line longer than 78 characters."""
    return (f"{line}\n" for line in _lines(health, choices))


def _lines(health: Health, choices: Choices) -> Iterator[str]:
    yield from _wrapped(f"{health.state.upper()} - {counted(health)}")
    when = f"{moment(health.started, zone_of(health))}, in {seconds(health.elapsed)}"
    # The title is not ours, so it does not begin a line.
    yield from _wrapped(f"{when}: {printable(health.title, limit=200)}", hanging="  ")
    for note in health.notes:
        yield from _wrapped(f"Note: {note}", hanging="  ")
    for outcome in health.worst_first:
        if outcome.state != "ok":
            yield ""
            yield from _problem(outcome, health)
    healthy = [outcome for outcome in health.outcomes if outcome.state == "ok"]
    if choices.all and healthy:
        yield ""
        yield from (_one_line(outcome, well_again(outcome, health)) for outcome in healthy)
    elif recovered := [outcome for outcome in healthy if well_again(outcome, health)]:
        yield ""
        yield from (_one_line(outcome, well_again(outcome, health)) for outcome in recovered)


def _problem(outcome: Outcome, health: Health) -> Iterator[str]:
    yield from _wrapped(f"{_label(outcome)}{_title(outcome)}", hanging=" " * MARGIN)
    if outcome.past:
        past = [since(outcome.past, health), flapping(outcome.past, health)]
        yield from _indented(_capital("; ".join(filter(None, past))) + ".")
    found = findings(outcome)
    for finding in found[:MAX_FINDINGS]:
        yield from _finding(finding, several=len(found) > 1)
    if len(found) > MAX_FINDINGS:
        yield from _indented(f"And {len(found) - MAX_FINDINGS} more: the json format has them all.")


def _finding(finding: Finding, several: bool) -> Iterator[str]:
    at = ", ".join(filter(None, (finding.code, place(finding))))
    state = f"{finding.state}: " if several else ""
    yield from _indented(f"* {state}{printable(finding.message, limit=500)}" + (f" [{at}]" if at else ""), "  ")
    if finding.hint:
        yield from _indented(f"  What to do: {finding.hint}", "  ")


def _one_line(outcome: Outcome, news: str) -> str:
    line = _ascii(f"{_label(outcome)}{_title(outcome)}: {news or summary(outcome)}")
    return line if len(line) <= WIDTH else line[: WIDTH - 3].rstrip() + "..."


def _label(outcome: Outcome) -> str:
    return outcome.state.upper().ljust(MARGIN)


def _title(outcome: Outcome) -> str:
    group = f"{outcome.group}: " if outcome.group else ""
    return f"{group}{outcome.name} ({outcome.protocol}, {outcome.where})"


def _capital(words: str) -> str:
    return words[:1].upper() + words[1:]


def _indented(words: str, hanging: str = "") -> list[str]:
    return _wrapped(words, " " * MARGIN, " " * MARGIN + hanging)


def _wrapped(words: str, indent: str = "", hanging: str = "") -> list[str]:
    # A word that is too long, as a server may say it, is broken; one with a hyphen, as our codes are, is not.
    return textwrap.wrap(
        _ascii(words), WIDTH, initial_indent=indent, subsequent_indent=hanging, break_on_hyphens=False
    ) or [""]


def _ascii(words: str) -> str:
    return printable(words).translate(PLAIN).encode("ascii", "backslashreplace").decode()

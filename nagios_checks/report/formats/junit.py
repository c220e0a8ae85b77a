"""The report as JUnit XML, for CI: a suite for each group, a test case for each check.

It keeps to what the schemas of Ant (Windy Road's) and of Jenkins' xUnit plugin have in common: times without a zone,
every attribute and part of a suite present, at most one result in a case.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timezone
from xml.etree import ElementTree as ET

from mailprobe.text import printable

from ..outcome import Health, Outcome
from . import Choices
from .view import cell, elapsed, findings, place, since, summary, transcript

# An alarm is a failed test; a check that could not be judged is an error of the test itself.
RESULTS = {"critical": "failure", "warning": "failure", "unknown": "error"}


def render(health: Health, choices: Choices) -> Iterator[str]:
    """The document, with its XML declaration."""
    root = ET.Element("testsuites")
    for number, (name, outcomes) in enumerate(_suites(health).items()):
        _add_suite(root, number, name, outcomes, health)
    ET.indent(root)
    yield f'<?xml version="1.0" encoding="UTF-8"?>\n{ET.tostring(root, encoding="unicode")}\n'


def _suites(health: Health) -> dict[str, list[Outcome]]:
    """The checks by group, and those without one by protocol."""
    suites: dict[str, list[Outcome]] = {}
    for outcome in health.outcomes:
        suites.setdefault(_inert(outcome.group or outcome.protocol), []).append(outcome)
    return suites


def _add_suite(root: ET.Element, number: int, name: str, outcomes: list[Outcome], health: Health) -> None:
    results = [RESULTS.get(outcome.state) for outcome in outcomes]
    suite = ET.SubElement(
        root,
        "testsuite",
        {
            "id": str(number),
            "package": "mailprobe",
            "name": name,
            "hostname": "localhost",  # which the schema wants where the name is not known
            "timestamp": health.started.astimezone(timezone.utc).strftime("%Y-%m-%dT%H:%M:%S"),
            "tests": str(len(outcomes)),
            "failures": str(results.count("failure")),
            "errors": str(results.count("error")),
            "time": _seconds(sum(elapsed(outcome) or 0 for outcome in outcomes)),
        },
    )
    ET.SubElement(suite, "properties")
    for outcome in outcomes:
        _add_case(suite, outcome, health)
    ET.SubElement(suite, "system-out").text = "\n".join(printable(note) for note in health.notes)
    ET.SubElement(suite, "system-err")


def _add_case(suite: ET.Element, outcome: Outcome, health: Health) -> None:
    classname = f"mailprobe.{outcome.protocol}"
    attributes = {"classname": _inert(classname), "name": _inert(outcome.name)}
    case = ET.SubElement(suite, "testcase", {**attributes, "time": _seconds(elapsed(outcome) or 0)})
    if outcome.state in RESULTS:
        message = f"{outcome.where}: {summary(outcome)}"
        result = ET.SubElement(case, RESULTS[outcome.state], {"type": outcome.state, "message": cell(message)})
        result.text = "\n".join(map(printable, _text(outcome, health)))


def _text(outcome: Outcome, health: Health) -> Iterator[str]:
    if outcome.past:
        yield since(outcome.past, health)
    for finding in findings(outcome):
        at = " ".join(filter(None, (finding.code, place(finding))))
        yield f"{finding.state.upper()} {at}: {finding.message}"
        if finding.hint:
            yield f"    What to do: {finding.hint}"
    yield from transcript(outcome)


def _inert(text: str) -> str:
    """`text` without anything that XML forbids, control characters among it; never empty."""
    return printable(text).strip() or "-"


def _seconds(value: float) -> str:
    return f"{value:.3f}"  # Jenkins takes no more decimals

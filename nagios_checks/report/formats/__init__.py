"""The formats of the report: each a function from the run's health to a text that can be written to a file."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Callable

from ..outcome import Health


@dataclass(frozen=True)
class Choices:
    """What the reader wants: with `all`, a text for people has a line for each healthy check, too."""

    all: bool = False


Format = Callable[[Health, Choices], str]


# Each module is imported when it is needed: a cron mail does not wait for Jinja.


def _text(health: Health, choices: Choices) -> str:
    from .text import render

    return render(health, choices)


def _html(health: Health, choices: Choices) -> str:
    from .page import render

    return render(health, choices)


def _markdown(health: Health, choices: Choices) -> str:
    from .markdown import render

    return render(health, choices)


def _json(health: Health, choices: Choices) -> str:
    from .document import render

    return render(health, choices)


def _junit(health: Health, choices: Choices) -> str:
    from .junit import render

    return render(health, choices)


def _prometheus(health: Health, choices: Choices) -> str:
    from .prometheus import render

    return render(health, choices)


FORMATS: Mapping[str, Format] = {
    "text": _text,
    "html": _html,
    "markdown": _markdown,
    "json": _json,
    "junit": _junit,
    "prometheus": _prometheus,
}

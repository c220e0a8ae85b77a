"""The formats of the report: each a module that turns the run's health into a text, piece by piece."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from importlib import import_module
from typing import Callable

from ..outcome import Health

_MODULES = {
    "text": "text",
    "html": "page",
    "markdown": "markdown",
    "json": "document",
    "junit": "junit",
    "prometheus": "prometheus",
}
FORMATS = tuple(_MODULES)


@dataclass(frozen=True)
class Choices:
    """What the reader wants: with `all`, a text for people has a line for each healthy check, too."""

    all: bool = False


def render(name: str, health: Health, choices: Choices) -> Iterator[str]:
    """The report in one of FORMATS, in pieces of any size: that of 10,000 checks need not be in memory as a whole."""
    # Imported when it is needed: a cron mail does not wait for Jinja.
    module = import_module(f".{_MODULES[name]}", __name__)
    pieces: Callable[[Health, Choices], Iterator[str]] = module.render
    return pieces(health, choices)

"""What a report's file says once it has been read: checks, what applies to each, and whose mistake something is."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from mailprobe.families import PromiseOptions
from mailprobe.options import Declaration, UsageError, declarations, spell
from mailprobe.text import printable

from ..common import CheckSpec
from ..credentials import SOURCES
from .yamlfile import Table

_SOURCE_ENDS = tuple(f"_{source}" for source in SOURCES)


@dataclass(frozen=True)
class Fault:
    """A mistake: the file and the line (0: the file as a whole), the path of the value in it, and words.

    What stands elsewhere may be wrong for one `check` only, or for so many `others`, too.
    """

    file: str
    line: int
    where: str
    words: str
    check: str = ""
    others: int = 0

    def __str__(self) -> str:
        parts = [self.file, str(self.line) if self.line else "", self.where]
        place = ":".join(filter(None, parts[:2]))
        others = f" and {self.others} more" if self.others else ""
        check = f" (for {self.check}{others})" if self.check else ""
        return printable(": ".join(filter(None, (place, parts[2], self.words + check))))


def once(faults: Iterable[Fault]) -> list[Fault]:
    """Each mistake once, however many checks it is wrong for, in the order in which they showed."""
    first: dict[Fault, Fault] = {}
    checks: Counter[Fault] = Counter()
    for fault in faults:
        mistake = replace(fault, check="")
        first.setdefault(mistake, fault)
        checks[mistake] += 1
    return [replace(fault, others=checks[mistake] - 1) for mistake, fault in first.items()]


class ConfigError(Exception):
    """A file that no report can be made of; `faults` has all mistakes, in the order of the lines."""

    def __init__(self, faults: list[Fault]) -> None:
        super().__init__(faults)
        self.faults = faults


@dataclass(frozen=True)
class Layer:
    """A mapping with options and the path of it: the check's `own`, its group's, or the defaults."""

    where: str
    table: Table
    own: bool = False


@dataclass(frozen=True)
class Planned:
    """A check of the file. With a `fault` it cannot be run: a secret is not there, and `options` have a stand-in."""

    name: str
    protocol: str
    group: str | None
    spec: CheckSpec
    options: PromiseOptions
    warning: Mapping[str, str]
    critical: Mapping[str, str]
    fault: Fault | None
    layers: list[Layer]

    def blame(self, file: str, error: UsageError) -> Fault:
        """A mistake that showed only when the check ran."""
        return blamed(file, self.layers, self.spec, error)


@dataclass(frozen=True)
class Config:
    """What a file says: `title` or None, all checks in the order of the file, and what is not wrong but unwise."""

    title: str | None
    checks: list[Planned]
    advice: list[Fault]


@dataclass(frozen=True)
class Given:
    """One option as it applies to a check, and where it stands."""

    value: Any
    line: int
    where: str
    own: bool


def merged(layers: list[Layer], declared: Mapping[str, Declaration]) -> dict[str, Given]:
    """The options that apply, the weakest layer first; null takes back."""
    given: dict[str, Given] = {}
    for layer in layers:
        present = {key: family for key in layer.table if (family := _family(key, declared))}
        for family in present.values():
            for key in family:
                given.pop(key, None)
        for key in present:
            value = layer.table[key]
            if value is not None:
                given[key] = Given(value, layer.table.lines[key], join(layer.where, key), layer.own)
    return given


def _family(key: str, declared: Mapping[str, Declaration]) -> tuple[str, ...]:
    """All ways to give the option that a key gives; empty when it gives none."""
    name = key if key in declared else next((key[: -len(end)] for end in _SOURCE_ENDS if key.endswith(end)), "")
    if name not in declared or (name != key and not declared[name].secret):
        return ()
    # The ways to give one secret are one option: a check that has a file does not mean its group's command.
    return (name, *(f"{name}{end}" for end in _SOURCE_ENDS)) if declared[name].secret else (name,)


def blamed(file: str, layers: list[Layer], spec: CheckSpec, error: UsageError) -> Fault:
    """Whose mistake it is: the value's, wherever it stands, or that of the check that has none."""
    check = layers[-1]
    words = spell(error.words, lambda name: name)
    given = merged(layers, {known.name: known for known in declarations(spec.options)})
    keys = [error.option, *(f"{error.option}_{source}" for source in SOURCES)]
    found = next((given[key] for key in keys if key in given), None)
    if found is None:
        return Fault(file, check.table.line, join(check.where, error.option), words)
    return Fault(file, found.line, found.where, words, "" if found.own else check.where)


def join(where: str, key: str) -> str:
    """The path of a key inside of what stands at `where`."""
    return f"{where}.{key}" if where else key

"""YAML, read strictly, with the line of every value: what a person wrote, and nothing that a parser made up.

Scalars are those of YAML 1.2's core schema, as editors check them: `no` and `1:30` are texts, not false and 90. A key
that is given twice, a tag, a second document is an error. Aliases and merge keys (`<<`) work; what they multiply is
counted.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from typing import Any

import yaml

from mailprobe.text import printable

# 10,000 checks of a dozen lines have 4 MB.
MAX_OCTETS = 16 * 1024 * 1024
# Values with all that aliases repeat; ten times what 10,000 checks have. "Billion laughs" ends here.
MAX_VALUES = 2_000_000
# A check's ranges are three levels down.
MAX_DEPTH = 16

NULLS = frozenset({"", "~", "null", "Null", "NULL"})
TRUTHS = {"true": True, "True": True, "TRUE": True, "false": False, "False": False, "FALSE": False}
# Eighteen digits are more than any option takes; int() has a limit of its own, and an exception.
WHOLE_NUMBER = re.compile(r"[-+]?[0-9]{1,18}")
NUMBER = re.compile(r"[-+]?(\.[0-9]{1,18}|[0-9]{1,18}(\.[0-9]{0,18})?)([eE][-+]?[0-9]{1,3})?")

TEXT_TAGS = frozenset({"!", "tag:yaml.org,2002:str"})
MERGE = "<<"


class Table(dict[str, Any]):
    """A mapping, the line it begins in, and the line of each key."""

    def __init__(self, line: int) -> None:
        super().__init__()
        self.line = line
        self.lines: dict[str, int] = {}


class Row(list[Any]):
    """A list, the line it begins in, and the line of each value."""

    def __init__(self, line: int) -> None:
        super().__init__()
        self.line = line
        self.lines: list[int] = []


class Malformed(Exception):
    """A file that is no YAML, or more than we take; `line` is None when it is about the file as a whole."""

    def __init__(self, line: int | None, words: str) -> None:
        super().__init__(line, words)
        self.line = line
        self.words = words


def load(path: str) -> Any:
    """What is in a file: `Table`, `Row`, text, number, truth value or None. Raises `Malformed`, OSError."""
    with open(path, "rb") as stream:
        data = stream.read(MAX_OCTETS + 1)
    if len(data) > MAX_OCTETS:
        raise Malformed(None, f"has more than {MAX_OCTETS} octets")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise Malformed(data.count(b"\n", 0, error.start) + 1, "is not a text in UTF-8") from None
    return parse(text)


def parse(text: str) -> Any:
    """As `load()`, of a text."""
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # libyaml's is ten times as fast, where there is one
    try:
        return _Reader(yaml.parse(text, Loader=loader)).document()
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        words = ", ".join(part for part in (error.problem, error.context) if part)
        raise Malformed(mark.line + 1 if mark else None, f"is no YAML: {printable(words, limit=200)}") from None
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        raise Malformed(line, "is no YAML: there is a control character") from None
    except ValueError:  # PyYAML's own loader, of "\U00110000"
        raise Malformed(None, "is no YAML: an escape is for no character that there is") from None
    except yaml.YAMLError as error:
        raise Malformed(None, f"is no YAML: {printable(str(error), limit=200)}") from None


class _Reader:
    """Makes values of a parser's events as they come; PyYAML's nodes would take 100 MB for 10,000 checks."""

    def __init__(self, events: Iterator[Any]) -> None:
        self._events = events
        self._anchors: dict[str, tuple[Any, int]] = {}
        self._count = 0

    def document(self) -> Any:
        """The only document."""
        next(self._events)  # the stream's start
        event = next(self._events)
        if isinstance(event, yaml.StreamEndEvent):
            return None
        value = self._value(next(self._events), 0)
        next(self._events)  # the document's end
        event = next(self._events)
        if not isinstance(event, yaml.StreamEndEvent):
            raise Malformed(_line(event), "has a second document: one file is one report")
        return value

    def _value(self, event: Any, depth: int) -> Any:
        before = self._count
        self._add(1, event)
        if isinstance(event, yaml.AliasEvent):
            if event.anchor not in self._anchors:
                raise Malformed(_line(event), f"there is no anchor &{printable(str(event.anchor), limit=80)} before")
            value, count = self._anchors[event.anchor]
            self._add(count, event)
            return value
        if isinstance(event, yaml.ScalarEvent):
            value = _scalar(event)
        elif depth == MAX_DEPTH:
            raise Malformed(_line(event), f"has more than {MAX_DEPTH} levels")
        else:
            _check_tag(event)
            is_table = isinstance(event, yaml.MappingStartEvent)
            value = self._table(event, depth) if is_table else self._row(event, depth)
        if event.anchor is not None:
            self._anchors[event.anchor] = (value, self._count - before)
        return value

    def _add(self, count: int, event: Any) -> None:
        self._count += count
        if self._count > MAX_VALUES:
            raise Malformed(_line(event), f"has more than {MAX_VALUES} values, with all that its aliases repeat")

    def _row(self, start: Any, depth: int) -> Row:
        row = Row(_line(start))
        while not isinstance(event := next(self._events), yaml.SequenceEndEvent):
            row.lines.append(_line(event))
            row.append(self._value(event, depth + 1))
        return row

    def _table(self, start: Any, depth: int) -> Table:
        table = Table(_line(start))
        merged: list[Table] = []
        while not isinstance(event := next(self._events), yaml.MappingEndEvent):
            line = _line(event)
            plain = isinstance(event, yaml.ScalarEvent) and event.style in (None, "")
            key = self._value(event, depth + 1)
            if plain and key == MERGE:
                merged += _mergeable(self._value(next(self._events), depth + 1), line)
                continue
            if not isinstance(key, str):
                raise Malformed(line, "a key is a text: put it in quotes")
            if key in table.lines:
                raise Malformed(line, f"{printable(key, limit=80)} is given twice, first in line {table.lines[key]}")
            key = sys.intern(key)  # thousands of checks have the same few
            table.lines[key] = line
            table[key] = self._value(next(self._events), depth + 1)
        for other in merged:
            for key in other:
                if key not in table:
                    table[key], table.lines[key] = other[key], other.lines[key]
        return table


def _line(event: Any) -> int:
    number: int = event.start_mark.line + 1
    return number


def _check_tag(event: Any) -> None:
    usual = event.tag is None or event.tag in ("!", "tag:yaml.org,2002:map", "tag:yaml.org,2002:seq")
    if not usual:
        raise Malformed(_line(event), f"{printable(event.tag, limit=80)}: tags have no meaning here")


def _mergeable(value: Any, line: int) -> list[Table]:
    tables = value if isinstance(value, Row) else [value]
    for table in tables:
        if not isinstance(table, Table):
            raise Malformed(line, "<< takes a mapping, or a list of them")
    return list(tables)


def _scalar(event: Any) -> Any:
    text: str = event.value
    if event.tag is not None:
        if event.tag not in TEXT_TAGS:
            raise Malformed(_line(event), f"{printable(event.tag, limit=80)}: tags have no meaning here")
        return text
    if not event.implicit[0]:  # in quotes
        return text
    if text in NULLS:
        return None
    if text in TRUTHS:
        return TRUTHS[text]
    if WHOLE_NUMBER.fullmatch(text):
        return int(text)
    return float(text) if NUMBER.fullmatch(text) else text

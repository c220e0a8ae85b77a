"""The shape of the report's file: structs that msgspec checks and describes, derived from the options' declarations."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Annotated, Any, Literal, Optional, Union

import msgspec
from msgspec import Meta

from mailprobe.options import MAX_VALUE, Declaration, declarations, spell
from mailprobe.options import nearest as nearest_of
from mailprobe.text import printable

from ..arguments import RANGE
from ..common import CheckSpec
from ..credentials import SOURCES
from ..present import MAX_STATUS

# What a heading and the first column of a table still show.
MAX_TITLE = 200
# Where a slip of the finger ends (difflib's ratio): smpt is smtp (0.75), but on is not none (0.67).
MIN_LIKENESS = 0.7
# A description of a schema is one sentence or two; a status line is the measure for those who read it.
MAX_DESCRIPTION = MAX_STATUS

Title = Annotated[str, Meta(min_length=1, max_length=MAX_TITLE)]
KINDS: Mapping[str, Any] = {
    "str": Annotated[str, Meta(max_length=MAX_VALUE)],
    "int": int,
    "float": float,
    "bool": bool,
}
# A range is a number or a text, as on the command line, but not one without any number.
Range = Union[int, float, Annotated[str, Meta(pattern=f"^(?!@?:?$)(?:{RANGE.pattern})$")], None]

# How msgspec names the types, and how people do.
WORDS = {
    "int": "a whole number",
    "float": "a number",
    "str": "a text",
    "bool": "true or false",
    "array": "a list",
    "object": "a mapping",
    "null": "nothing",
}


@dataclass(frozen=True)
class Shape:
    """A mapping of the file: the struct of it, the type of each key, the words that some take, what a key is called."""

    struct: Any
    fields: Mapping[str, Any]
    choices: Mapping[str, tuple[str, ...]]
    noun: str = "option"

    def accepts(self, value: Any) -> bool:
        """Whether all of it is as it should be; `wrong()` tells of one value what is not."""
        try:
            msgspec.convert(value, type=self.struct)
        except msgspec.ValidationError:
            return False
        return True

    def unknown(self, key: str) -> str:
        """What to say of a key that is not ours."""
        return f"there is no such {self.noun}" + nearest(key, self.fields)

    def wrong(self, key: str, value: Any) -> tuple[str, str] | None:
        """What is wrong with a value: the place inside of it (`[2]`, or nothing) and words; None when it is right."""
        try:
            msgspec.convert(value, type=self.fields[key])
        except msgspec.ValidationError as error:
            if key in self.choices and isinstance(value, str):
                return "", chosen(value, self.choices[key])
            words, dummy, place = str(error).partition(" - at `$")
            return place.rstrip("`"), _in_words(words)
        return None


def nearest(word: str, known: Iterable[str]) -> str:
    """`; did you mean port?`, or nothing when no known word is near."""
    return nearest_of(word, known, MIN_LIKENESS)


def _in_words(words: str) -> str:
    """What msgspec says, in the words of people: "expected a whole number, not a text"."""
    plain = re.sub(r"`([a-z |]+)`", lambda match: _kinds(match[1]), words).replace(", got ", ", not ")
    return plain[:1].lower() + plain[1:]


def _kinds(names: str) -> str:
    kinds = names.split(" | ")
    if len(kinds) > 1:
        kinds = [kind for kind in kinds if kind != "null"]  # everything may be left out
    return " or ".join(WORDS.get(kind, kind) for kind in kinds)


def chosen(value: str, choices: Iterable[str]) -> str:
    """What to say of a word that is none of those there are."""
    known = tuple(choices)
    return f"'{printable(value, limit=80)}' is none of {', '.join(known)}{nearest(value, known)}"


def protocol_shape(name: str, spec: CheckSpec) -> Shape:
    """A check of one protocol."""
    ranges = ranges_shape(f"{name.capitalize()}Ranges", (known.metric for known in spec.known_metrics))
    fields = {
        "name": Annotated[Title, Meta(description="What the report calls this check; no two are called the same.")],
        "group": _described(Title, "Heading that the check stands under, and whose options in `groups` it takes."),
        **_range_fields(ranges),
        **_option_fields(declarations(spec.options)),
    }
    title, tag = f"{name.capitalize()}Check", {"tag_field": "protocol", "tag": name}
    return _shape(title, fields, declarations(spec.options), defaults=True, required=["name"], **tag)


def defaults_shape(protocols: Mapping[str, CheckSpec]) -> Shape:
    """What applies to every check whose protocol has it."""
    merged: dict[str, Declaration] = {}
    metrics: dict[str, None] = {}
    for spec in protocols.values():
        metrics.update(dict.fromkeys(known.metric for known in spec.known_metrics))
        for declared in declarations(spec.options):
            known = merged.get(declared.name, declared)
            # What one protocol has may be less than what the other has: mechanisms.
            merged[declared.name] = replace(known, choices=tuple(dict.fromkeys((*known.choices, *declared.choices))))
    ranges = ranges_shape("Ranges", metrics)
    return _shape("Defaults", {**_range_fields(ranges), **_option_fields(merged.values())}, merged.values())


def ranges_shape(name: str, metrics: Iterable[str]) -> Shape:
    """Ranges by metric."""
    return _shape(name, dict.fromkeys(metrics, Range), noun="metric")


def file_shape(checks: Mapping[str, Shape], defaults: Shape) -> Shape:
    """The whole file."""
    one: Any = Union[tuple(shape.struct for shape in checks.values())]
    some: Any = Optional[defaults.struct]
    mapping: Any = dict
    sequence: Any = list
    fields = {
        "title": _described(Title, "What the report is called; by default the name of this host."),
        "defaults": _described(some, "Options and ranges of every check whose protocol has them."),
        "groups": _described(mapping[Title, some], "The same by group; they go before the defaults."),
        "checks": Annotated[sequence[one], Meta(min_length=1, description="What to check.")],
    }
    return _shape("Report", fields, required=["checks"], noun="key")


def _shape(
    name: str,
    fields: Mapping[str, Any],
    options: Iterable[Declaration] = (),
    *,
    defaults: bool = False,
    required: Iterable[str] = (),
    noun: str = "option",
    **tag: Any,
) -> Shape:
    options = tuple(options)
    choices = {declared.name: declared.choices for declared in options if declared.choices}
    usual = {declared.name: declared.default for declared in options if defaults and not declared.many}
    declared = [
        (field, kind) if field in required else (field, kind, usual.get(field)) for field, kind in fields.items()
    ]
    struct = msgspec.defstruct(name, declared, kw_only=True, forbid_unknown_fields=True, **tag)
    return Shape(struct, {**fields, **({tag["tag_field"]: Literal[tag["tag"]]} if tag else {})}, choices, noun)


def _range_fields(ranges: Shape) -> dict[str, Any]:
    words = "{} when the metric is outside of the range: 5 is 0 to 5, '30:' 30 and more, '@1:9' all but 1 to 9."
    return {state: _described(ranges.struct, words.format(state.upper())) for state in ("warning", "critical")}


def _option_fields(options: Iterable[Declaration]) -> dict[str, Any]:
    fields: dict[str, Any] = {}
    for declared in options:
        if declared.secret:
            words = f"The {declared.name} itself: whoever reads this file has it; {declared.name}_file is better."
            fields[declared.name] = _described(KINDS["str"], words, deprecated=True)
            for source, (dummy, meaning) in SOURCES.items():
                fields[f"{declared.name}_{source}"] = _described(KINDS["str"], meaning.format(declared.name))
        else:
            fields[declared.name] = _described(_kind(declared), spell(declared.help, lambda name: name))
    return fields


def _described(kind: Any, words: str, **more: Any) -> Any:
    """A value that may be null, which is "not given"."""
    return Annotated[Optional[kind], Meta(description=words[:MAX_DESCRIPTION], extra_json_schema=more or None)]


def _kind(declared: Declaration) -> Any:
    if declared.choices:
        kind: Any = Literal[declared.choices]
    elif declared.kind in ("int", "float"):
        kind = Annotated[KINDS[declared.kind], Meta(ge=declared.minimum, le=declared.maximum)]
    else:
        kind = KINDS[declared.kind]
    return list[kind] if declared.many else kind

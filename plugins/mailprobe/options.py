"""How an option is declared, once, for every front end, and how a mapping is read; the families are in `families`.

An options class is a frozen dataclass whose fields are made by `option()`. Each front end derives what it needs from
`declarations()`: argparse, an Ansible argument_spec and its documentation, a schema. What an option may hold is checked
here, when the object is made, so that no front end can forget it and nothing is connected before.
"""

from __future__ import annotations

import math
import re
import sys
import unicodedata
from collections.abc import Callable, Iterable, Mapping
from dataclasses import MISSING, dataclass, field, fields
from typing import Any, ClassVar, TypeVar

from .text import printable

# Longer than any host name, address, password or token in use, shorter than what a server may take as an attack.
MAX_VALUE = 4096


class UsageError(Exception):
    """The caller's mistake: an option's value that cannot be used. Nothing was connected.

    `option` is the field's name, `words` say what is wrong and what to do. Names of other options stand in the words in
    braces (`{username}`), so that each front end can spell them its own way; `str()` spells them plainly.
    """

    def __init__(self, option: str, words: str) -> None:
        super().__init__(option, words)
        self.option = option
        self.words = words

    def __str__(self) -> str:
        return f"{self.option}: {spell(self.words, lambda name: name)}"


class MissingPackage(UsageError):
    """An option needs a Python package that this Python does not have."""

    def __init__(self, option: str, package: str) -> None:
        words = f"needs the Python package {package}, which {sys.executable} does not have: pip install {package}"
        super().__init__(option, words)
        self.package = package


def spell(words: str, spelling: Callable[[str], str]) -> str:
    """Replace every option name in braces in `words` by `spelling(name)`; `{{` stands for a brace."""
    return re.sub(r"\{\{|\{([a-z][a-z_0-9]*)\}", lambda match: spelling(match[1]) if match[1] else "{", words)


def shown(value: str) -> str:
    """A user's value for the words of a `UsageError`: quoted, inert, cut, and its braces left alone by `spell()`."""
    return "'" + printable(value, limit=80).replace("{", "{{") + "'"


@dataclass(frozen=True)
class Declaration:
    """What `option()` was told of one option, for the front ends that derive from it.

    `kind` is `str`, `int`, `float` or `bool`; `many` marks a list of them. `default` is None for "not given", and means
    nothing when `required`. In `help`, names of other options stand in braces, as in `UsageError`.
    """

    name: str
    kind: str
    many: bool
    required: bool
    default: Any
    help: str
    choices: tuple[str, ...] = ()
    minimum: float | None = None
    maximum: float | None = None
    secret: bool = False
    path: bool = False
    multiline: bool = False
    effect: bool = False
    metavar: str | None = None


def option(
    help: str,
    *,
    default: Any = MISSING,
    choices: tuple[str, ...] = (),
    minimum: float | None = None,
    maximum: float | None = None,
    secret: bool = False,
    path: bool = False,
    multiline: bool = False,
    effect: bool = False,
    metavar: str | None = None,
) -> Any:
    """Declare an option as a dataclass field; without `default` it is required.

    `secret`: never shown, never an argument that `ps` shows. `path`: names a local file. `multiline`: line ends are
    allowed, since the value goes on the wire as a text and not inside a command. `effect`: something stays behind on
    the server, so a dry run leaves it out. `metavar` is the word for the value.
    """
    about = {
        "help": help,
        "choices": choices,
        "minimum": minimum,
        "maximum": maximum,
        "secret": secret,
        "path": path,
        "multiline": multiline,
        "effect": effect,
        "metavar": metavar,
    }
    # pylint: disable-next=invalid-field-call  # it knows field() in class bodies only
    return field(default=default, repr=not secret, metadata={"option": about})


def declarations(options: type[Options]) -> tuple[Declaration, ...]:
    """All options of a class, in the order in which they were declared."""
    if "_declared" not in vars(options):  # of the class itself: a parent's are fewer
        options._declared = tuple(_declaration(f) for f in fields(options))
    return options._declared


def _declaration(f: Any) -> Declaration:
    # The annotation is text (PEP 563), and the few forms in use are read here: get_type_hints() cannot evaluate
    # `str | None` on Python 3.9.
    annotation = f.type.removesuffix(" | None")
    many = annotation.startswith("tuple[")
    kind = annotation.removeprefix("tuple[").removesuffix(", ...]")
    required = f.default is MISSING
    default = None if required else f.default
    return Declaration(f.name, kind, many, required, default, **f.metadata["option"])


@dataclass(frozen=True)
class Options:
    """The root of all options classes: checks every value against its declaration.

    Raises `UsageError` when a value cannot be used.
    """

    _declared: ClassVar[tuple[Declaration, ...]]  # read once, since a class does not change

    def __post_init__(self) -> None:
        for declared in declarations(type(self)):
            value = getattr(self, declared.name)
            if value is declared.default and not declared.required:
                continue  # as most are, in each of thousands of checks
            if declared.many:
                for place, item in enumerate(value, start=1):
                    _check(declared, item, f"value {place}: " if len(value) > 1 else "")
            elif value is not None or declared.required:
                _check(declared, value, "")


TYPES: dict[str, tuple[type, ...]] = {"str": (str,), "int": (int,), "float": (float, int), "bool": (bool,)}
TYPE_WORDS = {"str": "a text", "int": "a whole number", "float": "a number", "bool": "true or false"}


def _check(declared: Declaration, value: Any, place: str) -> None:
    def wrong(words: str) -> UsageError:
        quoted = "" if declared.secret else f"{shown(str(value))} "
        return UsageError(declared.name, f"{place}{quoted}{words}")

    # A bool is an int to Python, and to nobody else.
    if type(value) not in TYPES[declared.kind]:
        raise wrong(f"is not {TYPE_WORDS[declared.kind]}")
    if declared.choices and value not in declared.choices:
        raise wrong(f"is none of {', '.join(declared.choices)}")
    if declared.kind == "float" and not math.isfinite(value):
        raise wrong("is not a finite number")
    if declared.minimum is not None and value < declared.minimum:
        raise wrong(f"is less than {declared.minimum:g}")
    if declared.maximum is not None and value > declared.maximum:
        raise wrong(f"is more than {declared.maximum:g}")
    if isinstance(value, str):
        _check_text(declared, value, wrong)


# Controls, and what some reader takes for the end of a line.
LINE_BREAKERS = frozenset({"Cc", "Zl", "Zp"})


def _check_text(declared: Declaration, value: str, wrong: Callable[[str], UsageError]) -> None:
    if len(value) > MAX_VALUE:
        raise UsageError(declared.name, f"has {len(value)} characters, {MAX_VALUE} are the most")
    if value.isprintable():
        return
    allowed = "\t\r\n" if declared.multiline else ""
    for position, character in enumerate(value, start=1):
        category = unicodedata.category(character)
        if category in LINE_BREAKERS and character not in allowed:
            # Not which one: of a secret nothing is shown.
            raise wrong(f"has a control character or a line separator as character {position}: take it out")
        if category == "Cs":
            raise wrong(f"is not valid UTF-8 at character {position}")


T = TypeVar("T", bound=Options)


def read(options: type[T], values: Mapping[str, Any]) -> T:
    """Read a mapping strictly into an options object; None stands for "not given", as Ansible passes it.

    Raises `UsageError` for a name that is not declared (with the nearest one that is), a missing or an unusable value.
    """
    declared = {d.name: d for d in declarations(options)}
    given: dict[str, Any] = {}
    for name, value in values.items():
        if name not in declared:
            raise UsageError(name, "there is no such option" + nearest(name, declared))
        if value is None:
            continue
        if declared[name].many:
            if not isinstance(value, (list, tuple)):
                raise UsageError(name, "is not a list")
            value = tuple(value)
        given[name] = value
    for name, declaration in declared.items():
        if declaration.required and name not in given:
            raise UsageError(name, "is missing")
    return options(**given)


def nearest(word: str, known: Iterable[str], likeness: float = 0.6) -> str:
    """A question for the known word that is most like this one; empty when none is, by difflib's ratio from 0 to 1."""
    import difflib

    folded = {each.lower(): each for each in known}
    near = difflib.get_close_matches(word.lower(), folded, n=1, cutoff=likeness)
    return f"; did you mean {folded[near[0]]}?" if near else ""

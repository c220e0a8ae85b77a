"""The file of a report, read strictly into checks that can be run; every mistake in it is one line.

What applies to a check, the strongest first: what stands at the check, in its group, in `defaults`. A group or the
defaults apply where the check's protocol has the option; null at a check takes back what they give.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any, Union

from mailprobe.families import MEANINGLESS, PromiseOptions
from mailprobe.options import Declaration, UsageError, declarations, read, spell
from mailprobe.text import printable
from mailprobe.tls import Contexts

from ..arguments import Misuse, ranges
from ..common import TLS_METRICS, CheckSpec
from ..credentials import SOURCES, secret
from . import yamlfile
from .plan import Config, ConfigError, Fault, Given, Layer, Planned, blamed, join, merged, once
from .shape import Shape, chosen, defaults_shape, file_shape, nearest, protocol_shape
from .yamlfile import Row, Table

# What an error shows of the path to a value; a key may be as long as the file.
MAX_WHERE = 200
STATES = ("warning", "critical")
# Stands for a secret that cannot be had, so that the rest of its check can be judged; it is never sent.
PLACEHOLDER = "placeholder"


def load(path: str, protocols: Mapping[str, CheckSpec]) -> Config:
    """Read a file. Raises `ConfigError`; a secret that is not there is only the `fault` of its check."""
    try:
        content = yamlfile.load(path)
    except OSError as error:
        raise ConfigError([Fault(path, 0, "", f"cannot be read: {error.strerror}")]) from None
    except yamlfile.Malformed as error:
        raise ConfigError([Fault(path, error.line or 0, "", error.words)]) from None
    reader = _File(path, protocols)
    config = reader.read(content)
    if reader.faults:
        raise ConfigError(sorted(once(reader.faults), key=lambda fault: fault.line))
    return config


@dataclass
class _File:
    """Collects mistakes, so that all of a file are told at once."""

    path: str
    protocols: Mapping[str, CheckSpec]
    faults: list[Fault] = field(default_factory=list)
    advice: list[Fault] = field(default_factory=list)
    secrets: dict[tuple[str, str, str], Union[str, UsageError]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.shapes = {name: protocol_shape(name, spec) for name, spec in self.protocols.items()}
        self.any_check = defaults_shape(self.protocols)
        self.whole = file_shape(self.shapes, self.any_check)
        self.declared = {
            name: {known.name: known for known in declarations(spec.options)} for name, spec in self.protocols.items()
        }
        self.metrics = {
            name: frozenset(known.metric for known in spec.known_metrics) for name, spec in self.protocols.items()
        }
        self.defaults: Layer | None = None
        self.groups: dict[str, Layer | None] | None = None

    def fault(self, line: int, where: str, words: str) -> None:
        """Note a mistake."""
        self.faults.append(Fault(self.path, line, printable(where, limit=MAX_WHERE), words))

    def read(self, content: Any) -> Config:
        """All of the file."""
        if not isinstance(content, Table):
            empty = content is None
            self.fault(0, "", "is empty: there is no check" if empty else "is not a mapping with a key checks")
            return Config(None, [], [])
        self._known_keys(content, self.whole, "")
        title = content.get("title")
        if title is not None:
            self._value(content, "title", self.whole, "")
            self._heading(content, "title", "")
        self.defaults = self._layer(content, "defaults", "defaults")
        self.groups = self._groups(content)
        checks = content.get("checks")
        if not isinstance(checks, Row) or not checks:
            words = "is missing" if "checks" not in content else "there is no check" if not checks else "is not a list"
            self.fault(content.lines.get("checks", content.line), "checks", words)
            return Config(None, [], [])
        planned: list[Planned] = []
        names: dict[str, int] = {}
        for place, check in enumerate(checks):
            found = self._check(check, checks.lines[place], f"checks[{place}]")
            if isinstance(check, Table) and isinstance(name := check.get("name"), str):
                if name in names:
                    words = f"'{printable(name, limit=80)}' is the name of the check in line {names[name]}, too"
                    self.fault(check.lines["name"], f"checks[{place}].name", words)
                names.setdefault(name, check.lines["name"])
            if found is not None:
                planned.append(found)
        return Config(title, planned, list(dict.fromkeys(self.advice)))

    # The shape.

    def _known_keys(self, table: Table, shape: Shape, where: str) -> None:
        for key in table:
            if key not in shape.fields:
                self.fault(table.lines[key], join(where, printable(key, limit=80)), shape.unknown(key))

    def _value(self, table: Table, key: str, shape: Shape, where: str) -> None:
        """Tell what is wrong with one value of a mapping."""
        found = shape.wrong(key, table[key])
        if found is not None:
            inside, words = found
            self.fault(table.lines[key], join(where, key) + inside, words)

    def _options(self, table: Table, shape: Shape, where: str) -> None:
        """Tell what is wrong with a mapping of options, as far as each can be judged by itself."""
        self._known_keys(table, shape, where)
        for key in table:
            if key in shape.fields and key not in STATES:
                self._value(table, key, shape, where)

    def _ranges(self, table: Table, metrics: Iterable[frozenset[str]], where: str) -> None:
        """Tell what is wrong with the ranges of a mapping of options."""
        known = frozenset().union(*metrics)
        for state in STATES:
            given = table.get(state)
            if given is None:
                continue
            path = join(where, state)
            if not isinstance(given, Table):
                self.fault(table.lines[state], path, "expected a mapping of metrics and ranges")
                continue
            for metric, value in given.items():
                place = given.lines[metric], f"{path}.{printable(metric, limit=80)}"
                if metric not in known:
                    self.fault(*place, f"there is no such metric{nearest(metric, known)}")
                elif value is not None:
                    self._range(place, metric, value)

    def _heading(self, table: Table, key: str, where: str) -> None:
        """Tell when a text that stands in every report is not fit for it: an empty one is no `Title` anyway."""
        value = table.get(key)
        if not isinstance(value, str) or not value:
            return
        unfit = next((place for place, character in enumerate(value) if printable(character) != character), None)
        if unfit is not None:
            name = unicodedata.name(value[unfit], "a control character")
            self.fault(table.lines[key], join(where, key), f"has {name} as character {unfit + 1}: take it out")
        elif value != value.strip():
            self.fault(table.lines[key], join(where, key), "begins or ends with a blank: take it out")

    def _range(self, place: tuple[int, str], metric: str, value: Any) -> None:
        if isinstance(value, bool) or not isinstance(value, (int, float, str)):
            self.fault(*place, "expected a range like 5, 30: or 1:9")
            return
        try:
            ranges([(metric, _plain(value))], (metric,))
        except Misuse as misuse:
            self.fault(*place, str(misuse))

    # What many checks share.

    def _layer(self, content: Table, key: str, where: str) -> Layer | None:
        value = content.get(key)
        if value is None:
            return None
        if not isinstance(value, Table):
            self.fault(content.lines[key], where, "expected a mapping of options")
            return None
        before = len(self.faults)
        self._options(value, self.any_check, where)
        self._ranges(value, self.metrics.values(), where)
        wrong = {fault.line for fault in self.faults[before:]}
        return Layer(where, _without(value, wrong))

    def _groups(self, content: Table) -> dict[str, Layer | None] | None:
        """The groups by name; None when the file has none, and any name is one."""
        groups = content.get("groups")
        if groups is None:
            return None
        if not isinstance(groups, Table):
            self.fault(content.lines["groups"], "groups", "expected a mapping of names and options")
            return None
        return {name: self._layer(groups, name, f"groups.{printable(name, limit=80)}") for name in groups}

    # One check.

    def _check(self, check: Any, line: int, where: str) -> Planned | None:
        if not isinstance(check, Table):
            self.fault(line, where, "expected a mapping of options")
            return None
        before = len(self.faults)
        protocol = self._protocol(check, where)
        if protocol is None:
            return None
        shape = self.shapes[protocol]
        if "name" not in check:
            self.fault(check.line, join(where, "name"), "is missing")
        if not shape.accepts(check):
            self._options(check, shape, where)
        self._ranges(check, [self.metrics[protocol]], where)
        for key in ("name", "group"):
            self._heading(check, key, where)
        layers = [*self._shared(check, where), Layer(where, check, own=True)]
        if len(self.faults) > before:
            return None
        return self._planned(check, protocol, layers)

    def _shared(self, check: Table, where: str) -> Iterator[Layer]:
        """What applies to the check beside its own options, the weakest first."""
        if self.defaults is not None:
            yield self.defaults
        group = check.get("group")
        if not isinstance(group, str) or self.groups is None:
            return
        if group not in self.groups:
            words = f"there is no such group{nearest(group, self.groups)}"
            self.fault(check.lines["group"], join(where, "group"), words)
        elif (layer := self.groups[group]) is not None:
            yield layer

    def _protocol(self, check: Table, where: str) -> str | None:
        protocol = check.get("protocol")
        if isinstance(protocol, str) and protocol in self.protocols:
            return protocol
        if protocol is None:
            self.fault(check.line, join(where, "protocol"), f"is missing; there are {', '.join(self.protocols)}")
        else:
            text = isinstance(protocol, str)
            words = chosen(protocol, self.protocols) if text else f"expected one of {', '.join(self.protocols)}"
            self.fault(check.lines["protocol"], join(where, "protocol"), words)
        # Keys that no protocol has are wrong whatever was meant.
        known = {key for shape in self.shapes.values() for key in shape.fields}
        for key in check:
            if key not in known:
                words = f"there is no such option{nearest(key, known)}"
                self.fault(check.lines[key], join(where, printable(key, limit=80)), words)
        return None

    def _planned(self, check: Table, protocol: str, layers: list[Layer]) -> Planned | None:
        spec = self.protocols[protocol]
        declared = self.declared[protocol]
        given = merged(layers, declared)
        mode = given["tls"].value if "tls" in given else declared["tls"].default
        given = {key: each for key, each in given.items() if each.own or key not in MEANINGLESS[mode]}
        before = len(self.faults)
        values = {name: given[name].value for name, known in declared.items() if name in given and not known.secret}
        missing = self._secrets(declared, given, values)
        try:
            options = read(spec.options, values)
        except UsageError as error:
            self.faults.append(blamed(self.path, layers, spec, error))
            return None
        warning, critical = (self._merged_ranges(layers, state, protocol, options) for state in STATES)
        if len(self.faults) > before:
            return None
        return Planned(check["name"], protocol, check.get("group"), spec, options, warning, critical, missing, layers)

    # Secrets.

    def _secrets(
        self, declared: Mapping[str, Declaration], given: Mapping[str, Given], values: dict[str, Any]
    ) -> Fault | None:
        """Fill in the secrets; returns why one cannot be had."""
        missing = None
        seconds = float(values.get("timeout") or declared["timeout"].default)
        for name in (name for name, known in declared.items() if known.secret):
            sources = {source: given[key] for source in SOURCES if (key := f"{name}_{source}") in given}
            if name in given:
                if sources:
                    found = next(iter(sources.values()))
                    self.fault(found.line, found.where, f"contradicts {name}: give one of them")
                found = given[name]
                words = f"whoever reads this file has the {name}: {name}_file is better"
                self.advice.append(Fault(self.path, found.line, found.where, words))
                values[name] = found.value
            elif len(sources) > 1:
                first, second, *dummy = sources
                self.fault(sources[second].line, sources[second].where, f"contradicts {name}_{first}: give one of them")
                values[name] = PLACEHOLDER
            elif sources:
                source, found = next(iter(sources.items()))
                value = self._secret(name, source, found.value, seconds)
                values[name] = value if isinstance(value, str) else PLACEHOLDER
                if isinstance(value, UsageError) and missing is None:
                    missing = Fault(self.path, found.line, found.where, spell(value.words, lambda name: name))
        return missing

    def _secret(self, name: str, source: str, value: str, seconds: float) -> str | UsageError:
        """A secret, asked for once for all checks that share it."""
        key = (name, source, value)
        if key not in self.secrets:
            try:
                self.secrets[key] = secret(name, {source: value}, seconds) or ""
            except UsageError as error:
                self.secrets[key] = error
        return self.secrets[key]

    # Ranges.

    def _merged_ranges(self, layers: list[Layer], state: str, protocol: str, options: PromiseOptions) -> dict[str, str]:
        found: dict[str, Any] = {}
        for layer in layers:
            given: Table = layer.table.get(state) or Table(0)
            for metric, value in given.items():
                needs_tls = metric in TLS_METRICS and options.tls == "none"
                if needs_tls and layer.own and value is not None:
                    words = "is only known with TLS: set tls to starttls or implicit"
                    self.fault(given.lines[metric], f"{layer.where}.{state}.{metric}", words)
                if metric in self.metrics[protocol] and not needs_tls:
                    found[metric] = value
        return {metric: _plain(value) for metric, value in found.items() if value is not None}


def _without(table: Table, lines: Collection[int]) -> Table:
    """The mapping less what is wrong in it, so that the checks can be judged with the rest."""
    right = Table(table.line)
    for key, value in table.items():
        inner = value.lines.values() if isinstance(value, Table) else ()
        if table.lines[key] not in lines and not any(line in lines for line in inner):
            right[key], right.lines[key] = value, table.lines[key]
    return right


def _plain(value: Any) -> str:
    """A range as a text; numbers in plain decimals, as ranges are written."""
    return f"{Decimal(repr(value)):f}" if isinstance(value, float) else str(value)


def unusable(config: Config, file: str) -> list[Fault]:
    """What `--check-config` looks at beyond the file: secrets, and the files that options name."""
    return once(_unusable(config, file))


def _unusable(config: Config, file: str) -> Iterator[Fault]:
    contexts = Contexts()
    for check in config.checks:
        check.options.share(contexts)
        if check.fault is not None:
            yield check.fault
        try:
            check.options.prepare()
        except UsageError as error:
            yield check.blame(file, error)

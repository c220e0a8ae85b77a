"""The JSON Schema of the report's file: it is one, it describes every option, and it agrees with what is read."""

from __future__ import annotations

import copy
import json
import random
import sys
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from mailprobe.options import Declaration, declarations
from nagios_checks.credentials import SOURCES
from nagios_checks.report.config import load
from nagios_checks.report.plan import ConfigError
from nagios_checks.report.registry import PROTOCOLS
from nagios_checks.report.schema import schema

from .running import run

SCHEMA = schema()
VALIDATOR = jsonschema.Draft202012Validator(SCHEMA)

GOOD: dict[str, Any] = {
    "title": "Mail of example.org",
    "defaults": {"timeout": 10, "warning": {"certificate_days": "30:", "time": 1.5}},
    "groups": {
        "users": {"username": "probe", "password_env": "HOME", "mechanism": None, "tls": "implicit"},
        "none": None,
    },
    "checks": [
        {
            "name": "inbound mail",
            "protocol": "smtp",
            "host": "mx1.example.org",
            "tls": "starttls",
            "port": 25,
            "lmtp": False,
            "rcpt_to": ["postmaster@example.org"],
            "mechanism": None,
            "critical": {"time": 5, "certificate_days": "7:"},
        },
        {"name": "mailboxes", "protocol": "imap", "host": "imap.example.org", "group": "users", "folder": ["A", "B"]},
        {"name": "old mailboxes", "protocol": "pop3", "host": "::1", "group": None, "timeout": 0.5},
        {"name": "filters", "protocol": "sieve", "host": "sieve.example.org", "warning": None, "mechanism": None},
    ],
}


def accepted(path: Path, content: Any) -> bool:
    path.write_text(json.dumps(content), encoding="utf-8")
    try:
        load(str(path), PROTOCOLS)
    except ConfigError:
        return False
    return True


def test_the_command_prints_the_schema() -> None:
    ended = run([sys.executable, "-m", "nagios_checks.cli", "schema"])
    assert (ended.code, ended.errors) == (0, "")
    assert ended.json == SCHEMA
    jsonschema.Draft202012Validator.check_schema(ended.json)


def test_a_good_file_is_good(tmp_path: Path) -> None:
    VALIDATOR.validate(GOOD)
    assert accepted(tmp_path / "checks.yaml", GOOD)


def one_of(protocol: str) -> dict[str, Any]:
    properties: dict[str, Any] = SCHEMA["$defs"][f"{protocol.capitalize()}Check"]["properties"]
    return properties


def kinds(described: dict[str, Any]) -> list[dict[str, Any]]:
    """What the value may be, apart from null."""
    return [kind for kind in described["anyOf"] if kind != {"type": "null"}]


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_every_option_is_described_with_what_it_may_be(protocol: str) -> None:
    properties = one_of(protocol)
    for declared in declarations(PROTOCOLS[protocol].options):
        described = properties[declared.name]
        assert len(described["description"]) > 10
        assert "{" not in described["description"]
        (kind,) = kinds(described)
        if declared.secret:
            assert described["deprecated"]
            assert {f"{declared.name}_{source}" for source in SOURCES} <= properties.keys()
        elif declared.many:
            assert kind["type"] == "array"
        elif declared.choices:
            assert sorted(kind["enum"]) == sorted(declared.choices)
        else:
            assert (
                kind["type"] == {"str": "string", "int": "integer", "float": "number", "bool": "boolean"}[declared.kind]
            )
            assert (kind.get("minimum"), kind.get("maximum")) == (declared.minimum, declared.maximum)
        if not declared.required and not declared.many:
            assert described["default"] == declared.default


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_ranges_are_for_the_metrics_of_the_protocol(protocol: str) -> None:
    ranges = SCHEMA["$defs"][f"{protocol.capitalize()}Ranges"]
    assert ranges["properties"].keys() == {known.metric for known in PROTOCOLS[protocol].known_metrics}
    assert ranges["additionalProperties"] is False


def test_defaults_take_what_any_protocol_takes() -> None:
    properties = SCHEMA["$defs"]["Defaults"]["properties"]
    options = {declared.name for spec in PROTOCOLS.values() for declared in declarations(spec.options)}
    assert options <= properties.keys()
    assert "name" not in properties
    mechanisms = {name for protocol in PROTOCOLS for name in kinds(one_of(protocol)["mechanism"])[0]["enum"]}
    assert set(kinds(properties["mechanism"])[0]["enum"]) == mechanisms


TYPES = {"str": "string", "int": "integer", "float": "number", "bool": "boolean"}
BAD_VALUES: dict[str, list[Any]] = {
    "str": [5, True, ["x"], {"x": "y"}, "x" * 4097],
    "int": ["5", 5.5, True, [5], {}],
    "float": ["5", True, [5], {}],
    "bool": ["yes", 0, 1, [True], {}],
}


def mistakes() -> list[tuple[str, Any]]:
    """Files with one mistake of form each, a few hundred, the same ones in every run of the tests."""
    chosen = random.Random(25)
    made: list[tuple[str, Any]] = []

    def make(what: str, place: Any, key: Any, value: Any) -> None:
        content = copy.deepcopy(GOOD)
        table: Any = content
        for step in place:
            table = table[step]
        table[key] = value
        made.append((f"{what}: {'.'.join(map(str, place))}.{key} = {str(value)[:20]}", content))

    for number, check in enumerate(GOOD["checks"]):
        spec = PROTOCOLS[check["protocol"]]
        for declared in declarations(spec.options):
            for value in bad_values(declared):
                make("value", ("checks", number), declared.name, value)
            make("name", ("checks", number), misspelt(declared.name, chosen), None)
        for state in ("warning", "critical"):
            for known in spec.known_metrics:
                make("metric", ("checks", number), state, {misspelt(known.metric, chosen): 5})
            for value in ("", "@", ":", "x", "5 ", True, [5], "1:2:3"):
                make("range", ("checks", number), state, {"time": value})
            make("ranges", ("checks", number), state, 5)
    for declared in (declared for spec in PROTOCOLS.values() for declared in declarations(spec.options)):
        value = chosen.choice(BAD_VALUES[declared.kind]) if not declared.many else 5
        make("default", ("defaults",), declared.name, value)
        make("of a group", ("groups", "users"), declared.name, value)
    for value in (5, "x", None, [], {}, [5], [None], ["smtp"]):
        make("checks", (), "checks", value)
    for value in ("smpt", None, 5, ["smtp"]):
        make("protocol", ("checks", 0), "protocol", value)
    for value in (None, 5, "", "x" * 201, ["a"]):
        make("name of a check", ("checks", 0), "name", value)
    for value in (5, "", "x" * 201):
        make("title", (), "title", value)
    for key in ("defaults", "groups", "title", "check"):
        make("top", (), key, 5)
    make("group", ("groups",), "users", 5)
    return made


def bad_values(declared: Declaration) -> list[Any]:
    if declared.many:
        return [5, "x", {}, [5], [None]]
    more: list[Any] = ["no such word"] if declared.choices else []
    if declared.minimum is not None:
        more.append(int(declared.minimum) - 1)
    if declared.maximum is not None:
        more.append(int(declared.maximum) + 1)
    return [*BAD_VALUES[declared.kind], *more]


def misspelt(word: str, chosen: random.Random) -> str:
    place = chosen.randrange(len(word))
    return word[:place] + "ö" + word[place:]


def test_the_schema_and_the_reader_agree_on_many_mistakes(tmp_path: Path) -> None:
    made = mistakes()
    assert len(made) > 500
    path = tmp_path / "checks.yaml"
    assert [what for what, content in made if VALIDATOR.is_valid(content)] == []
    assert [what for what, content in made if accepted(path, content)] == []


def test_the_schema_and_the_reader_agree_on_what_is_left_out(tmp_path: Path) -> None:
    """Every key of a check may be null, but for those it cannot do without."""
    path = tmp_path / "checks.yaml"
    for number, check in enumerate(GOOD["checks"]):
        needed = {"name", "protocol", "host", "tls", "group", *(key for key in GOOD["groups"]["users"])}
        for key in one_of(check["protocol"]).keys() - needed:
            if key.startswith("password"):
                continue  # it would take back the password of the group
            content = copy.deepcopy(GOOD)
            content["checks"][number][key] = None
            VALIDATOR.validate(content)
            assert accepted(path, content), key

"""The command, its JSON and the Ansible module give one verdict on one server (security.md P13)."""

from __future__ import annotations

import json
import os
import ssl
import sys
from dataclasses import fields
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from mailprobe.options import Options
from nagios_checks import arguments, command, common, imap, pop3, sieve, smtp

from .canary import leaks
from .playing import Files, serve
from .running import NOISE_SECONDS, REPOSITORY, Outcome, check, run
from .scripted import Script, Scripted
from .test_conversations import SCRIPTS, name_of
from .test_hostile import CATASTROPHE, SLOW_TO_MATCH

pytestmark = pytest.mark.collection

CHECKS = {module.CHECK.name: module.CHECK for module in (imap, pop3, sieve, smtp)}
SOURCE = REPOSITORY / "ansible_collection"
# One script in so many is played to all three; MAILPROBE_ALL=1 plays all.
SAMPLED = 1 if "MAILPROBE_ALL" in os.environ else 11

# Ansible runs a module as a program of its own that finds its arguments in JSON, in the "legacy" form if need be.
RUN_A_MODULE = """
import runpy, sys
from ansible.module_utils import basic
basic._ANSIBLE_ARGS, basic._ANSIBLE_PROFILE = sys.stdin.buffer.read(), "legacy"
runpy.run_module(sys.argv[1], run_name="__main__")
"""


class Verdict(NamedTuple):
    """What all front ends have to agree on."""

    state: str
    problems: list[tuple[str, str, str]]
    login: str | None


def verdict(report: dict[str, Any]) -> Verdict:
    problems = [(problem["code"], problem["stage"], problem["severity"]) for problem in report["problems"]]
    return Verdict(report["state"], problems, report["facts"]["login"])


def play(script: Script, tls: ssl.SSLContext, protocol: str, words: list[str], option: str) -> Outcome:
    with serve(script, tls) as server:
        return check(protocol, "-H", "localhost", "-4", "-p", server.port, option, *words)


@pytest.fixture(scope="session")
def collections(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory in which Python finds the collection: the sources, with the links to the core in them."""
    directory = tmp_path_factory.mktemp("collections")
    (directory / "ansible_collections" / "mailprobe").mkdir(parents=True)
    (directory / "ansible_collections" / "mailprobe" / "checks").symlink_to(SOURCE)
    return directory


def module_arguments(spec: common.CheckSpec, words: list[str]) -> dict[str, Any]:
    """What a play would give for a command line, secrets by their values."""
    parsed, secrets = arguments.parse(command.parser(spec), spec.options, words)
    options: Options = arguments.to_options(spec.options, parsed, secrets)
    values = {f.name: getattr(options, f.name) for f in fields(options)}
    given = {name: value for name, value in values.items() if value is not None}
    return {name: list(value) if isinstance(value, tuple) else value for name, value in given.items()}


def run_module(collections: Path, protocol: str, values: dict[str, Any]) -> Outcome:
    text = json.dumps({"ANSIBLE_MODULE_ARGS": values})
    name = f"ansible_collections.mailprobe.checks.plugins.modules.{protocol}"
    return run([sys.executable, "-c", RUN_A_MODULE, name], {"PYTHONPATH": str(collections)}, stdin=text)


def states_of_thresholds(words: list[str]) -> bool:
    """Whether a script gives thresholds, which the module does not have."""
    return any(word in ("-w", "-c", "-D") for word in words)


@pytest.mark.parametrize("path", SCRIPTS[::SAMPLED], ids=name_of)
def test_all_front_ends_say_the_same(
    path: Path, collections: Path, localhost_tls: tuple[ssl.SSLContext, Path], files: Files
) -> None:
    script = Script.read(path)
    protocol = path.parent.name
    words = files.arguments(script)
    text = play(script, localhost_tls[0], protocol, words, "-vv")
    document = play(script, localhost_tls[0], protocol, words, "--json")
    with serve(script, localhost_tls[0]) as server:
        where = ["-H", "localhost", "-4", "-p", str(server.port)]
        module = run_module(collections, protocol, module_arguments(CHECKS[protocol], [*where, *words]))
        server.finish()
    assert module.errors == "", module.errors
    assert server.errors == [], module.output
    result = module.json
    found = verdict(result)
    assert text.state == document.state == document.json["state"] == script.state
    if not states_of_thresholds(words):
        assert verdict(document.json) == found
        assert script.state == found.state
    assert found.problems == verdict(document.json).problems
    for code, stage, _ in found.problems:
        assert f"] {code} at {stage}: " in text.output
    failed = any(severity != "flaw" for _, _, severity in found.problems)
    assert (result.get("failed", False), module.code) == (failed, int(failed))
    assert result["changed"] is False
    assert not list(leaks(module.output))
    assert module.peak_mib < 96
    assert result["elapsed"] < float(words[words.index("--timeout") + 1]) + 1


@pytest.mark.parametrize("protocol", CHECKS)
def test_a_sample_has_every_state(protocol: str) -> None:
    states = {Script.read(path).state for path in SCRIPTS[::SAMPLED] if path.parent.name == protocol}
    assert states >= {"ok", "critical"}


def test_a_regular_expression_that_does_not_end_is_a_timeout_in_the_module_too(collections: Path) -> None:
    with Scripted(SLOW_TO_MATCH) as server:
        values = {"host": "127.0.0.1", "port": server.port, "timeout": 1, "command": ["NOOP"]}
        module = run_module(collections, "smtp", {**values, "response": [CATASTROPHE]})
    assert module.errors == ""
    assert [(problem["code"], problem["stage"]) for problem in module.json["problems"]] == [("timeout", "command")]
    assert module.json["elapsed"] < 2 + NOISE_SECONDS

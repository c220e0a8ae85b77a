"""Every scripted conversation in tests/conversations: the check says what the script expects, in time and inertly."""

from __future__ import annotations

import base64
import html
import json
import ssl
import unicodedata
import urllib.parse
from pathlib import Path

import pytest

from .conftest import CANARY
from .running import Outcome, check_smtp
from .scripted import Script, Scripted

SCRIPTS = sorted((Path(__file__).parent / "conversations" / "smtp").glob("*.txt"))
DEFAULT_TIMEOUT = 5.0


def forms_of_the_canary() -> list[str]:
    """What a leaked password may look like."""
    return [
        CANARY,
        json.dumps(CANARY)[1:-1],
        html.escape(CANARY),
        urllib.parse.quote(CANARY),
        base64.b64encode(CANARY.encode()).decode().rstrip("=")[:-1],
        base64.b64encode(f"\0probe\0{CANARY}".encode()).decode(),
    ]


def arguments(script: Script, ca_file: Path, password_file: Path) -> list[str]:
    given = script.options(ca_file=str(ca_file), password_file=str(password_file))
    return given if "--timeout" in given else [*given, "--timeout", str(DEFAULT_TIMEOUT)]


def bounded_clean_and_secret(outcome: Outcome, given: list[str]) -> None:
    """What holds for every run whatever the server does (security.md P1, P2, P7, P8)."""
    timeout = float(given[given.index("--timeout") + 1])
    assert outcome.seconds < timeout + 1, "longer than the time limit and a second"
    assert outcome.peak_mib < 96
    assert outcome.errors == ""
    assert len(outcome.output) < 20_000
    for form in forms_of_the_canary():
        assert form not in outcome.output
    for character in outcome.output.replace("\n", ""):
        assert unicodedata.category(character) not in {"Cc", "Cf", "Zl", "Zp", "Cs"}, repr(character)


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.stem)
def test_the_check_says_what_the_script_expects(
    path: Path, localhost_tls: tuple[ssl.SSLContext, Path], password_file: Path
) -> None:
    script = Script.read(path)
    context, ca_file = localhost_tls
    given = arguments(script, ca_file, password_file)
    with Scripted(script, tls=context) as server:
        outcome = check_smtp("-H", "localhost", "-4", "-p", server.port, "-vv", *given)
        server.finish()
    assert outcome.state == script.state, outcome.output
    bounded_clean_and_secret(outcome, given)
    assert outcome.output.count("|") == 1
    assert outcome.first_line.startswith(f"SMTP {script.state.upper()} - localhost:{server.port}: ")
    assert "time" in outcome.perfdata()
    assert server.errors == []
    assert server.connections == 1
    if script.code != "-":
        assert f"[{script.state}] {script.code} at " in outcome.output


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.stem)
def test_the_report_as_json_says_the_same(
    path: Path, localhost_tls: tuple[ssl.SSLContext, Path], password_file: Path
) -> None:
    script = Script.read(path)
    context, ca_file = localhost_tls
    given = arguments(script, ca_file, password_file)
    with Scripted(script, tls=context) as server:
        outcome = check_smtp("-H", "localhost", "-4", "-p", server.port, "--json", *given)
    report = outcome.json
    assert report["state"] == script.state == outcome.state
    assert [problem["code"] for problem in report["problems"]][:1] == ([] if script.code == "-" else [script.code])
    for form in forms_of_the_canary():
        assert form not in outcome.output
        assert json.dumps(form)[1:-1] not in outcome.output
    assert outcome.peak_mib < 96

"""Every scripted conversation in tests/conversations: the check says what the script expects, in time and inertly."""

from __future__ import annotations

import ssl
from pathlib import Path

import pytest

from .canary import leaks
from .playing import Files, bounded_clean_and_secret, serve
from .running import check
from .scripted import Script

SCRIPTS = sorted((Path(__file__).parent / "conversations").glob("*/*.txt"))
# The state that a finding makes, by its severity.
STATES = {"failure": "critical", "temporary": "warning", "flaw": "warning"}


def name_of(path: Path) -> str:
    return f"{path.parent.name}/{path.stem}"


@pytest.mark.parametrize("path", SCRIPTS, ids=name_of)
def test_the_check_says_what_the_script_expects(
    path: Path, localhost_tls: tuple[ssl.SSLContext, Path], files: Files
) -> None:
    script = Script.read(path)
    protocol = path.parent.name
    given = files.arguments(script)
    with serve(script, localhost_tls[0]) as server:
        outcome = check(protocol, "-H", "localhost", "-4", "-p", server.port, "-vv", *given)
        server.finish()
    assert server.errors == []
    assert outcome.state == script.state, outcome.output
    bounded_clean_and_secret(outcome, given)
    assert outcome.output.count("|") == 1
    assert outcome.first_line.startswith(f"{protocol.upper()} {script.state.upper()} - localhost:{server.port}: ")
    assert "time" in outcome.perfdata()
    assert server.connections == len(script.sections)
    if script.code != "-":
        assert f"[{script.state}] {script.code} at " in outcome.output
    for words in script.prints:
        assert words in outcome.output
    for words in script.hides:
        assert words not in outcome.output


@pytest.mark.parametrize("path", SCRIPTS, ids=name_of)
def test_the_report_as_json_says_the_same(path: Path, localhost_tls: tuple[ssl.SSLContext, Path], files: Files) -> None:
    script = Script.read(path)
    with serve(script, localhost_tls[0]) as server:
        outcome = check(
            path.parent.name, "-H", "localhost", "-4", "-p", server.port, "--json", *files.arguments(script)
        )
    report = outcome.json
    assert report["state"] == script.state == outcome.state
    worst = [problem["code"] for problem in report["problems"] if STATES[problem["severity"]] == script.state]
    assert worst[:1] == ([] if script.code == "-" else [script.code])
    assert not list(leaks(outcome.output))
    assert outcome.peak_mib < 96

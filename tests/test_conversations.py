"""Every scripted conversation in tests/conversations: the check says what the script expects, in time and inertly."""

from __future__ import annotations

import base64
import html
import json
import ssl
import unicodedata
import urllib.parse
from dataclasses import dataclass
from pathlib import Path

import pytest

from .conftest import CANARY
from .running import NOISE_SECONDS, Outcome, check
from .scripted import Script, Scripted

SCRIPTS = sorted((Path(__file__).parent / "conversations").glob("*/*.txt"))
DEFAULT_TIMEOUT = 5.0
# Access tokens have the alphabet of RFC 6750; a JSON Web Token easily has more than a thousand octets.
TOKEN = "ya29.canary-of~tokens_0123456789+/=="
LONG_TOKEN = "eyJhbGciOiJSUzI1NiJ9." + "canary-of-a-long-token_" * 60 + ".c2lnbmF0dXJl"
SIEVE_SCRIPT = 'require "fileinto";\r\nfileinto "INBOX.mailprobe";\r\n'
# The state that a finding makes, by its severity.
STATES = {"failure": "critical", "temporary": "warning", "flaw": "warning"}


@dataclass(frozen=True)
class Files:
    """What the options of a script may name: `{ca_file}` and so on."""

    ca_file: Path
    password_file: Path
    token_file: Path
    long_token_file: Path
    sieve_file: Path

    def arguments(self, script: Script) -> list[str]:
        given = script.options(**{name: str(path) for name, path in vars(self).items()})
        return given if "--timeout" in given else [*given, "--timeout", str(DEFAULT_TIMEOUT)]


@pytest.fixture
def files(localhost_tls: tuple[ssl.SSLContext, Path], password_file: Path, tmp_path: Path) -> Files:
    """The files that a script may need."""
    paths = []
    for name, text in (("token", TOKEN), ("long-token", LONG_TOKEN), ("script.sieve", SIEVE_SCRIPT)):
        path = tmp_path / name
        path.write_bytes(text.encode())
        paths.append(path)
    return Files(localhost_tls[1], password_file, *paths)


def serve(script: Script, tls: ssl.SSLContext) -> Scripted:
    return Scripted(script, tls=tls, words={"password": CANARY, "token": TOKEN, "long_token": LONG_TOKEN})


def forms_of_the_secrets() -> list[str]:
    """What a leaked password or token may look like."""
    secrets = (CANARY, TOKEN, LONG_TOKEN)
    return [
        *secrets,
        json.dumps(CANARY)[1:-1],
        html.escape(CANARY),
        urllib.parse.quote(CANARY),
        *(
            base64.b64encode(b"\0" * lead + secret.encode()).decode()[4:-4]  # alone, or in the middle of something
            for secret in secrets
            for lead in range(3)
        ),
    ]


def bounded_clean_and_secret(outcome: Outcome, given: list[str]) -> None:
    """What holds for every run whatever the server does (security.md P1, P2, P7, P8)."""
    timeout = float(given[given.index("--timeout") + 1])
    assert outcome.seconds < timeout + 1 + NOISE_SECONDS, "longer than the time limit and a second"
    assert outcome.peak_mib < 96
    assert outcome.errors == ""
    assert len(outcome.output) < 20_000
    for form in forms_of_the_secrets():
        assert form not in outcome.output
    for character in outcome.output.replace("\n", ""):
        assert unicodedata.category(character) not in {"Cc", "Cf", "Zl", "Zp", "Cs"}, repr(character)


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
    for form in forms_of_the_secrets():
        assert form not in outcome.output
        assert json.dumps(form)[1:-1] not in outcome.output
    assert outcome.peak_mib < 96

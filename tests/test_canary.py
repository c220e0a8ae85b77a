"""The watch over the passwords of the tests would notice one that gets out."""

from __future__ import annotations

import base64
import html
import json
import os
import subprocess
import sys
import time
import urllib.parse
from pathlib import Path

import pytest

from . import canary
from .canary import CANARY, leaks
from .running import REPOSITORY

ENCODINGS = {
    "plain": CANARY,
    "base64": base64.b64encode(CANARY.encode()).decode(),
    "base64 of PLAIN": base64.b64encode(f"\0probe\0{CANARY}".encode()).decode(),
    "URL": urllib.parse.quote(CANARY),
    "HTML": html.escape(CANARY),
    "IMAP": 'LOGIN "probe" "' + CANARY.replace("\\", "\\\\").replace('"', '\\"') + '"',
    "UTF-7": CANARY.encode("utf-7").decode(),
    "JSON": json.dumps({"password": CANARY}),
    "a traceback": f"ValueError: {CANARY!r}",
}


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_every_encoding_of_a_password_is_found(encoding: str) -> None:
    assert list(leaks(f"some words {ENCODINGS[encoding]} and more"))


def test_words_without_a_password_are_no_find() -> None:
    assert not list(leaks("535 5.7.8 Error: authentication failed: *** pass word 20 & <> dXNlcgBwYXNzd29yZA=="))


# What a session of its own does with the password; only the first does nothing.
TESTS = {
    "nothing": "pass",
    "prints it": "running.run([sys.executable, '-c', 'import os; print(os.environ[\"PW\"])'], {'PW': CANARY})",
    "has it in a command line": "running.run([sys.executable, '-c', 'import time; time.sleep(1)', CANARY])",
    "leaves it in a log": "(tmp_path / 'probe.log').write_text(CANARY)",
}


@pytest.mark.parametrize("leak", TESTS)
def test_a_session_in_which_a_password_gets_out_fails(leak: str, tmp_path: Path) -> None:
    test = tmp_path / "test_it.py"
    test.write_text(
        "import sys\nfrom tests import running\nfrom tests.canary import CANARY\n"
        f"def test_it(tmp_path):\n    {TESTS[leak]}\n"
    )
    command = [sys.executable, "-m", "pytest", "-q", "-p", "tests.watching", "-p", "no:cacheprovider"]
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("PYTEST", "MAILPROBE"))}
    done = subprocess.run(
        [*command, "--rootdir", tmp_path, f"--basetemp={tmp_path / 'base'}", test],
        env={**environment, "PYTHONPATH": str(REPOSITORY)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert "1 passed" in done.stdout, done.stdout + done.stderr
    assert done.returncode == (leak != "nothing"), done.stdout
    assert ("a secret got out" in done.stdout) == (leak != "nothing")
    # What this session left for its own check is not for the one around it.
    (tmp_path / "test_it.py").unlink()
    for path in tmp_path.rglob("*.log"):
        path.unlink()


def test_the_command_lines_of_what_was_started_are_seen(tmp_path: Path) -> None:
    watch = canary.Watch(tmp_path)
    with subprocess.Popen([sys.executable, "-c", "input()", "a-word-to-look-for"], stdin=subprocess.PIPE) as process:
        deadline = time.monotonic() + 10
        while not any("a-word-to-look-for" in words for words in watch.sampled) and time.monotonic() < deadline:
            watch.sample()
        process.communicate(b"\n")
    assert any("a-word-to-look-for" in words for words in watch.sampled)
    assert watch.end(None) == set()

"""The command `mailprobe`."""

from __future__ import annotations

import subprocess
import sys

import pytest

from .running import run


def mailprobe(*arguments: str) -> tuple[int, str, str]:
    outcome = run([sys.executable, "-m", "nagios_checks.cli", *arguments])
    return outcome.code, outcome.output, outcome.errors


def test_the_demo_ends_by_itself_and_every_check_says_what_it_should() -> None:
    code, output, errors = mailprobe("demo")
    assert (code, errors) == (0, "")
    assert "checks said what they should." in output
    assert output.count("\n$ check_mail_") == output.count("  exit code ") >= 20
    for line in ("  SMTP OK - ", "  SMTP CRITICAL - ", "  POP3 OK - ", "  IMAP OK - ", "   ~> EHLO ", "    hint: "):
        assert line in output


@pytest.mark.parametrize("arguments", [(), ("--no-such-option",), ("no-such-command",), ("demo", "--no-such-option")])
def test_a_wrong_command_line_is_one_line_and_exit_code_3(arguments: tuple[str, ...]) -> None:
    code, output, errors = mailprobe(*arguments)
    assert (code, output, errors.count("\n")) == (3, "", 1)
    assert errors.startswith("mailprobe: ")


@pytest.mark.parametrize(
    "arguments",
    [("--help",), ("--version",), ("demo", "--help"), ("report", "--help"), ("schema", "--help")],
)
def test_help_and_version_are_exit_code_3(arguments: tuple[str, ...]) -> None:
    code, output, errors = mailprobe(*arguments)
    assert (code, errors) == (3, "")
    assert "mailprobe" in output


def test_an_output_on_a_full_disk_is_one_line_and_exit_code_3() -> None:
    with open("/dev/full", "w") as full:
        ended = subprocess.run(
            [sys.executable, "-m", "nagios_checks.cli", "schema"], stdout=full, stderr=subprocess.PIPE, text=True
        )
    assert ended.returncode == 3
    assert ended.stderr == "mailprobe schema: trouble on this host: OSError: [Errno 28] No space left on device\n"

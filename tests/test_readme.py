"""What README.md says is so. `python -m tests.test_readme` writes the generated part anew."""

from __future__ import annotations

import re
import sys
from pathlib import Path

from mailprobe.codes import HINTS, Code, Stage
from nagios_checks.cli import COMMANDS

from .running import REPOSITORY, check_smtp, run

README = REPOSITORY / "README.md"
CODES = re.compile(r"(?<=<!-- codes -->\n).*?(?=<!-- /codes -->)", re.DOTALL)


def table_of_codes() -> str:
    rows = [f"| `{code.value}` | {HINTS[code]} |" for code in Code]
    return "\n".join(["| finding | where to look |", "| --- | --- |", *rows, ""])


def test_the_table_of_findings_is_that_of_the_code() -> None:
    found = CODES.search(README.read_text(encoding="utf-8"))
    assert found is not None
    assert found[0] == table_of_codes()


def test_the_metrics_are_those_that_a_check_can_judge() -> None:
    text = README.read_text(encoding="utf-8")
    for stage in Stage:
        assert f"`{stage.value}_time`" in text


def test_every_option_that_the_readme_names_is_one_of_the_check_or_of_mailprobe() -> None:
    commands = (run([sys.executable, "-m", "nagios_checks.cli", name, "--help"]) for name in COMMANDS)
    helps = [check_smtp("--help").output, *(command.output for command in commands)]
    known = set(re.findall(r"--[a-z-]+", "".join(helps))) | {"--json", "--help", "--version"}
    named = set(re.findall(r"(?<![\w-])--[a-z][a-z-]+", README.read_text(encoding="utf-8")))
    assert named <= known


def test_the_file_of_checks_in_the_readme_is_a_good_one(tmp_path: Path) -> None:
    files = re.findall(r"```yaml\n(title: .*?)```", README.read_text(encoding="utf-8"), re.DOTALL)
    assert len(files) == 1
    (tmp_path / "password").write_text("s3cret\n", encoding="utf-8")
    path = tmp_path / "checks.yaml"
    path.write_text(files[0].replace("/etc/mailprobe/probe", str(tmp_path / "password")), encoding="utf-8")
    ended = run([sys.executable, "-m", "nagios_checks.cli", "report", str(path), "--check-config"])
    assert (ended.code, ended.errors) == (0, "")


def test_the_figures_of_reliability_are_there_and_say_that_all_verdicts_were_right() -> None:
    figures = README.read_text(encoding="utf-8").partition("<!-- figures -->")[2].partition("<!-- /figures -->")[0]
    rows = re.findall(r"^\| (.+?) \| ([0-9]+) \| ([0-9]+) \|$", figures, re.MULTILINE)
    assert len(rows) == 4
    for name, tried, right in rows:
        assert tried == right, name
    overrun, peak = re.findall(r"was ([0-9.]+) s.* had ([0-9]+) MiB", figures, re.DOTALL)[0]
    assert float(overrun) < 1
    assert int(peak) < 96


if __name__ == "__main__":
    README.write_text(CODES.sub(lambda dummy: table_of_codes(), README.read_text(encoding="utf-8")), encoding="utf-8")

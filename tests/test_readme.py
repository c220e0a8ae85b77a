"""What README.md says is so. `python -m tests.test_readme` writes the generated part anew."""

from __future__ import annotations

import re

from mailprobe.codes import HINTS, Code, Stage

from .running import REPOSITORY, check_smtp

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


def test_every_option_that_the_readme_names_is_one_of_the_check() -> None:
    known = set(re.findall(r"--[a-z-]+", check_smtp("--help").output)) | {"--json", "--help", "--version"}
    named = set(re.findall(r"(?<![\w-])--[a-z][a-z-]+", README.read_text(encoding="utf-8")))
    assert named <= known


if __name__ == "__main__":
    README.write_text(CODES.sub(lambda dummy: table_of_codes(), README.read_text(encoding="utf-8")), encoding="utf-8")

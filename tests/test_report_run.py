"""`mailprobe report`: many checks, one report; what is printed, what is written, and how it ends."""

from __future__ import annotations

import json
import os
import pty
import resource
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest

from mailprobe.codes import STATES
from nagios_checks.report.config import load
from nagios_checks.report.outcome import Outcome
from nagios_checks.report.registry import PROTOCOLS
from nagios_checks.report.run import Limits, run

from . import running
from .running import check_smtp
from .scripted import Scripted

PATIENCE = 20  # seconds until a test gives up; none takes so long when all is well

WELL = "S: 220 mx.example.org ESMTP\n== any"
DEFERS = "S: 421 4.3.2 Come again later"
REFUSES = "S: 554 5.7.1 Go away\nC: QUIT\nS: 221 Bye"
SILENT = "== silence"


def report(*arguments: object, env: dict[str, str] | None = None) -> running.Outcome:
    return running.run([sys.executable, "-m", "nagios_checks.cli", "report", *map(str, arguments)], env)


@pytest.fixture
def servers() -> Iterator[dict[str, Scripted]]:
    with Scripted(WELL) as well, Scripted(DEFERS) as defers, Scripted(REFUSES) as refuses, Scripted(SILENT) as silent:
        yield {"well": well, "defers": defers, "refuses": refuses, "silent": silent}


@pytest.fixture
def checks(tmp_path: Path, servers: dict[str, Scripted]) -> Callable[..., Path]:
    """Writes a file with a check of each server that is named; `options` are those of all."""

    def write(*names: str, **options: Any) -> Path:
        listed = [
            {"name": f"{name} {place}", "protocol": "smtp", "host": "127.0.0.1", "port": servers[name].port, **options}
            for place, name in enumerate(names, start=1)
        ]
        path = tmp_path / "checks.yaml"
        path.write_text(json.dumps({"title": "The test's", "checks": listed}), encoding="utf-8")
        return path

    return write


def done(path: Path, **limits: Any) -> list[Outcome]:
    """The outcomes of a run in this process."""
    config = load(str(path), PROTOCOLS)
    return run(config, str(path), Limits(**{"workers": 8, "per_host": 8, **limits}), unwatched).health.outcomes


def unwatched(total: int) -> Any:
    """A run that nobody looks at."""
    return nullcontext(lambda outcome: None)


# What a run finds.


@pytest.mark.parametrize("processes", [1, 3])
def test_a_verdict_is_the_one_of_the_single_check(
    checks: Callable[..., Path], servers: dict[str, Scripted], processes: int
) -> None:
    outcomes = done(checks("well", "defers", "refuses"), processes=processes)
    for outcome, name in zip(outcomes, ("well", "defers", "refuses")):
        single = check_smtp("-H", "127.0.0.1", "-p", servers[name].port)
        assert outcome.state == single.state
        assert outcome.where == f"127.0.0.1:{servers[name].port}"
        words = f"SMTP {outcome.state.upper()} - {outcome.summary}"
        if name == "well":  # whose words end in a time
            assert words.rpartition(", in ")[0] == single.first_line.rpartition(", in ")[0]
        else:
            assert words == single.first_line.partition(" | ")[0]
        assert {datum.partition("=")[0] for datum in outcome.perfdata} == set(single.perfdata())
        assert outcome.report.keys() == check_smtp(
            "-H", "127.0.0.1", "-p", servers[name].port, "--json"
        ).json.keys() - {
            "state",
            "exit_code",
            "summary",
            "perfdata",
        }


@pytest.mark.parametrize("processes", [1, 3])
def test_the_outcomes_are_in_the_order_of_the_file(checks: Callable[..., Path], processes: int) -> None:
    names = ("refuses", "well", "defers", "well")
    outcomes = done(checks(*names), processes=processes)
    assert [outcome.name for outcome in outcomes] == [f"{n} {p}" for p, n in enumerate(names, start=1)]


def test_a_finding_has_its_code_stage_and_hint(checks: Callable[..., Path]) -> None:
    (outcome,) = done(checks("refuses"))
    (finding,) = outcome.findings
    assert (finding.state, finding.code, finding.stage) == ("critical", "greeting-refused", "greeting")
    assert "554 5.7.1 Go away" in finding.message
    assert "access lists" in finding.hint


def test_a_measurement_out_of_its_range_is_a_finding_by_the_metrics_name(checks: Callable[..., Path]) -> None:
    (outcome,) = done(checks("well", warning={"time": "@0:100"}))
    assert outcome.state == "warning"
    assert [(finding.state, finding.code, finding.hint) for finding in outcome.findings] == [("warning", "time", "")]
    assert {"time", "connect_time", "greeting_time"} <= {measurement.name for measurement in outcome.measurements}
    assert all(isinstance(measurement.value, float) for measurement in outcome.measurements)
    assert next(measurement.unit for measurement in outcome.measurements if measurement.name == "time") == "s"


def test_findings_are_sorted_worst_first(checks: Callable[..., Path]) -> None:
    ranges = {"warning": {"connect_time": "@0:100"}, "critical": {"greeting_time": "@0:100", "auth_time": 1}}
    (outcome,) = done(checks("well", **ranges))
    assert [finding.state for finding in outcome.findings] == ["critical", "warning", "unknown"]


@pytest.mark.parametrize("processes", [1, 3])
def test_our_own_bug_is_an_unknown_of_that_check_and_no_other(
    checks: Callable[..., Path], monkeypatch: pytest.MonkeyPatch, processes: int
) -> None:
    def bug(*dummy: object) -> None:
        raise LookupError("no\nsuch\x1b[31mthing")

    path = checks("well", "well")
    config = load(str(path), PROTOCOLS)
    monkeypatch.setattr("nagios_checks.report.run._measurement", bug)
    outcomes = run(config, str(path), Limits(2, 2, processes=processes), unwatched).health.outcomes
    assert [outcome.state for outcome in outcomes] == ["unknown", "unknown"]
    assert outcomes[0].summary == r"internal error, please report it: LookupError: no\x0asuch\x1b[31mthing"
    assert outcomes[0].document is None


# The command.


def test_the_exit_code_is_the_worst_state(checks: Callable[..., Path]) -> None:
    assert report(checks("well")).code == 0
    assert report(checks("well", "defers")).code == 1
    assert report(checks("well", "defers", "refuses")).code == 2
    assert report(checks("well", warning={"auth_time": 1})).code == 3
    assert report(checks("defers", "refuses"), "--exit-zero").code == 0


def test_the_text_tells_of_problems_and_with_all_of_everything(checks: Callable[..., Path]) -> None:
    path = checks("well", "refuses")
    ended = report(path)
    assert (ended.code, ended.errors) == (2, "")
    assert "refuses 2" in ended.output
    assert "well 1" not in ended.output
    assert "well 1" in report(path, "--all").output


def test_each_format_goes_where_it_is_told(checks: Callable[..., Path], tmp_path: Path) -> None:
    names = {"html": "page.html", "json": "r.json", "junit": "r.xml", "prometheus": "r.prom", "markdown": "r.md"}
    outputs = [part for name, file in names.items() for part in ("--format", name, "--output", tmp_path / file)]
    ended = report(checks("well", "defers"), *outputs, "--format", "text", "--output", "-")
    assert (ended.code, ended.errors) == (1, "")
    assert "defers 2" in ended.output
    for file in names.values():
        assert "defers 2" in (tmp_path / file).read_text(encoding="utf-8")
    states = {check["name"]: check["state"] for check in json.loads((tmp_path / "r.json").read_text())["checks"]}
    assert states == {"well 1": "ok", "defers 2": "warning"}


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((), "the following arguments are required: FILE"),
        (("F", "--format", "pdf"), "--format: invalid choice: 'pdf' (choose from"),
        (("F", "--output", "x"), "--output: goes behind the --format that it is for"),
        (("F", "--format", "html", "--output", "x", "--output", "y"), "--output: goes behind the --format"),
        (("F", "--format", "html", "--format", "text"), "--format: html and text would both be printed"),
        (("F", "--format", "html", "--output", "x", "--format", "text", "--output", "x"), "two formats go to one file"),
        (("F", "--workers", "0"), "--workers: 0 is not from 1 to 10000"),
        (("F", "--per-host", "x"), "--per-host: 'x' is not a whole number"),
        (("F", "--deadline", "soon"), "--deadline: 'soon' is no time like 90s, 5m, 12h or 1d"),
        (("F", "--deadline", "0"), "--deadline: '0' is no time"),
        (("F", "--keep", "-1"), "--keep: is more than 0 days"),
        (("F", "--changes-only"), "--changes-only: needs --history"),
        (("",), "FILE: is empty: give the name of a file"),
        (("F", "--history", ""), "--history: is empty: give the name of a file"),
        (("F", "--format", "html", "--output", ""), "--output: is empty: give the name of a file"),
        (("F", "--format", "html", "--output", "./F"), "--output: ./F is the file of checks, which would be lost"),
        (("F", "--history", "x", "--format", "html", "--output", "./x"), "--output: ./x is the history, which would"),
        (("F", "--format", "html", "--output", "x", "--format", "text", "--output", "./x"), "two formats go to one"),
        (("F", "--history", "x", "--remind-after", "1d"), "--remind-after: goes with --changes-only"),
    ],
)
def test_a_wrong_command_line_is_one_line_on_standard_error(arguments: tuple[str, ...], words: str) -> None:
    ended = report(*arguments)
    assert (ended.code, ended.output, ended.errors.count("\n")) == (3, "", 1)
    assert words in ended.errors


def test_a_file_with_mistakes_is_told_of_line_by_line_and_nothing_runs(
    checks: Callable[..., Path], servers: dict[str, Scripted]
) -> None:
    path = checks("well", "well", prot=5)
    for arguments in ((), ("--check-config",)):
        ended = report(path, *arguments)
        assert (ended.code, ended.output) == (3, "")
        assert ended.errors == "".join(
            f"{path}:1: checks[{place}].prot: there is no such option; did you mean port?\n" for place in range(2)
        )
    assert servers["well"].connections == 0


def test_check_config_runs_nothing(checks: Callable[..., Path], servers: dict[str, Scripted]) -> None:
    path = checks("well")
    ended = report(path, "--check-config")
    assert (ended.code, ended.output, ended.errors) == (0, f"{path}: 1 check, nothing is wrong\n", "")
    assert servers["well"].connections == 0
    command = [sys.executable, "-m", "nagios_checks.cli", "report", path, "--check-config"]
    closed = subprocess.run(["bash", "-c", '"$@" >&-', "bash", *command], capture_output=True, timeout=PATIENCE)
    assert (closed.returncode, closed.stderr) == (0, b"")


@pytest.mark.parametrize("processes", [1, 3])
def test_a_secret_that_is_not_there_costs_its_own_check_only(
    checks: Callable[..., Path], tmp_path: Path, servers: dict[str, Scripted], processes: int
) -> None:
    path = checks("well", "well")
    content = json.loads(path.read_text())
    content["checks"][1].update({"username": "u", "tls": "starttls", "password_file": "/nonexistent"})
    path.write_text(json.dumps(content))
    words = f"{path}:1: checks[1].password_file: '/nonexistent' cannot be read: No such file or directory"
    ended = report(path, "--all", "--processes", processes)
    assert (ended.code, ended.errors) == (3, f"{words}\n")
    assert "well 1" in ended.output
    assert "cannot be read" in " ".join(ended.output.split())
    assert servers["well"].connections == 1  # and nothing was sent with a stand-in for the password
    assert report(path, "--exit-zero").code == 3
    assert (report(path, "--check-config").code, report(path, "--check-config").errors) == (3, f"{words}\n")


@pytest.mark.parametrize("processes", [1, 3])
def test_a_mistake_that_many_checks_share_is_one_line(checks: Callable[..., Path], processes: int) -> None:
    path = checks("well", "well", "well", username="u", tls="starttls")
    content = json.loads(path.read_text())
    content["defaults"] = {"password_file": "/nonexistent", "ca_file": "/nonexistent"}
    path.write_text(json.dumps(content))
    words = f"{path}:1: defaults.password_file: '/nonexistent' cannot be read: No such file or directory\n"
    ended = report(path, "--processes", processes)
    assert (ended.code, ended.errors) == (3, words)
    ended = report(path, "--check-config")
    assert (ended.code, ended.errors.count("\n")) == (3, 2)


def test_a_password_in_the_file_is_advised_against_in_the_report(checks: Callable[..., Path]) -> None:
    path = checks("well", username="u", password="hunter22", allow_plaintext_login=True)
    assert "whoever reads this file has the password" in " ".join(report(path).output.split())
    ended = report(path, "--check-config")
    assert ended.code == 0
    assert "checks[0].password: whoever reads this file has the password" in ended.errors
    assert "hunter22" not in ended.errors + ended.output


def test_of_many_passwords_in_the_file_the_report_has_one_note(checks: Callable[..., Path]) -> None:
    path = checks(*["well"] * 30, username="u", password="hunter22", allow_plaintext_login=True)
    content = json.loads(path.read_text())
    path.write_text(json.dumps(content, indent=1))
    (note,) = json.loads(report(path, "--format", "json").output)["notes"]
    assert note.endswith("password_file is better; and 29 more such places, which --check-config tells")
    assert report(path, "--check-config").errors.count("\n") == 30


# Limits.


def test_what_has_not_begun_at_the_deadline_is_unknown_and_said_so(checks: Callable[..., Path]) -> None:
    path = checks("silent", "well", timeout=1)
    ended = report(path, "--workers", 1, "--deadline", "0.5s", "--all")
    assert ended.code == 2
    assert "1 of 2 checks were not run: the deadline of 0.5 s had passed" in ended.output
    assert "not run" in ended.output.partition("well 2")[2]


@pytest.mark.parametrize("processes", [1, 3])
def test_a_run_that_missed_checks_is_never_ok(checks: Callable[..., Path], processes: int) -> None:
    ended = report(
        checks(*["well"] * 20), "--workers", 2, "--processes", processes, "--deadline", "0.001s", "--format", "json"
    )
    states = {check["state"] for check in ended.json["checks"]}
    assert ended.code == 3
    assert states in ({"unknown"}, {"ok", "unknown"})


def test_who_ignores_the_end_of_children_passes_that_on_and_it_changes_nothing(checks: Callable[..., Path]) -> None:
    """As a daemon does that wants no zombies; then nobody could learn how a process has ended."""
    code = "import os, signal, sys; signal.signal(signal.SIGCHLD, signal.SIG_IGN); os.execv(sys.argv[1], sys.argv[1:])"
    command = [sys.executable, "-m", "nagios_checks.cli", "report", str(checks("well", "well")), "--processes", "2"]
    ended = running.run([sys.executable, "-c", code, *command])
    assert (ended.code, ended.errors) == (0, "")


@pytest.mark.parametrize("processes", [1, 3])
@pytest.mark.parametrize("signal_", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_reports_what_is_done_so_far(
    checks: Callable[..., Path], servers: dict[str, Scripted], signal_: signal.Signals, processes: int
) -> None:
    path = checks("well", "silent", "well", timeout=60)
    command = [sys.executable, "-m", "nagios_checks.cli", "report", path, "--format", "json"]
    process = subprocess.Popen(
        [*command, "--processes", str(processes)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    while not (servers["well"].connections == 2 and all(servers["well"].endings) and servers["silent"].connections):
        assert process.poll() is None
    os.killpg(process.pid, signal_)  # to all processes, as a terminal and systemd send it
    output, errors = process.communicate(timeout=PATIENCE)
    assert (process.returncode, errors) == (3, "")
    document = json.loads(output)
    found = {check["name"]: check for check in document["checks"]}
    assert found["silent 2"]["state"] == "unknown"
    assert found["silent 2"]["summary"] == "not run: the run was interrupted"
    assert len(document["notes"]) == 1
    assert "not run: the run was interrupted" in document["notes"][0]


@pytest.mark.parametrize("processes", [1, 3])
def test_a_host_sees_no_more_conversations_at_once_than_it_may(
    checks: Callable[..., Path], servers: dict[str, Scripted], processes: int
) -> None:
    """Nobody but the first two has begun when the deadline comes, although there are workers for all."""
    outcomes = done(checks(*["silent"] * 8, timeout=1), workers=8, per_host=2, deadline=0.5, processes=processes)
    assert [outcome.state for outcome in outcomes] == ["critical"] * 2 + ["unknown"] * 6
    assert servers["silent"].connections == 2


# Where it goes.


def test_a_closed_standard_output_changes_nothing(checks: Callable[..., Path]) -> None:
    path = checks("refuses")
    command = f"'{sys.executable}' -m nagios_checks.cli report {path}"
    for tail in (">&-", "| true; exit ${PIPESTATUS[0]}", "2>&- >&-"):
        ended = subprocess.run(["bash", "-c", f"{command} {tail}"], capture_output=True, text=True, timeout=PATIENCE)
        assert (ended.returncode, ended.stderr) == (2, ""), tail


def test_where_nobody_hears_of_a_mistake_the_exit_code_is_still_the_worst_state(checks: Callable[..., Path]) -> None:
    path = checks("refuses", tls="starttls", username="u", password_file="/nonexistent")
    content = json.loads(path.read_text())
    content["checks"].append({**content["checks"][0], "name": "b", "username": None, "password_file": None})
    path.write_text(json.dumps(content))
    command = f"'{sys.executable}' -m nagios_checks.cli report"
    for words, code in ((path, 2), ("/nonexistent", 3), (f"--check-config {path}", 3), ("--no-such-option", 3)):
        for tail in ("2>&-", "2>/dev/full", "2> >(exec true)"):
            given = ["bash", "-c", f"{command} {words} {tail}"]
            assert subprocess.run(given, stdout=subprocess.DEVNULL, timeout=PATIENCE).returncode == code, given


def test_a_full_disk_is_one_line_and_the_other_outputs_are_written(checks: Callable[..., Path], tmp_path: Path) -> None:
    outputs = ("--format", "text", "--format", "json", "--output", tmp_path / "good.json")
    command = [sys.executable, "-m", "nagios_checks.cli", "report", checks("well"), *map(str, outputs)]
    with open("/dev/full", "w") as full:
        ended = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, timeout=PATIENCE)
    assert (ended.returncode, ended.stderr) == (3, "standard output cannot be written: No space left on device\n")
    assert json.loads((tmp_path / "good.json").read_text())["state"] == "ok"


@pytest.mark.parametrize(("name", "words"), [("none/page", "No such file or directory"), (".", "Is a directory")])
def test_an_output_that_cannot_be_written_is_one_line(
    checks: Callable[..., Path], tmp_path: Path, name: str, words: str
) -> None:
    path = checks("well")
    ended = report(path, "--format", "json", "--output", tmp_path / name, "--format", "text")
    assert (ended.code, ended.errors) == (3, f"{tmp_path / name} cannot be written: {words}\n")
    assert "OK" in ended.output
    assert os.listdir(tmp_path) == ["checks.yaml"]


def test_a_file_that_cannot_grow_stays_what_it_was(checks: Callable[..., Path], tmp_path: Path) -> None:
    path, page = checks("well"), tmp_path / "page.html"
    page.write_text("the old page")
    ended = subprocess.run(
        [sys.executable, "-m", "nagios_checks.cli", "report", path, "--format", "html", "--output", page],
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000)),
    )
    assert (ended.returncode, ended.stderr) == (3, f"{page} cannot be written: File too large\n")
    assert page.read_text() == "the old page"
    assert sorted(os.listdir(tmp_path)) == ["checks.yaml", "page.html"]


def test_a_new_file_has_the_mode_of_the_umask_and_an_old_one_keeps_its_own(
    checks: Callable[..., Path], tmp_path: Path
) -> None:
    new, old, link = tmp_path / "new", tmp_path / "old", tmp_path / "link"
    old.write_text("old")
    old.chmod(0o640)
    link.symlink_to(old)
    outputs = ["--format", "json", "--output", new, "--format", "text", "--output", link]
    subprocess.run(
        [sys.executable, "-m", "nagios_checks.cli", "report", checks("well"), *outputs],
        check=True,
        timeout=PATIENCE,
        preexec_fn=lambda: os.umask(0o027),
    )
    assert (new.stat().st_mode & 0o777, old.stat().st_mode & 0o777) == (0o640, 0o640)
    assert link.is_symlink()
    assert old.read_text() != "old"


def test_a_pipe_as_output_is_written_to_as_it_is(checks: Callable[..., Path], tmp_path: Path) -> None:
    path = checks("well")
    ended = report(path, "--format", "json", "--output", "/dev/stdout")
    assert ended.json["state"] == "ok"


# The terminal.


@pytest.mark.parametrize("processes", [1, 3])
def test_a_terminal_sees_how_far_it_is_and_a_pipe_nothing(
    checks: Callable[..., Path], tmp_path: Path, processes: int
) -> None:
    path = checks("well", "refuses")
    assert report(path).errors == ""
    controller, terminal = pty.openpty()
    command = [sys.executable, "-m", "nagios_checks.cli", "report", path, "--processes", str(processes)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=terminal, env={**os.environ, "TERM": "xterm"})
    os.close(terminal)
    seen = b""
    try:
        while chunk := os.read(controller, 4096):
            seen += chunk
    except OSError:
        pass  # what Linux says at a terminal's end
    os.close(controller)
    assert process.wait(PATIENCE) == 2
    assert b"2/2" in seen
    assert b"1 critical, 1 ok" in seen


# What it needs.


@pytest.mark.parametrize(
    ("module", "package", "arguments"),
    [
        ("msgspec", "msgspec", ("report",)),
        ("yaml", "PyYAML", ("report",)),
        ("jinja2", "Jinja2", ("report", "--format", "html")),
        ("msgspec", "msgspec", ("schema",)),
    ],
)
def test_a_package_that_is_not_there_is_one_line_that_says_what_to_install(
    checks: Callable[..., Path], tmp_path: Path, module: str, package: str, arguments: tuple[str, ...]
) -> None:
    (tmp_path / "without").mkdir()
    (tmp_path / "without" / f"{module}.py").write_text(
        f"raise ModuleNotFoundError('No module named {module}', name='{module}')\n"
    )
    file = [str(checks("well"))] if arguments[0] == "report" else []
    command = [sys.executable, "-m", "nagios_checks.cli", *arguments, *file]
    ended = running.run(command, env={"PYTHONPATH": str(tmp_path / "without")})
    words = f"mailprobe {arguments[0]} needs the Python package {package}: pip install 'mailprobe[report]'\n"
    assert (ended.code, ended.output, ended.errors) == (3, "", words)


def test_the_states_are_all_there_are() -> None:
    assert set(STATES) == set(running.STATES)

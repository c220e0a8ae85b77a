"""The history: what it tells of a check's past, and that nothing that happens to a run harms it."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest

from nagios_checks.report.history import APPLICATION, FLAPPING_WINDOW, HistoryError, flaps, record, tell
from nagios_checks.report.outcome import Health, Measurement, Outcome

from . import running
from .scripted import Scripted

START = datetime(2026, 3, 1, tzinfo=timezone.utc)
WORDS = {"c": "critical", "w": "warning", "u": "unknown", "o": "ok"}
PATIENCE = 20


def a_run(at: datetime, *, time: float = 0.5, days: float | None = None, **states: str) -> Health:
    """A run in which the checks, by name, had these states, by their first letter."""
    measured = [Measurement("time", time, "s"), *([] if days is None else [Measurement("certificate_days", days)])]
    outcomes = [
        Outcome(name, "smtp", "mx:25", WORDS[state], "", measurements=measured) for name, state in states.items()
    ]
    return Health("Test", at, 1.0, outcomes)


def runs(path: Path, states: str, every: timedelta = timedelta(minutes=5)) -> Outcome:
    """Many runs of one check; its outcome in the last of them."""
    for place, state in enumerate(states):
        health = a_run(START + place * every, a=state)
        record(str(path), health, (), 400)
    return health.outcomes[0]


@pytest.fixture
def history(tmp_path: Path) -> Path:
    return tmp_path / "history"


# What it tells.


def test_a_check_that_was_never_seen_has_no_previous_state(history: Path) -> None:
    past = runs(history, "c").past
    assert past is not None
    assert (past.since, past.previous_state, past.changed, past.flapping) == (START, None, False, False)
    assert past.changes == [(START, "critical")]
    assert past.trends == {"time": [(START, 0.5)]}


def test_since_when_and_what_changed(history: Path) -> None:
    past = runs(history, "oocccw").past
    assert past is not None
    minutes = [timedelta(minutes=5 * place) for place in range(6)]
    assert (past.since, past.previous_state, past.changed) == (START + minutes[5], "critical", True)
    assert past.changes == [
        (START, "ok"),
        (START + minutes[2], "critical"),
        (START + minutes[5], "warning"),
    ]
    past = runs(history, "w").past
    assert past is not None
    assert (past.previous_state, past.changed, past.since) == ("warning", False, START + minutes[5])


def test_the_trend_spans_all_that_is_kept_in_few_points(history: Path) -> None:
    for place in range(300):
        health = a_run(START + timedelta(minutes=place), a="o", time=place, days=300 - place)
        record(str(history), health, (), 400)
    past = health.outcomes[0].past
    assert past is not None
    for metric, first, last in (("time", 0, 299), ("certificate_days", 300, 1)):
        trend = past.trends[metric]
        assert (len(trend), trend[0], trend[-1]) == (60, (START, first), (START + timedelta(minutes=299), last))
        assert trend == sorted(trend)


def test_the_trend_of_several_addresses_is_that_of_the_worst(history: Path) -> None:
    run = a_run(START, a="o")
    measured = {"time[192.0.2.1]": 0.5, "time[192.0.2.2]": 2.5, "certificate_days[::1]": 9, "certificate_days[::2]": 5}
    run.outcomes[0].measurements = [Measurement(name, value) for name, value in measured.items()]
    record(str(history), run, (), 400)
    past = run.outcomes[0].past
    assert past is not None
    assert past.trends == {"time": [(START, 2.5)], "certificate_days": [(START, 5)]}


@pytest.mark.parametrize("years", [1, -10])
def test_a_run_while_the_clock_was_wrong_neither_ends_the_trends_nor_costs_what_was_before(
    history: Path, years: int
) -> None:
    """As of a machine whose first run after a start was before it had asked for the time."""
    record(str(history), a_run(START, a="o", time=1), (), 400)
    record(str(history), a_run(START + timedelta(days=365 * years), a="o", time=2), (), 400)
    now = START + timedelta(minutes=10)
    health = a_run(now, a="o", time=3)
    record(str(history), health, (), 400)
    past = health.outcomes[0].past
    assert past is not None
    assert (past.since, past.trends) == (START, {"time": [(START, 1), (now, 3)]})


def test_what_was_not_measured_is_no_point_of_a_trend(history: Path) -> None:
    past = runs(history, "oo").past
    assert past is not None
    assert past.trends.keys() == {"time"}


@pytest.mark.parametrize(
    ("recent", "already", "flapping"),
    [
        ("o", False, False),
        ("oc", False, False),
        ("o" * 21, True, False),
        ("oc" * 10 + "o", False, True),
        ("o" * 15 + "cococo", False, True),  # 6 changes, and the newest weigh most: 34 %
        ("cococo" + "o" * 15, False, False),  # 5 that are long ago: 21 %
        ("o" * 16 + "cocoo", True, False),
        ("o" * 15 + "cococc", False, False),  # 5 of 20: 28.6 %, not enough to begin with
        ("o" * 15 + "cococc", True, True),  # but enough to go on
    ],
)
def test_flapping_is_a_share_of_changes_in_which_the_newest_weigh_most(
    recent: str, already: bool, flapping: bool
) -> None:
    assert flaps(recent, already) is flapping


def test_a_check_begins_to_flap_and_ends_it(history: Path) -> None:
    assert (outcome := runs(history, "ocococococo")).past is not None
    assert outcome.past.flapping
    assert (outcome := runs(history, "o" * FLAPPING_WINDOW)).past is not None
    assert not outcome.past.flapping


def test_a_check_that_was_missed_has_no_part_of_its_past_changed(history: Path) -> None:
    record(str(history), a_run(START, a="o", b="o"), (), 400)
    health = a_run(START + timedelta(hours=1), a="c", b="u")
    record(str(history), health, {"b"}, 400)
    a, b = health.outcomes
    assert a.past is not None
    assert b.past is not None
    assert (a.past.changed, b.past.changed) == (True, False)
    assert b.past.changes == [(START, "ok")]


def test_a_check_with_a_new_name_begins_anew_and_the_old_one_is_forgotten_in_time(history: Path) -> None:
    record(str(history), a_run(START, old="c", other="o"), (), 30)
    health = a_run(START + timedelta(days=29), new="c", other="o")
    record(str(history), health, (), 30)
    new = health.outcomes[0].past
    assert new is not None
    assert new.previous_state is None
    assert names(history) == {"old", "other", "new"}
    record(str(history), a_run(START + timedelta(days=31), new="c", other="o"), (), 30)
    assert names(history) == {"other", "new"}


def names(path: Path) -> set[str]:
    with contextlib.closing(sqlite3.connect(path)) as database:
        return {name for (name,) in database.execute("SELECT name FROM checks")}


def count(path: Path, table: str) -> int:
    with contextlib.closing(sqlite3.connect(path)) as database:
        number: int = database.execute(f"SELECT count(*) FROM {table}").fetchone()[0]
        return number


def test_its_size_is_bounded(history: Path) -> None:
    """A run every six hours for 60 days, of which 30 are kept: all of a day, one an hour of a week, one a day."""
    for place in range(4 * 60):
        record(str(history), a_run(START + timedelta(hours=6 * place), a="o", b="o"), (), 30)
    runs_left = count(history, "runs")
    assert 4 + 7 * 4 + 20 <= runs_left <= 5 + 8 * 4 + 23
    assert count(history, "results") == 2 * runs_left


def test_old_runs_are_thinned(history: Path) -> None:
    for place in range(60):
        record(str(history), a_run(START + timedelta(minutes=place), a="o"), (), 400)
    assert count(history, "runs") == 60
    record(str(history), a_run(START + timedelta(days=2), a="o"), (), 400)
    assert count(history, "runs") == 2


# Whether there is news.


def news(path: Path, minutes: int, told: bool = True, **states: str) -> bool:
    health = a_run(START + timedelta(minutes=minutes), **states)
    found = record(str(path), health, (), 400)
    if told and found.changed:
        tell(str(path), health, ())
    return found.changed


def test_news_is_a_state_that_nobody_was_told_of(history: Path) -> None:
    assert not news(history, 0, a="o", b="o")  # the first run, and all is well
    assert news(history, 5, a="c", b="o")
    assert not news(history, 10, a="c", b="o")
    assert news(history, 15, a="w", b="o")
    assert news(history, 20, a="o", b="o")
    assert not news(history, 25, a="o", b="o")


def test_news_that_did_not_get_out_stays_news(history: Path) -> None:
    assert news(history, 0, told=False, a="c")  # killed before it printed, say
    assert news(history, 5, a="c")
    assert not news(history, 10, a="c")


def test_a_check_that_goes_on_flapping_is_no_news_until_it_settles(history: Path) -> None:
    told = [news(history, place, a=state) for place, state in enumerate("ocococococococococococ" + "c" * 25)]
    assert told[1:6] == [True] * 5
    assert not any(told[10:22])
    assert told[22:].count(True) <= 1


# The command.


@pytest.fixture
def answers(tmp_path: Path) -> Callable[..., running.Outcome]:
    """Runs `mailprobe report` against a server that says this as its greeting; its history is kept."""
    file = tmp_path / "checks.yaml"

    def report(greeting: str, *arguments: str) -> running.Outcome:
        with Scripted(f"S: {greeting}\n== any") as server:
            check = {"name": "mx", "protocol": "smtp", "host": "127.0.0.1", "port": server.port}
            file.write_text(json.dumps({"checks": [check]}), encoding="utf-8")
            usual = ["--history", str(tmp_path / "history")]
            command = [sys.executable, "-m", "nagios_checks.cli", "report", str(file), *usual, *arguments]
            return running.run(command)

    return report


WELL, ILL = "220 mx.example.org ESMTP", "554 Go away"


def test_changes_only_is_silent_while_nothing_changes(answers: Callable[..., running.Outcome]) -> None:
    greetings = [WELL, WELL, ILL, ILL, WELL, WELL]
    ended = [answers(greeting, "--changes-only") for greeting in greetings]
    assert [(one.code, bool(one.output)) for one in ended] == [
        (0, False),
        (0, False),
        (2, True),
        (0, False),
        (0, True),
        (0, False),
    ]
    assert all(one.errors == "" for one in ended)


def test_files_are_written_although_nothing_changed(answers: Callable[..., running.Outcome], tmp_path: Path) -> None:
    page = tmp_path / "page.json"
    ended = answers(WELL, "--changes-only", "--format", "json", "--output", str(page), "--format", "text")
    assert (ended.code, ended.output) == (0, "")
    assert json.loads(page.read_text())["state"] == "ok"


@pytest.mark.parametrize(("format_name", "line"), [("text", "OK        mx (smtp, "), ("markdown", "| OK | mx | ")])
def test_who_hears_later_that_a_check_is_well_again_learns_which_one(
    answers: Callable[..., running.Outcome], tmp_path: Path, format_name: str, line: str
) -> None:
    """As when it has settled after flapping, or when the mail of its run did not get out."""
    assert answers(ILL, "--changes-only").code == 2
    answers(WELL, "--changes-only", "--format", "json", "--output", str(tmp_path / "only-a-file"))
    told = answers(WELL, "--changes-only", "--format", format_name).output
    (found,) = [row for row in told.replace("\N{WHITE HEAVY CHECK MARK} ", "").splitlines() if row.startswith(line)]
    assert format_name == "markdown" or "well again since 20" in found
    assert answers(WELL, "--changes-only", "--format", format_name).output == ""
    assert "| mx |" not in answers(WELL, "--format", "markdown").output


def test_a_reminder_comes_while_something_is_not_well(answers: Callable[..., running.Outcome], tmp_path: Path) -> None:
    assert answers(ILL, "--changes-only", "--remind-after", "12h").code == 2
    assert answers(ILL, "--changes-only", "--remind-after", "12h").output == ""
    with contextlib.closing(sqlite3.connect(tmp_path / "history")) as database, database:
        database.execute("UPDATE told SET time = time - 12 * 3600")
    reminder = answers(ILL, "--changes-only", "--remind-after", "12h")
    assert (reminder.code, "mx" in reminder.output) == (2, True)
    assert answers(ILL, "--changes-only", "--remind-after", "12h").output == ""
    assert answers(WELL, "--changes-only").output != ""
    with contextlib.closing(sqlite3.connect(tmp_path / "history")) as database, database:
        database.execute("UPDATE told SET time = time - 12 * 3600")
    assert answers(WELL, "--changes-only", "--remind-after", "12h").output == ""  # all is well


def test_a_reminder_comes_in_any_time_and_whatever_the_clock_was(
    answers: Callable[..., running.Outcome], tmp_path: Path
) -> None:
    for_ages = ("--changes-only", "--remind-after", "999999999w")
    assert answers(ILL, *for_ages).code == 2
    assert answers(ILL, *for_ages).code == 0
    with contextlib.closing(sqlite3.connect(tmp_path / "history")) as database, database:
        database.execute("UPDATE told SET time = time + 365 * 86400")  # a clock that was a year ahead
    assert [answers(ILL, *for_ages).code for dummy in range(2)] == [2, 0]


def test_a_persisting_fault_of_the_file_is_told_once(answers: Callable[..., running.Outcome], tmp_path: Path) -> None:
    file = tmp_path / "faulty.yaml"
    check = "{name: a, protocol: smtp, host: a, tls: starttls, username: u, password_file: /nonexistent}"
    file.write_text(f"checks: [{check}]\n")
    command = [sys.executable, "-m", "nagios_checks.cli", "report", str(file), "--changes-only"]
    command += ["--history", str(tmp_path / "other")]
    first, second = running.run(command), running.run(command)
    assert (first.code, first.errors.count("\n"), second.code, second.errors) == (3, 1, 0, "")


# What may happen to it.


def harmed(path: Path) -> Iterator[tuple[str, str]]:
    """Files that are no history, and what is said of them."""
    path.write_bytes(b"no database at all, but long enough to be looked at\n" * 100)
    yield "text", "cannot be used: file is not a database"
    path.unlink()
    with contextlib.closing(sqlite3.connect(path)) as database, database:
        database.execute("CREATE TABLE mail (subject TEXT)")
    yield "foreign", "is a database of another program"
    path.unlink()
    with contextlib.closing(sqlite3.connect(path)) as database, database:
        database.executescript(f"PRAGMA application_id = {APPLICATION}; PRAGMA user_version = 7; CREATE TABLE x (y)")
    yield "newer", "is from a newer mailprobe (version 7 of the history, this one knows 1)"
    path.unlink()
    record(str(path), a_run(START, **{f"check{n}": "o" for n in range(200)}), (), 400)
    path.write_bytes(path.read_bytes()[:4096] + b"\xff" * 8192)
    yield "torn", "cannot be used: "
    for name, statement in (
        ("changes", "UPDATE checks SET changes = '[[1'"),
        ("since", "UPDATE checks SET since = -1e300"),
        ("told", "INSERT INTO told VALUES (1, 1e300)"),
    ):
        path.unlink()
        record(str(path), a_run(START, mx="o"), (), 400)
        with contextlib.closing(sqlite3.connect(path)) as database, database:
            database.execute(statement)
        yield name, "is damaged: "
    path.unlink()
    path.mkdir()
    yield "directory", "is not a file"
    path.rmdir()
    os.mkfifo(path)
    yield "pipe", "is not a file"


def test_a_history_that_cannot_be_used_is_one_line_and_the_report_is_made(
    answers: Callable[..., running.Outcome], history: Path
) -> None:
    for name, words in harmed(history):
        ended = answers(WELL, "--all", "--changes-only")
        assert ended.code == 3, name
        assert ended.errors.startswith(f"{history}: {words}"), name
        assert ended.errors.count("\n") == 1, name
        assert "there is no history in this report" in " ".join(ended.output.split()), name


def test_a_history_in_a_directory_that_is_not_there_is_one_line(answers: Callable[..., running.Outcome]) -> None:
    ended = answers(ILL, "--history", "/nonexistent/history", "--exit-zero")
    assert (ended.code, ended.errors) == (3, "/nonexistent/history: cannot be used: unable to open database file\n")
    assert "Go away" in ended.output


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_who_waits_for_the_history_can_be_stopped_and_still_reports(
    answers: Callable[..., running.Outcome], history: Path, tmp_path: Path, number: signal.Signals
) -> None:
    answers(ILL)
    command = [sys.executable, "-m", "nagios_checks.cli", "report", str(tmp_path / "checks.yaml"), "--exit-zero"]
    with contextlib.closing(sqlite3.connect(history, isolation_level=None)) as database:
        database.execute("BEGIN IMMEDIATE")
        waiting = subprocess.Popen(
            [*command, "--history", str(history)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        time.sleep(2)
        waiting.send_signal(number)
        output, errors = waiting.communicate(timeout=5)
    assert (waiting.returncode, errors) == (3, f"{history}: interrupted\n")
    assert "CRITICAL" in output


@contextlib.contextmanager
def somebody() -> Iterator[None]:
    """An ordinary user: root may write everywhere."""
    was = os.geteuid()
    if was == 0:
        os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(was)


def test_a_read_only_history_is_an_error() -> None:
    with tempfile.TemporaryDirectory() as directory:
        path = os.path.join(directory, "history")
        record(path, a_run(START, a="o"), (), 400)
        os.chmod(path, 0o444)
        os.chmod(directory, 0o555)
        with somebody(), pytest.raises(HistoryError, match="cannot be used: "):
            record(path, a_run(START, a="o"), (), 400)
        os.chmod(directory, 0o700)


def test_a_full_disk_leaves_the_history_as_it_was(tmp_path: Path, history: Path) -> None:
    record(str(history), a_run(START, a="o"), (), 400)
    code = (
        "import sys, resource\n"
        "from tests.test_report_history import *\n"
        "size = 64 * 1024\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "try:\n"
        "    record(sys.argv[1], a_run(START, **{f'check{n}': 'o' for n in range(5000)}), (), 400)\n"
        "except HistoryError as error:\n"
        "    print(error)\n"
    )
    command = [sys.executable, "-c", code, str(history)]
    ended = subprocess.run(command, capture_output=True, text=True, cwd=running.REPOSITORY, timeout=PATIENCE)
    assert (ended.returncode, ended.stderr) == (0, "")
    assert ended.stdout.startswith("cannot be used: ")
    assert names(history) == {"a"}
    assert is_whole(history)


def is_whole(path: Path) -> bool:
    with contextlib.closing(sqlite3.connect(path)) as database:
        orphans = database.execute("SELECT count(*) FROM results WHERE run NOT IN (SELECT id FROM runs)").fetchone()
        return database.execute("PRAGMA integrity_check").fetchone() == ("ok",) and orphans == (0,)


WRITER = """
import itertools, sys
from tests.test_report_history import START, a_run, record, timedelta
offset = int(sys.argv[2])
states = {f"check{n}": "o" for n in range(300)}
for place in itertools.count():
    record(sys.argv[1], a_run(START + timedelta(seconds=offset + place), **states), (), 400)
    print(place + 1, flush=True)
"""


def writer(path: Path, offset: int) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", WRITER, str(path), str(offset)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=running.REPOSITORY)


def test_kill_9_in_a_loop_neither_corrupts_the_history_nor_loses_a_run_that_was_done(history: Path) -> None:
    done = 0
    for attempt in range(8):
        process = writer(history, 1000 * attempt)
        assert process.stdout is not None
        for dummy in range(3):
            process.stdout.readline()
        time.sleep(0.004 * attempt)  # wherever it is by then
        process.send_signal(signal.SIGKILL)
        done += 3 + len(process.stdout.read().split())
        process.stdout.close()
        process.wait(PATIENCE)
        assert is_whole(history)
        # One more may have been committed and not yet told of.
        assert done <= count(history, "runs") <= done + attempt + 1
    assert count(history, "results") == 300 * count(history, "runs")


def test_runs_at_the_same_time_lose_nothing(history: Path) -> None:
    def many(worker: int) -> None:
        for place in range(10):
            record(str(history), a_run(START + timedelta(seconds=worker + 10 * place), a="o", b="o"), (), 400)

    with ThreadPoolExecutor(6) as pool:
        list(pool.map(many, range(6)))
    assert count(history, "runs") == 60
    assert count(history, "results") == 120
    assert is_whole(history)


def test_commands_at_the_same_time_lose_nothing(history: Path) -> None:
    processes = [writer(history, 1000 * number) for number in range(3)]
    done = 0
    for process in processes:
        assert process.stdout is not None
        for dummy in range(5):
            process.stdout.readline()
    for process in processes:
        process.kill()
        assert process.stdout is not None
        done += 5 + len(process.stdout.read().split())
        process.stdout.close()
        process.wait(PATIENCE)
    assert done <= count(history, "runs") <= done + 3
    assert is_whole(history)


def test_ten_thousand_checks_have_their_past_in_little_memory(history: Path) -> None:
    code = (
        "import sys\n"
        "from tests.running import peak_kib\n"
        "from tests.test_report_history import *\n"
        "for place in range(8):\n"
        "    health = a_run(START + timedelta(hours=place), days=9, **{f'check{n}': 'o' for n in range(10_000)})\n"
        "    record(sys.argv[1], health, (), 400)\n"
        "assert all(len(outcome.past.trends['time']) == 8 for outcome in health.outcomes)\n"
        "print(peak_kib())\n"
    )
    command = [sys.executable, "-c", code, str(history)]
    ended = subprocess.run(command, capture_output=True, text=True, cwd=running.REPOSITORY, check=True)
    assert int(ended.stdout) < 150 * 1024

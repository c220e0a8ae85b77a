"""The checks of a report shared out to several processes: as on the threads of one, and none is left behind."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from mailprobe.batch import Done, Job
from nagios_checks.report import processes
from nagios_checks.report.processes import Failure, run

PATIENCE = 20  # seconds until a test gives up on a process; no test takes so long when all is well

INTERRUPTED = """
import threading
from nagios_checks.report.processes import Job, run
def hang(): threading.Event().wait()
def quick(): return "quick"
done = []
jobs = [Job("a", quick)] + [Job(str(n), hang) for n in range(20)]
try:
    for result in run(jobs, workers=4, per_key=1, processes=2):
        done.append(result.value)
        print("begun", flush=True)
except KeyboardInterrupt:
    print(done)
"""


def children() -> set[int]:
    """The processes that this one has and that have not ended."""
    return {int(number) for file in Path("/proc/self/task").glob("*/children") for number in file.read_text().split()}


@pytest.fixture(autouse=True)
def no_process_is_left() -> Iterator[None]:
    before = children()
    yield
    assert children() <= before


pytestmark = pytest.mark.filterwarnings("ignore:.*multi-threaded, use of fork:DeprecationWarning")


class Odd(Exception):
    """What a pickle cannot make again."""

    def __init__(self, first: int, second: int) -> None:
        super().__init__("its own words")


ERRORS = (LookupError("a"), SystemExit("b"), Odd(1, 2))


def die_or(number: int) -> int:
    if number > 1:
        os.kill(os.getpid(), signal.SIGKILL)
    return number


def test_every_job_ends_in_exactly_one_result_and_all_processes_have_done_some() -> None:
    jobs = [Job(str(number % 7), lambda number=number: (number**2, os.getpid())) for number in range(500)]
    done = list(run(jobs, workers=6, per_key=2, processes=3))
    assert sorted(result.place for result in done) == list(range(500))
    assert all(result.value and result.value[0] == result.place**2 for result in done)
    assert len({result.value[1] for result in done if result.value}) == 3
    assert os.getpid() not in {result.value[1] for result in done if result.value}


def test_no_more_run_at_once_than_the_workers_and_of_one_key_than_is_allowed(tmp_path: Path) -> None:
    def work(key: str, number: int) -> list[str]:
        mine = tmp_path / f"{key}{number}"
        mine.touch()
        time.sleep(0.2)  # so that all that may run at once do
        seen = [file.name[0] for file in tmp_path.iterdir()]
        mine.unlink()
        return seen

    jobs = [Job(key, partial(work, key, number)) for number, key in enumerate("aaaaaaaabbbbbbbbcccccccc")]
    seen = [Counter(result.value) for result in run(jobs, workers=5, per_key=2, processes=2)]
    assert len(seen) == len(jobs)
    assert max(sum(running.values()) for running in seen) == 5
    assert max(max(running.values()) for running in seen) == 2


def test_there_are_no_more_processes_than_jobs_that_could_run_at_once() -> None:
    jobs = [Job("one host", os.getpid) for dummy in range(20)]
    assert {result.value for result in run(jobs, workers=8, per_key=1, processes=8)} == {os.getpid()}


def test_errors_arrive_in_words_and_so_does_a_value_that_cannot_be_sent() -> None:
    class Local(Exception):
        """Nobody else knows it."""

    def bad(error: BaseException) -> None:
        raise error

    jobs: list[Job[Any]] = [Job(str(number), partial(bad, error)) for number, error in enumerate(ERRORS)]
    jobs += [Job("local", partial(bad, Local("so"))), Job("value", lambda: lambda: 1), Job("well", lambda: "well")]
    done = {result.place: result for result in run(jobs, workers=4, per_key=1, processes=2)}
    words = [str(done[place].error) for place in range(4)]
    assert words == ["LookupError: a", "SystemExit: b", "Odd: its own words", "Local: so"]
    assert "<lambda>" in str(done[4].error)
    assert all(isinstance(done[place].error, Failure) for place in range(5))
    assert done[5] == Done(5, "well")


def test_what_has_not_begun_at_the_deadline_is_not_begun_and_says_so() -> None:
    jobs = [Job("a", partial(time.sleep, 1.5)), Job("b", partial(time.sleep, 1.5)), Job("a", int), Job("b", int)]
    done = {result.place: result for result in run(jobs, workers=2, per_key=1, seconds=1, processes=2)}
    assert [done[place].begun for place in range(4)] == [True, True, False, False]


def test_leaving_early_ends_all_processes_at_once() -> None:
    jobs = [Job(str(number), partial(time.sleep, 0 if number == 0 else 600)) for number in range(50)]
    results = run(jobs, workers=8, per_key=1, processes=2)
    assert next(results).place == 0
    assert len(children()) >= 2
    results.close()


def test_the_jobs_of_a_process_that_is_killed_are_lost_and_the_others_are_done() -> None:
    """As the kernel does it when the memory is full; a third of the jobs kill their process."""
    jobs = [Job(str(number), partial(die_or, number)) for number in range(30)]
    done = {result.place: result for result in run(jobs, workers=2, per_key=1, processes=2)}
    assert len(done) == 30
    assert {place for place, result in done.items() if result.value is not None} == {0, 1}
    assert str(done[2].error) == "the process of this check ended with -9"
    assert str(done[29].error) == "the processes of this run have been killed"


def test_a_process_without_memory_for_a_result_ends_and_nobody_waits_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*dummy: object) -> None:
        raise MemoryError

    monkeypatch.setattr(processes.pickle, "dumps", full)
    jobs = [Job(str(number), int) for number in range(10)]
    words = {str(result.error) for result in run(jobs, workers=4, per_key=1, processes=2)}
    assert words == {"the process of this check ended with 1", "the processes of this run have been killed"}


@pytest.mark.parametrize(("allowed", "values"), [(1, {0}), (0, {None})])
def test_a_process_that_gets_few_threads_is_slower_and_one_that_gets_none_ends(
    allowed: int, values: set[int | None], monkeypatch: pytest.MonkeyPatch
) -> None:
    begun: list[object] = []

    def stingy(*arguments: Any) -> None:
        if len(begun) == allowed:
            raise RuntimeError("can't start new thread")
        begun.append(start(*arguments))

    start = processes._thread.start_new_thread
    monkeypatch.setattr(processes._thread, "start_new_thread", stingy)
    results = list(run([Job(str(number), int) for number in range(100)], workers=9, per_key=1, processes=2))
    assert len(results) == 100
    assert {result.value for result in results} == values


@pytest.mark.parametrize("name", ["fork", "pipe"])
def test_a_system_that_gives_no_process_has_the_work_done_in_this_one(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*dummy: object) -> None:
        raise OSError(errno.EAGAIN, "no more")

    monkeypatch.setattr(os, "fork", refused) if name == "fork" else monkeypatch.setattr(processes, "Pipe", refused)
    jobs = [Job(str(number), os.getpid) for number in range(10)]
    assert {result.value for result in run(jobs, workers=4, per_key=1, processes=2)} == {os.getpid()}


def test_ctrl_c_is_the_first_processs_affair_and_leaves_none() -> None:
    """The terminal sends it to all of them."""
    process = subprocess.Popen(
        [sys.executable, "-c", INTERRUPTED],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "begun\n"
    os.killpg(process.pid, signal.SIGINT)
    output, complaints = process.communicate(timeout=PATIENCE)  # until all have closed what they inherited
    assert (process.returncode, output, complaints) == (0, "['quick']\n", "")


def test_none_survives_the_first_process() -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", INTERRUPTED],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "begun\n"
    process.kill()
    assert process.communicate(timeout=PATIENCE)[0] == ""  # the others hold standard output until they end

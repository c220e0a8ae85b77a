"""The bounded pool of threads: every job ends in one result, a few at a time for each key, and nobody waits in vain."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
import time
import weakref
from collections import Counter
from collections.abc import Iterator

import pytest

from mailprobe.batch import Done, Job, run

PATIENCE = 20  # seconds until a test gives up on a thread; no test takes so long when all is well


class Watched:
    """Jobs that tell how many of them run at once, in all and of each key; each waits until it may go on."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.running: Counter[str] = Counter()
        self.most_of_one: Counter[str] = Counter()
        self.most = 0
        self.begun: list[str] = []
        self.go = threading.Event()

    def job(self, key: str, held: bool = False) -> Job[str]:
        def work() -> str:
            with self.lock:
                self.begun.append(key)
                self.running[key] += 1
                self.most_of_one[key] = max(self.most_of_one[key], self.running[key])
                self.most = max(self.most, sum(self.running.values()))
            if held:
                assert self.go.wait(PATIENCE)
            with self.lock:
                self.running[key] -= 1
            return key

        return Job(key, work)


def threads_of_batch() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name.startswith("batch-")]


@pytest.fixture(autouse=True)
def no_thread_is_left() -> Iterator[None]:
    yield
    for thread in threads_of_batch():
        thread.join(PATIENCE)
    assert threads_of_batch() == []


def test_every_job_ends_in_exactly_one_result_that_knows_its_place() -> None:
    jobs = [Job(str(number % 7), lambda number=number: number * number) for number in range(500)]
    done = list(run(jobs, workers=8, per_key=2))
    assert sorted(result.place for result in done) == list(range(500))
    assert all(result.value == result.place**2 and result.begun and result.error is None for result in done)


def test_no_jobs_are_no_results() -> None:
    assert list(run([], workers=8, per_key=2)) == []


def test_what_one_job_raises_is_its_result_and_no_other_ones() -> None:
    def bad() -> str:
        raise SystemExit("no job ends the program")

    done = {result.place: result for result in run([Job("a", bad), Job("a", lambda: "well")], workers=1, per_key=1)}
    assert isinstance(done[0].error, SystemExit)
    assert done[1] == Done(1, "well")


def test_no_more_run_at_once_than_the_workers_and_of_one_key_than_is_allowed() -> None:
    watched = Watched()
    jobs = [watched.job(key, held=True) for key in "aaaaaaaabbbbbbbbcccccccc"]
    results = run(jobs, workers=5, per_key=2)
    first: list[Done[str]] = []
    reader = threading.Thread(target=lambda: first.extend(results))
    reader.start()
    while sum(watched.running.values()) < 5 and reader.is_alive():  # all that may run at once do
        pass
    watched.go.set()
    reader.join(PATIENCE)
    assert len(first) == len(jobs)
    assert watched.most == 5
    assert max(watched.most_of_one.values()) == 2


def test_a_host_that_does_not_answer_holds_up_nobody_else() -> None:
    """A hundred jobs wait for the silent host, which takes two of four workers; all others are done meanwhile."""
    watched = Watched()
    jobs = [watched.job("silent", held=True) for dummy in range(100)]
    jobs += [watched.job(f"host-{number}") for number in range(100)]
    results = run(jobs, workers=4, per_key=2)
    assert {next(results).value for dummy in range(100)} == {f"host-{number}" for number in range(100)}
    assert watched.begun.count("silent") == 2
    watched.go.set()
    assert [result.value for result in results] == ["silent"] * 100


def test_hosts_take_turns_whatever_their_order() -> None:
    watched = Watched()
    list(run([watched.job(key) for key in "aaaabbbbcccc"], workers=1, per_key=4))
    assert "".join(watched.begun) == "abcabcabcabc"


def test_ten_thousand_jobs_take_no_more_threads_than_workers() -> None:
    watched = Watched()
    jobs = [watched.job(str(number)) for number in range(10_000)]
    seen = [len(threads_of_batch()) for dummy in run(jobs, workers=16, per_key=4)]
    assert len(seen) == 10_000
    assert max(seen) <= 16


def test_no_thread_is_started_that_could_never_work() -> None:
    watched = Watched()
    results = run([watched.job("one host", held=True) for dummy in range(50)], workers=64, per_key=3)
    watched.go.set()
    next(results)
    assert len(threads_of_batch()) <= 3
    assert len(list(results)) == 49


def test_what_has_not_begun_at_the_deadline_is_not_begun_and_says_so() -> None:
    watched = Watched()
    late = threading.Timer(0.2, watched.go.set)
    late.start()
    done = {
        result.place: result
        for result in run([watched.job("a", held=True), watched.job("a")], workers=1, per_key=1, seconds=0.1)
    }
    assert done == {0: Done(0, "a"), 1: Done(1, begun=False)}
    late.join()


def test_leaving_early_begins_nothing_more_and_waits_for_nothing() -> None:
    watched = Watched()
    results = run(
        [watched.job("quick"), *(watched.job("slow", held=True) for dummy in range(50))], workers=2, per_key=1
    )
    assert next(results).value == "quick"
    results.close()  # returns although a slow one runs
    begun = len(watched.begun)
    watched.go.set()
    for thread in threads_of_batch():
        thread.join(PATIENCE)
    assert len(watched.begun) <= begun + 1


def test_a_job_that_has_ended_is_forgotten() -> None:
    class Held:
        """Something that takes memory."""

        def work(self) -> int:
            return 1

    held = [Held() for dummy in range(10)]
    alive = [weakref.ref(each) for each in held]
    jobs = [Job("a", each.work) for each in held]
    results = run(jobs, workers=1, per_key=1)
    jobs.clear()
    held.clear()
    end = time.monotonic() + PATIENCE
    for ended in range(1, 11):
        next(results)
        while sum(ref() is not None for ref in alive) > 10 - ended:  # the thread is about to let it go
            assert time.monotonic() < end
    results.close()


@pytest.mark.parametrize(("workers", "per_key"), [(0, 1), (1, 0), (-1, -1)])
def test_numbers_below_one_are_refused(workers: int, per_key: int) -> None:
    with pytest.raises(ValueError, match="at least 1"):
        next(run([Job("a", int)], workers=workers, per_key=per_key))


INTERRUPTED = """
import signal, sys, threading
from mailprobe.batch import Job, run
def hang(): threading.Event().wait()
def quick(): return "quick"
done = []
try:
    for result in run([Job("a", quick)] + [Job(str(n), hang) for n in range(20)], workers=4, per_key=1):
        done.append(result.value)
        print("begun", flush=True)
except KeyboardInterrupt:
    print(done)
"""

STARVED = """
import threading
from mailprobe.batch import Job, run
start, begun = threading.Thread.start, []
def stingy(thread):
    if len(begun) == ALLOWED:
        raise RuntimeError("can't start new thread")
    begun.append(thread)
    start(thread)
threading.Thread.start = stingy
try:
    print(len(list(run([Job(str(n), int) for n in range(100)], workers=9, per_key=1))))
except RuntimeError as error:
    print(error)
"""


def test_ctrl_c_ends_the_wait_at_once_with_what_is_there() -> None:
    process = subprocess.Popen([sys.executable, "-c", INTERRUPTED], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "begun\n"
    process.send_signal(signal.SIGINT)
    output, dummy = process.communicate(timeout=PATIENCE)
    assert (process.returncode, output) == (0, "['quick']\n")


@pytest.mark.parametrize(("allowed", "printed"), [(2, "100\n"), (0, "can't start new thread\n")])
def test_a_system_that_gives_few_threads_is_slower_and_one_that_gives_none_is_an_error(
    allowed: int, printed: str
) -> None:
    code = STARVED.replace("ALLOWED", str(allowed))
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=PATIENCE)
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, printed, "")

"""Thousands of jobs on a bounded pool of threads, a few at a time for each host.

A job waits for the network most of its time, hence threads. One whose host is busy takes no thread while it waits, so
that a slow host holds up nobody but itself.
"""

from __future__ import annotations

import threading
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from queue import SimpleQueue
from typing import Any, Generic

from .schedule import Job, Schedule, T

__all__ = ["Done", "Job", "attempt", "run"]


@dataclass(frozen=True)
class Done(Generic[T]):
    """What came of the job at `place` (from 0): its `value`, or the `error` that ended it; of one that the time did not
    suffice for, `begun` is false.
    """

    place: int
    value: T | None = None
    error: BaseException | None = None
    begun: bool = True


def run(
    jobs: Sequence[Job[T]], *, workers: int, per_key: int, seconds: float | None = None
) -> Generator[Done[T], None, None]:
    """Do all jobs, and tell of each exactly once, as it ends.

    At most `workers` run at once, and at most `per_key` of one key. After `seconds` what has not begun is not begun.
    Leaving the iteration early (Ctrl-C, `close()`) begins nothing more and waits for nothing. A job that has ended is
    forgotten, so that its memory is free when nobody else holds it. Raises ValueError for numbers below 1, RuntimeError
    when the system gives no thread at all.
    """
    if workers < 1:
        raise ValueError("workers is at least 1")
    return _results(Schedule(jobs, per_key, seconds), workers)


def _results(schedule: Schedule[T], workers: int) -> Generator[Done[T], None, None]:
    ended: SimpleQueue[Done[T]] = SimpleQueue()
    count = schedule.left
    try:
        _start_threads(min(workers, schedule.width), schedule, ended)
        for dummy in range(count):
            yield ended.get()
    finally:
        schedule.stop()


def _start_threads(count: int, schedule: Schedule[Any], ended: SimpleQueue[Done[Any]]) -> None:
    for started in range(count):
        # Daemons: whoever leaves early does not wait for what a server makes the others wait for.
        thread = threading.Thread(target=_work, args=(schedule, ended), name=f"batch-{started}", daemon=True)
        try:
            thread.start()
        except RuntimeError:  # the system gives no more; those that run do the work, only slower
            if not started:
                raise
            return


def _work(schedule: Schedule[T], ended: SimpleQueue[Done[T]]) -> None:
    """What each thread does until there is nothing left."""
    while (taken := schedule.take()) is not None:
        place, job = taken
        del taken
        ended.put(Done(place, begun=False) if schedule.too_late else attempt(place, job))
        key = job.key
        del job  # and with it what the work holds
        schedule.give_back(key)


def attempt(place: int, job: Job[T]) -> Done[T]:
    """Do the job, whatever comes of it."""
    try:
        return Done(place, job.work())
    except BaseException as error:  # whatever it was, somebody waits for an answer
        return Done(place, error=error)

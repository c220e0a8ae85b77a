"""Thousands of jobs on a bounded pool of threads, a few at a time for each host.

A job waits for the network most of its time, hence threads. One whose host is busy takes no thread while it waits, so
that a slow host holds up nobody but itself; the hosts take turns.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from queue import SimpleQueue
from typing import Callable, Generic, TypeVar

T = TypeVar("T")


@dataclass(frozen=True)
class Job(Generic[T]):
    """Something to do, and the `key` (a host) that it keeps busy meanwhile. It has to end by itself."""

    key: str
    work: Callable[[], T]


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
    forgotten, so that its memory is free when nobody else holds it. Raises ValueError for
    numbers below 1, RuntimeError when the system gives no thread at all.
    """
    if workers < 1 or per_key < 1:
        raise ValueError("workers and per_key are at least 1")
    end = None if seconds is None else time.monotonic() + seconds
    return _results(_Plan(jobs, per_key, end), workers)


def _results(plan: _Plan[T], workers: int) -> Generator[Done[T], None, None]:
    ended: SimpleQueue[Done[T]] = SimpleQueue()
    try:
        _start_threads(min(workers, plan.width), plan, ended)
        for dummy in range(plan.count):
            yield ended.get()
    finally:
        plan.stop()


def _start_threads(count: int, plan: _Plan[T], ended: SimpleQueue[Done[T]]) -> None:
    for started in range(count):
        # Daemons: whoever leaves early does not wait for what a server makes the others wait for.
        thread = threading.Thread(target=_work, args=(plan, ended), name=f"batch-{started}", daemon=True)
        try:
            thread.start()
        except RuntimeError:  # the system gives no more; those that run do the work, only slower
            if not started:
                raise
            return


def _work(plan: _Plan[T], ended: SimpleQueue[Done[T]]) -> None:
    """What each thread does until there is nothing left."""
    while (taken := plan.take()) is not None:
        place, job = taken
        del taken
        if plan.too_late:
            ended.put(Done(place, begun=False))
        else:
            try:
                ended.put(Done(place, job.work()))
            except BaseException as error:  # whatever it was, somebody waits for an answer
                ended.put(Done(place, error=error))
        key = job.key
        del job  # and with it what the work holds
        plan.give_back(key)


class _Plan(Generic[T]):
    """Which job is next; shared by all threads."""

    def __init__(self, jobs: Sequence[Job[T]], per_key: int, end: float | None) -> None:
        self.count = self._left = len(jobs)
        self._per_key = per_key
        self._end = end
        self._waiting: dict[str, deque[tuple[int, Job[T]]]] = {}
        for place, job in enumerate(jobs):
            self._waiting.setdefault(job.key, deque()).append((place, job))
        self.width = sum(min(per_key, len(row)) for row in self._waiting.values())
        """How many threads could ever be busy at once."""
        self._free = deque(self._waiting)  # the keys of which one more job may begin now, each once, in turns
        self._busy = dict.fromkeys(self._waiting, 0)
        self._changed = threading.Condition()

    @property
    def too_late(self) -> bool:
        """Whether the time for beginning anything is over."""
        return self._end is not None and time.monotonic() >= self._end

    def take(self) -> tuple[int, Job[T]] | None:
        """The next job that may begin, and its place, waiting for one if need be; None when there is nothing left."""
        with self._changed:
            while self._left and not self._free:
                self._changed.wait()
            if not self._left:
                return None
            key = self._free.popleft()
            taken = self._waiting[key].popleft()
            self._left -= 1
            self._busy[key] += 1
            self._release(key)
            if not self._left:
                self._changed.notify_all()
            return taken

    def give_back(self, key: str) -> None:
        """One of the key's jobs has ended."""
        with self._changed:
            was_full = self._busy[key] == self._per_key
            self._busy[key] -= 1
            if was_full:
                self._release(key)

    def _release(self, key: str) -> None:
        """Put the key at the end of the row when one more of its jobs may begin."""
        if self._waiting[key] and self._busy[key] < self._per_key:
            self._free.append(key)
            self._changed.notify()

    def stop(self) -> None:
        """Begin nothing more."""
        with self._changed:
            self._left = 0
            self._changed.notify_all()

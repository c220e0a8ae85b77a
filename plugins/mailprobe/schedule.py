"""Which job may begin now: a few at a time for each host, the hosts in turns."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Callable, Generic, TypeVar

T = TypeVar("T")


@dataclass(frozen=True)
class Job(Generic[T]):
    """Something to do, and the `key` (a host) that it keeps busy meanwhile. It has to end by itself."""

    key: str
    work: Callable[[], T]


class Schedule(Generic[T]):
    """The jobs that have not begun, shared by all who do them: at most `per_key` of one key at once, and none after
    `seconds` from now. Raises ValueError for a number below 1.
    """

    def __init__(self, jobs: Sequence[Job[T]], per_key: int, seconds: float | None) -> None:
        if per_key < 1:
            raise ValueError("per_key is at least 1")
        self.left = len(jobs)
        """How many have not begun."""
        self._per_key = per_key
        self._end = None if seconds is None else time.monotonic() + seconds
        self._waiting: dict[str, deque[tuple[int, Job[T]]]] = {}
        for place, job in enumerate(jobs):
            self._waiting.setdefault(job.key, deque()).append((place, job))
        self.width = sum(min(per_key, len(row)) for row in self._waiting.values())
        """How many jobs could ever run at once."""
        self._free = deque(self._waiting)  # the keys of which one more job may begin now, each once, in turns
        self._busy = dict.fromkeys(self._waiting, 0)
        self._changed = threading.Condition()

    @property
    def too_late(self) -> bool:
        """Whether the time for beginning anything is over."""
        return self._end is not None and time.monotonic() >= self._end

    def take(self, wait: bool = True) -> tuple[int, Job[T]] | None:
        """The next job that may begin, and its place; None when there is nothing left, or, without waiting, not now."""
        with self._changed:
            while wait and self.left and not self._free:
                self._changed.wait()
            if not self.left or not self._free:
                return None
            key = self._free.popleft()
            taken = self._waiting[key].popleft()
            self.left -= 1
            self._busy[key] += 1
            self._release(key)
            if not self.left:
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
            self.left = 0
            self._changed.notify_all()

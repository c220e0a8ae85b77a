"""The jobs of `mailprobe.batch` in several processes, each with threads.

What a check computes, a TLS handshake above all, keeps one CPU busy, since Python lets one thread of a process run at a
time; hence processes, where there are many checks and several CPUs. The first process holds the schedule and hands out
places; each of the others has all jobs, by fork, and threads that do those whose places it is told.
"""

from __future__ import annotations

import _thread
import gc
import os
import pickle
import selectors
import signal
import threading
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, Pipe
from queue import SimpleQueue
from typing import Any, NoReturn, TypeVar

from mailprobe import batch
from mailprobe.batch import Done, Job
from mailprobe.schedule import Schedule

T = TypeVar("T")


class Failure(Exception):
    """What ended a job in another process, in words: the error's type and message."""


def run(
    jobs: Sequence[Job[T]], *, workers: int, per_key: int, seconds: float | None = None, processes: int
) -> Generator[Done[T], None, None]:
    """As `batch.run()`, on the threads of so many processes; on those of this one, if that is one.

    They are copies of this process (fork, so call this before there are threads): values have to be picklable, and an
    error is a `Failure`. They have begun when this returns; where the system gives none, the work is done in this one.
    """
    if processes > 1:
        schedule = Schedule(jobs, per_key, seconds)
        width = min(workers, schedule.width)
        if width > 1 and (crew := _crew(jobs, width, processes)):
            return _shared_out(schedule, crew)
    return batch.run(jobs, workers=workers, per_key=per_key, seconds=seconds)


@dataclass
class _Member:
    """One of the processes, what is said to it and heard of it, and the jobs that it has now: their keys by place."""

    pid: int
    connection: Connection
    workers: int
    busy: dict[int, str] = field(default_factory=dict)

    def end(self) -> int:
        """Kill it: it holds nothing that would have to be put in order. Returns how it ended, as a shell tells it."""
        self.connection.close()
        os.kill(self.pid, signal.SIGKILL)
        return os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])


def _crew(jobs: Sequence[Job[Any]], workers: int, processes: int) -> list[_Member]:
    """The processes, as many of them as the system gives."""
    crew: list[_Member] = []
    count = min(processes, workers)
    with _signals_held_back():
        for number in range(count):
            share = workers // count + (number < workers % count)
            try:
                ours, theirs = Pipe()
            except OSError:  # the system gives no more
                break
            try:
                pid = os.fork()
            except OSError:
                ours.close()
                break
            else:
                if not pid:
                    # Not to be held open: an end that is closed is how each of them learns that it is over.
                    _serve(jobs, share, theirs, [ours, *(member.connection for member in crew)])
            finally:
                theirs.close()
            crew.append(_Member(pid, ours, share))
    return crew


@contextmanager
def _signals_held_back() -> Iterator[None]:
    """While processes are born: Ctrl-C at that moment is for this one, and not for the copy of its handler."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _shared_out(schedule: Schedule[T], crew: list[_Member]) -> Generator[Done[T], None, None]:
    with selectors.DefaultSelector() as selector:
        for member in crew:
            selector.register(member.connection, selectors.EVENT_READ, member)
        try:
            while crew:
                yield from _handed_out(schedule, crew)
                if not any(member.busy for member in crew):
                    break
                for key, dummy in selector.select():
                    yield from _heard(schedule, crew, selector, key.data)
            while (taken := schedule.take(wait=False)) is not None:  # nobody is left to do it
                yield Done(taken[0], error=Failure("the processes of this run have been killed"))
                schedule.give_back(taken[1].key)
        finally:
            for member in crew:
                member.end()


def _handed_out(schedule: Schedule[T], crew: list[_Member]) -> Iterator[Done[T]]:
    """Give whoever has a thread free what may begin; tells of what is too late for that."""
    while free := [member for member in crew if len(member.busy) < member.workers]:
        member = min(free, key=lambda member: len(member.busy))
        taken = schedule.take(wait=False)
        if taken is None:
            return
        place, job = taken
        if schedule.too_late:
            yield Done(place, begun=False)
            schedule.give_back(job.key)
            continue
        member.busy[place] = job.key
        with suppress(OSError):  # one that has been killed will be heard of
            member.connection.send(place)


def _heard(
    schedule: Schedule[T], crew: list[_Member], selector: selectors.BaseSelector, member: _Member
) -> Iterator[Done[T]]:
    """What a process tells: of a job that has ended, or, by its own end, of all that it had."""
    try:
        done: Done[T] = member.connection.recv()
    except (EOFError, OSError):
        crew.remove(member)
        selector.unregister(member.connection)
        how = member.end()
        for place, key in member.busy.items():
            schedule.give_back(key)
            yield Done(place, error=Failure(f"the process of this check ended with {how}"))
    else:
        schedule.give_back(member.busy.pop(done.place))
        yield done


def _serve(jobs: Sequence[Job[Any]], workers: int, connection: Connection, others: Sequence[Connection]) -> NoReturn:
    """What each process does until the other end is closed."""
    try:
        # Ctrl-C and the end of a service reach all processes; what is to be done then is the first one's affair.
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_IGN)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT, signal.SIGTERM})
        for other in others:
            other.close()
        gc.freeze()  # what was there before stays shared with the first process
        places: SimpleQueue[int] = SimpleQueue()
        telling, started = threading.Lock(), 0
        while True:
            places.put(connection.recv())
            if started < workers:
                # Thread.start() waits for a sign of life, which never comes when there is no memory for it.
                with suppress(RuntimeError) if started else nullcontext():  # the system gives no more
                    _thread.start_new_thread(_work_on_demand, (jobs, places, connection, telling))
                    started += 1
    except EOFError:
        os._exit(0)  # it is over, also for those that still wait for a server
    finally:
        os._exit(1)  # whatever happens, a copy never goes on with what the first process was at


def _work_on_demand(
    jobs: Sequence[Job[Any]], places: SimpleQueue[int], connection: Connection, telling: threading.Lock
) -> None:
    """What each thread of such a process does."""
    try:
        while True:
            place = places.get()
            done = batch.attempt(place, jobs[place])
            if done.error is not None:
                # Not every exception can be made again from its pickle; the words of each can.
                done = Done(place, error=Failure(f"{type(done.error).__name__}: {done.error}"))
            try:
                told = pickle.dumps(done)
            except Exception as error:
                told = pickle.dumps(Done(place, error=Failure(f"{type(error).__name__}: {error}")))
            with telling, suppress(OSError):  # nobody listens any more
                connection.send_bytes(told)
    finally:
        os._exit(1)  # without memory even for such words: of the end of a process at least somebody hears

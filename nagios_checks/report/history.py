"""What earlier runs found, in SQLite: since when a check is in its state, what changed, flapping, trends.

A check's own row has all that is told of its past, so that a run reads one row for each check. What each run measured
is beside it, for the trends: every run of the last day, one an hour of the week before, one a day of what is older. A
history belongs to one file: checks are known by their names.
"""

from __future__ import annotations

import json
import os
import sqlite3
import stat
import time
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from typing import Any, TypeVar

from .outcome import Health, Outcome, Past

# PRAGMA application_id: "mprb", so that nobody else's database is taken for ours.
APPLICATION = 0x6D707262
VERSION = 1
# How long to wait for another run that writes at the same time; it takes a second at most.
BUSY_SECONDS = 30
# In SQLite's own waiting nobody hears Ctrl-C.
BUSY_STEP_SECONDS = 0.2
DAY = 86400.0
# After which age only one run of how many seconds is kept.
THINNED = ((DAY, 3600.0), (8 * DAY, DAY))

TRENDS = ("time", "certificate_days")
# Values of a trend: a small chart has no room for more; all trends of a run together have a limit, too.
MAX_POINTS = 60
MIN_POINTS = 8
MAX_ALL_POINTS = 100_000
MAX_CHANGES = 10

# As Icinga 2 does it: of the last 20 possible changes of state, weighed from 0.8 (the oldest) to 1.2 (the newest), more
# than 30 % begin to flap and less than 25 % end it.
FLAPPING_WINDOW = 20
FLAPPING_BEGINS = 30.0
FLAPPING_ENDS = 25.0

SCHEMA = """
CREATE TABLE runs (id INTEGER PRIMARY KEY AUTOINCREMENT, started REAL NOT NULL, elapsed REAL NOT NULL);
CREATE TABLE checks (
    id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE, state TEXT NOT NULL, since REAL NOT NULL, seen REAL NOT NULL,
    recent TEXT NOT NULL, flapping INTEGER NOT NULL, changes TEXT NOT NULL, told TEXT
);
CREATE TABLE results (
    run INTEGER NOT NULL, check_id INTEGER NOT NULL, state TEXT NOT NULL, time REAL, certificate_days REAL,
    metrics TEXT NOT NULL, PRIMARY KEY (run, check_id)
) WITHOUT ROWID;
CREATE TABLE told (only INTEGER PRIMARY KEY CHECK (only = 1), time REAL NOT NULL);
"""


class HistoryError(Exception):
    """A history that cannot be used; the message says why."""


@dataclass(frozen=True)
class News:
    """What there is to tell: whether a state is not the one that was told last, and when that was (None: never)."""

    changed: bool
    told: datetime | None


@dataclass
class _Row:
    """What is known of one check: `recent` are the first letters of its last states, `changes` as in `Past`."""

    name: str
    state: str
    since: float
    seen: float
    recent: str
    flapping: bool
    changes: list[tuple[float, str]]
    told: str | None


def record(path: str, health: Health, missed: Collection[str], keep_days: float) -> News:
    """Put a run into the history, and its `Past` into each outcome. Checks that were `missed` have none of this run.

    All or nothing: a run that is killed leaves the history as it was. Raises `HistoryError`.
    """
    ran = [outcome for outcome in health.outcomes if outcome.name not in missed]
    with _opened(path) as database:
        rows = {row.name: row for row in _rows(database)}
        before = {name: replace(row) for name, row in rows.items()}
        run = _insert_run(database, health)
        for outcome in ran:
            rows[outcome.name] = _next(rows.get(outcome.name), outcome, health.started.timestamp())
        _save(database, run, ran, rows)
        _prune(database, health.started.timestamp(), keep_days)
        trends = _trends(database, {outcome.name for outcome in health.outcomes}, health.started.timestamp())
        told = database.execute("SELECT time FROM told").fetchone()
        past = {
            outcome.name: _past(rows[outcome.name], before.get(outcome.name), trends.get(outcome.name, {}))
            for outcome in health.outcomes
            if outcome.name in rows
        }
        changed = any(_is_news(rows[outcome.name], before.get(outcome.name)) for outcome in ran)
        news = News(changed, _utc(told[0]) if told else None)
    for outcome in health.outcomes:
        outcome.past = past.get(outcome.name)
    return news


def tell(path: str, health: Health, missed: Collection[str]) -> None:
    """Remember that somebody has been told of these states. Raises `HistoryError`."""
    with _opened(path) as database:
        told = ((outcome.state, outcome.name) for outcome in health.outcomes if outcome.name not in missed)
        database.executemany("UPDATE checks SET told = ? WHERE name = ?", told)
        database.execute("INSERT OR REPLACE INTO told VALUES (1, ?)", (time.time(),))


# The file.


@contextmanager
def _opened(path: str) -> Iterator[sqlite3.Connection]:
    """The history, locked against others, as one transaction. Raises `HistoryError`."""
    try:
        if os.path.exists(path) and not stat.S_ISREG(os.stat(path).st_mode):
            raise HistoryError("is not a file")
        # Transactions are begun below: the module would begin them too late to be alone.
        database = sqlite3.connect(path, timeout=BUSY_STEP_SECONDS, isolation_level=None)
        try:
            _begin(database)
            _create(database)
            yield database
            database.execute("COMMIT")
            database.execute("PRAGMA incremental_vacuum")
        finally:
            database.close()  # rolls back what was not committed
    except OSError as error:
        raise HistoryError(f"cannot be used: {error.strerror}") from None
    except sqlite3.Error as error:
        raise HistoryError(f"cannot be used: {error}") from None
    except (TypeError, ValueError, OverflowError) as error:  # SQLite has no checksums: what it reads may be anything
        raise HistoryError(f"is damaged: {error}; move it away, and a new one is made") from None


def _begin(database: sqlite3.Connection) -> None:
    """Begin the transaction when nobody else is in one."""
    end = time.monotonic() + BUSY_SECONDS
    while True:
        try:
            _prepare(database)
            database.execute("BEGIN IMMEDIATE")
            break
        except sqlite3.OperationalError as error:
            if "locked" not in str(error) or time.monotonic() >= end:
                raise
    database.execute(f"PRAGMA busy_timeout = {BUSY_SECONDS * 1000}")  # what waits from here on is on its way out


def _prepare(database: sqlite3.Connection) -> None:
    """Before the first transaction; afterwards these say nothing."""
    if not _pragma(database, "user_version") and not _pragma(database, "page_count"):
        database.execute("PRAGMA auto_vacuum = INCREMENTAL")
    database.execute("PRAGMA journal_mode = WAL")
    database.execute("PRAGMA synchronous = NORMAL")  # what a power cut may cost is the last run, never the file


def _create(database: sqlite3.Connection) -> None:
    """Make the tables of a new history; refuse what is somebody else's or from a newer mailprobe."""
    version, application = _pragma(database, "user_version"), _pragma(database, "application_id")
    tables = database.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]
    if not version and not tables:
        for statement in SCHEMA.split(";"):
            database.execute(statement)
        database.execute(f"PRAGMA application_id = {APPLICATION}")
        database.execute(f"PRAGMA user_version = {VERSION}")
    elif application != APPLICATION:
        raise HistoryError("is a database of another program")
    elif version > VERSION:
        raise HistoryError(f"is from a newer mailprobe (version {version} of the history, this one knows {VERSION})")


def _pragma(database: sqlite3.Connection, name: str) -> int:
    value: int = database.execute(f"PRAGMA {name}").fetchone()[0]
    return value


# A run.


def _insert_run(database: sqlite3.Connection, health: Health) -> int:
    values = health.started.timestamp(), health.elapsed
    run = database.execute("INSERT INTO runs (started, elapsed) VALUES (?, ?)", values).lastrowid
    return run or 0


def _rows(database: sqlite3.Connection) -> Iterator[_Row]:
    question = "SELECT name, state, since, seen, recent, flapping, changes, told FROM checks"
    for name, state, since, seen, recent, flapping, changes, told in database.execute(question):
        listed = [(at, word) for at, word in json.loads(changes)]
        yield _Row(name, state, since, seen, recent, bool(flapping), listed, told)


def _next(row: _Row | None, outcome: Outcome, now: float) -> _Row:
    """The row of a check after this run."""
    if row is None:
        return _Row(outcome.name, outcome.state, now, now, outcome.state[0], False, [(now, outcome.state)], None)
    recent = (row.recent + outcome.state[0])[-FLAPPING_WINDOW - 1 :]
    changed = row.state != outcome.state
    changes = [*row.changes, (now, outcome.state)][-MAX_CHANGES:] if changed else row.changes
    since = now if changed else row.since
    return _Row(outcome.name, outcome.state, since, now, recent, flaps(recent, row.flapping), changes, row.told)


def _is_news(row: _Row, before: _Row | None) -> bool:
    """Whether nobody was told of this state; of a check that goes on flapping, somebody was."""
    flapping = row.flapping and before is not None and before.flapping
    return (row.told or "ok") != row.state and not flapping


def flaps(recent: str, already: bool) -> bool:
    """Whether a check flaps that had these states, a letter each, the oldest first, and flapped `already` or not."""
    step = 0.4 / (FLAPPING_WINDOW - 1)
    newest = len(recent) - 2
    changes = (place for place in range(len(recent) - 1) if recent[place] != recent[place + 1])
    percent = sum(1.2 - step * (newest - place) for place in changes) * 100 / FLAPPING_WINDOW
    return percent > FLAPPING_BEGINS or (already and percent >= FLAPPING_ENDS)


def _save(database: sqlite3.Connection, run: int, ran: list[Outcome], rows: dict[str, _Row]) -> None:
    saved = (rows[outcome.name] for outcome in ran)
    database.executemany(
        "INSERT INTO checks (name, state, since, seen, recent, flapping, changes, told) VALUES (?, ?, ?, ?, ?, ?, ?, ?)"
        " ON CONFLICT (name) DO UPDATE SET state = excluded.state, since = excluded.since, seen = excluded.seen,"
        " recent = excluded.recent, flapping = excluded.flapping, changes = excluded.changes",
        (
            (row.name, row.state, row.since, row.seen, row.recent, row.flapping, json.dumps(row.changes), row.told)
            for row in saved
        ),
    )
    database.executemany(
        "INSERT INTO results SELECT ?, id, ?, ?, ?, ? FROM checks WHERE name = ?",
        ((run, *_measured(outcome), outcome.name) for outcome in ran),
    )


def _measured(outcome: Outcome) -> tuple[Any, ...]:
    metrics = {measurement.name: measurement.value for measurement in outcome.measurements}
    return outcome.state, *map(outcome.measured, TRENDS), json.dumps(metrics)


def _prune(database: sqlite3.Connection, now: float, keep_days: float) -> None:
    oldest = now - keep_days * DAY
    gone = {run for (run,) in database.execute("SELECT id FROM runs WHERE started < ?", (oldest,))}
    for age, every in THINNED:
        thinned = database.execute(
            "SELECT id FROM runs WHERE started < :limit AND id NOT IN"
            " (SELECT min(id) FROM runs WHERE started < :limit GROUP BY CAST(started / :every AS INTEGER))",
            {"limit": now - age, "every": every},
        )
        gone.update(run for (run,) in thinned)
    for statement in ("DELETE FROM results WHERE run = ?", "DELETE FROM runs WHERE id = ?"):
        database.executemany(statement, [(run,) for run in gone])
    # A check that is no longer in the file, or has another name there.
    database.execute("DELETE FROM checks WHERE seen < ?", (oldest,))


T = TypeVar("T")


def _spread(values: list[T], count: int) -> list[T]:
    """As many of the values as `count`, evenly, the first and the last among them."""
    if len(values) <= count:
        return values
    return [values[round(place * (len(values) - 1) / (count - 1))] for place in range(count)]


def _trends(
    database: sqlite3.Connection, names: Collection[str], now: float
) -> dict[str, dict[str, list[tuple[datetime, float]]]]:
    """For each check the trends of `Past`, over the whole time that is kept."""
    points = max(MIN_POINTS, min(MAX_POINTS, MAX_ALL_POINTS // (len(TRENDS) * max(len(names), 1))))
    # What is days ahead was measured while the clock was wrong, or it is wrong now: it is not told, and stays.
    period = "SELECT id, started FROM runs WHERE started <= ? ORDER BY started, id"
    runs = database.execute(period, (now + DAY,)).fetchall()
    trends: dict[str, dict[str, list[tuple[datetime, float]]]] = {}
    for run, started in _spread(runs, points):
        at = _utc(started)
        question = "SELECT name, time, certificate_days FROM results JOIN checks ON id = check_id WHERE run = ?"
        for name, *values in database.execute(question, (run,)):
            if name in names:
                for metric, value in zip(TRENDS, values):
                    if value is not None:
                        trends.setdefault(name, {}).setdefault(metric, []).append((at, value))
    return trends


def _past(row: _Row, before: _Row | None, trends: dict[str, list[tuple[datetime, float]]]) -> Past:
    return Past(
        since=_utc(row.since),
        previous_state=before.state if before else None,
        changed=before is not None and before.state != row.state,
        flapping=row.flapping,
        changes=[(_utc(at), state) for at, state in row.changes],
        trends=trends,
        told=row.told,
    )


def _utc(seconds: float) -> datetime:
    return datetime.fromtimestamp(seconds, timezone.utc)

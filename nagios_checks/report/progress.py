"""How far a run is, on a terminal; on a pipe there is nothing to see."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from mailprobe.codes import STATES

from .outcome import Outcome


@contextmanager
def bar(total: int) -> Iterator[Callable[[Outcome], None]]:
    """A bar on standard error that grows with each outcome it is told, and is gone at the end."""
    if sys.stderr is None or not sys.stderr.isatty():
        yield lambda outcome: None
        return
    # 40 ms to import, and only a person at a terminal waits for it.
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    counts: Counter[str] = Counter()
    columns = BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TextColumn("{task.description}")
    with Progress(*columns, console=Console(file=sys.stderr), transient=True) as progress:
        task = progress.add_task("", total=total)

        def tell(outcome: Outcome) -> None:
            counts[outcome.state] += 1
            words = ", ".join(f"{counts[state]} {state}" for state in STATES if counts[state])
            progress.update(task, advance=1, description=words)

        yield tell

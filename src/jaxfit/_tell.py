"""How far a long run is, on stderr, where the user asked for it; with rich."""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any


@contextlib.contextmanager
def nothing() -> Iterator[Callable[[int], None] | None]:
    """Tells nothing."""
    yield None


@contextlib.contextmanager
def bar(what: str, total: int) -> Iterator[Callable[[int], None]]:
    """A bar that moves on by each number that it is told.

    Args:
        what: What is counted.
        total: How many of it there are.
    """
    progress = lively()
    with progress:
        task = progress.add_task(what, total=total, shown="")

        def advance(number: int) -> None:
            progress.advance(task, number)
            progress.refresh()

        yield advance


def lively() -> Any:
    """A bar of rich's, to be started: what is counted, how many of how many, the time left, and numbers beside it.

    Raises:
        ImportError: rich is not installed.
    """
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )
    from rich.table import Column

    times = TimeElapsedColumn(), TextColumn("<"), TimeRemainingColumn()
    columns = (
        TextColumn("{task.description}"),
        BarColumn(10),
        MofNCompleteColumn(),
        *times,
        # What does not fit into the line is cut off, not the bar.
        TextColumn("{task.fields[shown]}", table_column=Column(ratio=1, no_wrap=True, overflow="ellipsis")),
    )
    return Progress(*columns, console=Console(stderr=True), auto_refresh=False, expand=True)

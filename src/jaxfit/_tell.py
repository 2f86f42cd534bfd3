"""How far a long run is, on stderr, where the user asked for it."""

import contextlib
from collections.abc import Callable, Iterator


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
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = TextColumn(what), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    with Progress(*columns, console=Console(stderr=True)) as progress:
        task = progress.add_task(what, total=total)
        yield lambda number: progress.advance(task, number)

"""Ctrl-C and SIGTERM during a run: asked to end at the next chunk, so that nothing is lost."""

import contextlib
import signal
import threading
from collections.abc import Iterator

# Where somebody else has taken a signal over already, it stays theirs.
_DEFAULTS = {signal.SIGINT: signal.default_int_handler, signal.SIGTERM: signal.SIG_DFL}
_NAMES = {signal.SIGINT: "Ctrl-C", signal.SIGTERM: "SIGTERM"}


class Asked:
    """Whether the user has asked for an end.

    Attributes:
        by: How, as a word; None where nobody has.
    """

    by: str | None = None


@contextlib.contextmanager
def heeded() -> Iterator[Asked]:
    """Takes note of the first Ctrl-C or SIGTERM; a second one acts as ever, at once.

    Only the main thread gets signals: elsewhere, nothing is changed.
    """
    asked = Asked()
    if threading.current_thread() is not threading.main_thread():
        yield asked
        return

    def note(number: int, frame: object) -> None:
        del frame
        asked.by = _NAMES[signal.Signals(number)]
        restore()

    taken = {number: usual for number, usual in _DEFAULTS.items() if signal.getsignal(number) is usual}

    def restore() -> None:
        for number, usual in taken.items():
            if signal.getsignal(number) is note:
                signal.signal(number, usual)

    try:
        for number in taken:
            signal.signal(number, note)
        yield asked
    finally:
        restore()

"""Progress of long jobs on standard error: a bar with the time left, or now and then a line where nobody watches."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from typing import Final

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from tuner.units import format_seconds

_LINE_EVERY_S: Final = 10.0


@contextlib.contextmanager
def shown_progress(what: str, console: Console | None = None) -> Iterator[Callable[[int, int], None]]:
    """Yields a function to be called with how many steps are done, of how many.

    Args:
        what: plural of what is counted, such as `operators timed`.
        console: where it is shown; standard error where absent.
    """
    console = Console(stderr=True) if console is None else console
    if console.is_terminal:
        columns = (TextColumn(what), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        with Progress(*columns, console=console) as bar:
            task = bar.add_task(what)
            yield lambda done, total: bar.update(task, completed=done, total=total)
        return
    began = told = time.monotonic()

    def tell(done: int, total: int) -> None:
        nonlocal told
        now = time.monotonic()
        if now < told + _LINE_EVERY_S and done < total:
            return
        told = now
        left = f", about {format_seconds((now - began) / done * (total - done))} left" if 0 < done < total else ""
        console.print(f"{done} of {total} {what}{left}", highlight=False, markup=False, soft_wrap=True)

    yield tell

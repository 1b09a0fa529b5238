"""Progress: nobody who reads a log is flooded, and the end is always told."""

from __future__ import annotations

import io

from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from tuner.cli.progress import shown_progress


@given(st.integers(1, 500))
def test_a_log_gets_the_end_and_little_else(total: int) -> None:
    text = io.StringIO()
    with shown_progress("things done", Console(file=text)) as watch:
        for done in range(total + 1):
            watch(done, total)
    assert text.getvalue() == f"{total} of {total} things done\n"


def test_a_terminal_gets_a_bar() -> None:
    text = io.StringIO()
    with shown_progress("things done", Console(file=text, force_terminal=True, width=80)) as watch:
        watch(1, 2)
        watch(2, 2)
    assert "2/2" in text.getvalue()

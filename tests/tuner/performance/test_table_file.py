"""Rows of operator tables."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from tuner.performance.table_file import Columns

NAMES = ("heads", "width", "window")
NUMBERS = st.one_of(st.integers(-2, 5), st.integers(-(2**40), 2**40))


@given(rows=st.lists(st.tuples(NUMBERS, NUMBERS, NUMBERS), max_size=30))
def test_distinct_rows_are_listed_once_and_ascending(rows: list[tuple[int, int, int]]) -> None:
    values = np.array(rows, dtype=np.int64).reshape(len(rows), 3)
    columns = Columns(dict(zip(NAMES, values.T, strict=True)), np.ones(len(rows)))
    assert columns.distinct(*NAMES) == sorted(set(rows))

"""Column expressions compute what pandas would, and nothing that is not arithmetic."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tuner.bench.expression import Expression, ExpressionError

COLUMNS = {
    "a": np.array([1.0, 2.0, 3.0]),
    "b": np.array([3, 2, 1]),
    "word": np.array(["x", "y", "x"], dtype=object),
    "tokens/s (µ)": np.array([1, 2, 3]),
}

terms = st.sampled_from(["a", "b", "2", "0.5"])
sums = st.recursive(
    terms, lambda inner: st.tuples(inner, st.sampled_from("+-*"), inner).map(lambda t: f"({''.join(t)})")
)


@given(sums)
def test_arithmetic_agrees_with_pandas(text: str) -> None:
    expected = np.broadcast_to(pd.DataFrame({"a": COLUMNS["a"], "b": COLUMNS["b"]}).eval(text), (3,))
    np.testing.assert_allclose(Expression(text).numbers(COLUMNS, 3), expected)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a < 2", [True, False, False]),
        ("a == 1 & b == 3", [True, False, False]),
        ("a == 1 | word == 'y'", [True, True, False]),
        ("not (word == 'x')", [False, True, False]),
        ("1 <= a < 3", [True, True, False]),
        ("word in ['y', 'z']", [False, True, False]),
        ("word not in ['y']", [True, False, True]),
        ("word == ['y', 'z']", [False, True, False]),
        ("b != [1, 2]", [True, False, False]),
        ("b in [-1, 2]", [False, True, False]),
        ("`tokens/s (µ)` > 1 and word != '`a`'", [False, True, True]),
    ],
)
def test_conditions_bind_as_in_pandas(text: str, expected: list[bool]) -> None:
    assert Expression(text).truths(COLUMNS, 3).tolist() == expected


@pytest.mark.parametrize(
    "text",
    [
        "__import__('os').system('true')",
        "a.__class__",
        "a[0]",
        "(lambda: 1)()",
        "[x for x in a]",
        "open('f')",
        "f'{a}'",
        "a if b else a",
        "a := 1",
        "[1, 2]",
        "(1, 2, 3)",
        "[a, b] == a",
        "a < [1, 2]",
    ],
)
def test_anything_but_arithmetic_is_refused(text: str) -> None:
    with pytest.raises(ExpressionError, match=r"not allowed|does not parse"):
        Expression(text)


def test_an_unknown_column_brings_its_neighbour() -> None:
    with pytest.raises(ExpressionError, match="'word'"):
        Expression("wrod == 'x'").truths(COLUMNS, 3)


def test_words_are_no_numbers() -> None:
    with pytest.raises(ExpressionError, match="words"):
        Expression("word + 1").numbers(COLUMNS, 3)
    with pytest.raises(ExpressionError, match="condition"):
        Expression("a + 1").truths(COLUMNS, 3)


def test_the_word_that_keeps_a_column_from_being_numbers_is_named() -> None:
    with pytest.raises(ExpressionError, match=r"gives no numbers, but 'n/k'"):
        Expression("mixed").numbers({"mixed": np.array(["1.5", "n/k", "2"], dtype=object)}, 3)

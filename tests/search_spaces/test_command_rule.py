"""The rule language of the command engine."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from search_spaces.command_rule import Comparison, RuleError

NAMES = ("threads", "workers", "queue")

numbers = st.recursive(
    st.one_of(st.integers(0, 9).map(str), st.sampled_from(NAMES)),
    lambda inner: st.one_of(
        st.tuples(inner, st.sampled_from(["+", "-", "*", "/", "//", "%"]), inner).map(lambda t: f"({' '.join(t)})"),
        inner.map(lambda text: f"-({text})"),
    ),
    max_leaves=5,
)
comparisons = st.tuples(numbers, st.sampled_from(["<", "<=", ">", ">=", "==", "!="]), numbers).map(" ".join)
rules = st.recursive(
    comparisons,
    lambda inner: st.one_of(
        st.tuples(inner, st.sampled_from(["and", "or"]), inner).map(lambda t: f"({' '.join(t)})"),
        inner.map(lambda text: f"not ({text})"),
    ),
    max_leaves=4,
)
settings = st.fixed_dictionaries({name: st.integers(1, 16) for name in NAMES})


@given(text=rules, values=settings)
def test_a_rule_means_what_python_means(text: str, values: dict[str, int]) -> None:
    try:
        expected = bool(eval(text, {"__builtins__": {}}, dict(values)))
    except ZeroDivisionError:
        expected = False
    if not any(name in text for name in NAMES):
        with pytest.raises(RuleError, match="speaks of no parameter"):
            Comparison.parse(text)
        return
    assert Comparison.parse(text).holds(values) == expected


@given(text=st.text(max_size=40) | st.text(alphabet="abx().[]'\"<>=+-*/%,:{}@ 1lambdifn", max_size=40))
def test_any_text_is_a_rule_or_refused(text: str) -> None:
    try:
        names: object = Comparison.parse(text).names
    except RuleError as error:
        names = str(error)
    assert names


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("__import__('os').system('true') == 0", "column 1 that a rule may not say"),
        ("threads.__class__ == 1", "may not say"),
        ("[t for t in (1, 2)] == threads", "may not say"),
        ("(lambda: 1) == threads", "may not say"),
        ("threads ** 9 < 1", "may not say"),
        ("threads is None", "may not say"),
        ("f'{threads}' == '1'", "may not say"),
        ("threads <", "does not parse"),
        ("threads = 8", "does not parse"),
        ("threads * 8", "is no comparison"),
        ("1 < 2", "speaks of no parameter"),
        ("threads < " + "1 + " * 500 + "1", "Split it"),
    ],
)
def test_what_a_rule_may_not_say_is_refused(text: str, words: str) -> None:
    with pytest.raises(RuleError, match=words):
        Comparison.parse(text)


def test_names_are_told_in_order_of_appearance() -> None:
    assert Comparison.parse("workers * threads <= cpus and workers > 1").names == ("workers", "threads", "cpus")


def test_texts_and_lists_can_be_compared() -> None:
    rule = Comparison.parse('mode in ("async", "sync") and (mode != "async" or queue >= 2)')
    assert rule.holds({"mode": "async", "queue": 2})
    assert not rule.holds({"mode": "async", "queue": 1})
    assert not rule.holds({"mode": "other", "queue": 9})


def test_comparing_a_text_with_a_number_is_a_fault_with_the_values() -> None:
    with pytest.raises(RuleError, match="mode='async'"):
        Comparison.parse("mode < 3").holds({"mode": "async"})

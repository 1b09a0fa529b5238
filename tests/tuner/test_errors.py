"""Words of messages: what is shown of many things, and what was likely meant."""

from __future__ import annotations

import pytest

from tuner.errors import did_you_mean, first_ones, shortened


@pytest.mark.parametrize(
    ("count", "words"), [(1, "line 0"), (3, "line 0; line 1; line 2"), (5, "line 0; line 1; line 2; and 2 more")]
)
def test_what_is_not_shown_is_counted(count: int, words: str) -> None:
    assert first_ones([f"line {number}" for number in range(count)], 3) == words


def test_a_long_text_is_cut_and_a_short_one_is_not() -> None:
    assert shortened("abcdef", 3) == "abc…"
    assert shortened("abc", 3) == "abc"


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("h100", "Did you mean 'h100_pcie' or 'h100_sxm'?"),
        ("h200_smx", "Did you mean 'h200_sxm' or 'h100_sxm'?"),
        ("tpu", "Known: h100_pcie, h100_sxm, h200_sxm."),
    ],
)
def test_a_name_brings_its_neighbours_or_all_that_is_known(name: str, words: str) -> None:
    assert did_you_mean(name, ["h100_sxm", "h100_pcie", "h200_sxm"]) == words


def test_of_many_names_without_a_near_one_the_rest_is_counted() -> None:
    assert did_you_mean("zzz", [f"a{number:02}" for number in range(20)]).endswith("a15 and 4 more.")

"""What a model is made of, in numbers that can be compared."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tuner.make_up import make_up
from tuner.model_graph import ModelGraph
from tuner.operators import Attention, Embedding, MatMul, Operator
from tuner.step import Split

counts = st.integers(1, 40)
widths = st.sampled_from([64, 128, 768, 4096])
operators = st.one_of(
    st.builds(MatMul, name=st.just("m"), count=counts, inputs=widths, outputs=widths, split=st.just(Split.OUTPUT)),
    st.builds(Embedding, name=st.just("e"), count=st.just(1), entries=st.integers(100, 5000), width=widths),
)


def a_graph(parts: list[Operator], generates: bool = True) -> ModelGraph:
    return ModelGraph(
        name="m", family="f", operators=tuple(parts), layers=1, hidden=64, max_context=None, generates=generates
    )


@given(parts=st.lists(operators, max_size=6), generates=st.booleans())
def test_shares_are_of_a_whole_and_every_name_is_there(parts: list[Operator], generates: bool) -> None:
    found = make_up(a_graph(parts, generates))
    assert set(found) == set(make_up(a_graph([])))
    assert all(math.isfinite(value) and value >= 0 for value in found.values())
    for name in ("flops", "bytes"):
        total = sum(value for key, value in found.items() if key.startswith(f"{name}_share"))
        assert total == pytest.approx(1.0) or total == 0.0


@given(parts=st.lists(operators, min_size=1, max_size=6))
def test_twice_as_many_layers_are_a_larger_model_made_of_the_same(parts: list[Operator]) -> None:
    layers = [part for part in parts if isinstance(part, MatMul)] or [a_product(64)]
    once, twice = make_up(a_graph(layers)), make_up(a_graph([*layers, *(replace(part) for part in layers)]))
    for name, value in once.items():
        grown = math.log(2) if name.startswith("log_") else 0.0
        assert twice[name] == pytest.approx(value + grown)


def a_product(width: int) -> MatMul:
    return MatMul(name="m", count=1, inputs=width, outputs=width, split=Split.OUTPUT)


def test_attention_shows_in_the_shares() -> None:
    plain = [a_product(768)]
    attention = Attention(name="a", count=12, heads=12, kv_heads=12, head_dim=64, value_dim=64)
    assert make_up(a_graph(plain))["flops_share_attention"] == 0.0
    assert make_up(a_graph([*plain, attention]))["flops_share_attention"] > 0.0

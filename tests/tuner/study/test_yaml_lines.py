"""YAML with line numbers, within bounds."""

from __future__ import annotations

from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from tuner.study.yaml_lines import MAX_BYTES, Place, dotted, read

PLAIN = st.none() | st.booleans() | st.integers(-(2**62), 2**62) | st.floats(allow_nan=False, allow_infinity=False)
TEXTS = st.text(st.characters(codec="utf-8", exclude_categories=("Cc", "Cs")), max_size=12)
KEYS = st.text("abcdefgh_", min_size=1, max_size=4)
VALUES = st.recursive(
    PLAIN | TEXTS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(KEYS, inner, max_size=4),
    max_leaves=15,
)


@given(value=st.dictionaries(KEYS, VALUES, min_size=1, max_size=5), flow=st.booleans())
def test_what_was_written_is_read(value: dict[str, Any], flow: bool) -> None:
    text = yaml.safe_dump(value, default_flow_style=flow, allow_unicode=True)
    document = read(text.encode())
    assert document.faults == ()
    assert document.value == value


@given(value=st.dictionaries(KEYS, st.dictionaries(KEYS, st.integers(0, 9), min_size=1), min_size=1))
def test_every_entry_stands_on_the_line_where_it_is_written(value: dict[str, dict[str, int]]) -> None:
    text = yaml.safe_dump(value, default_flow_style=False)
    document = read(text.encode())
    lines = text.splitlines()
    for place in document.lines:
        if place:
            assert lines[document.lines[place] - 1].strip().startswith(f"{place[-1]}:")
    assert document.line(("nowhere",)) == 1
    first = next(iter(value))
    assert document.line((first, "nowhere")) == document.lines[(first,)]


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("a: yes\nb: on\nc: 1:30\nd: 2026-01-01", {"a": "yes", "b": "on", "c": "1:30", "d": "2026-01-01"}),
        ("a: 1e3\nb: 010\nc: 0x10\nd: 0o10\ne: .5", {"a": 1000.0, "b": 10, "c": 16, "d": 8, "e": 0.5}),
        ("a: ~\nb:\nc: null\nd: 'null'", {"a": None, "b": None, "c": None, "d": "null"}),
        ("1: a\ntrue: b", {"1": "a", "true": "b"}),
        ("base: &b {x: 1, y: 2}\na: {<<: *b, y: 3}", {"base": {"x": 1, "y": 2}, "a": {"x": 1, "y": 3}}),
        ("a: &l [1]\nb: *l", {"a": [1], "b": [1]}),
        ("\ufeffa: 1", {"a": 1}),
    ],
)
def test_scalars_are_those_of_yaml_1_2(text: str, value: object) -> None:
    document = read(text.encode())
    assert document.faults == ()
    assert document.value == value


BILLION_LAUGHS = b"l0: &l0 [ha]\n" + b"".join(
    f"l{number}: &l{number} [{', '.join([f'*l{number - 1}'] * 10)}]\n".encode() for number in range(1, 12)
)


@pytest.mark.parametrize(
    ("data", "line", "words"),
    [
        (b"", 1, "is empty"),
        (b"# nothing\n", 1, "is empty"),
        (b"a: 1\nb:\n\tc: 1\n", 3, "A tab"),
        (b"a: 1\nb: \xff\n", 2, "0xff is no UTF-8"),
        (b"a: 1\nb: \x07\n", 2, "U+0007"),
        (b"a: 1\n---\nb: 1\n", 2, "A second document"),
        (b"a: b: c\n", 1, "in quotes"),
        (b"a: [1, 2\nb: 1\n", 2, "YAML syntax"),
        (b"a: *b\n", 1, "undefined alias 'b'"),
        (b"a: 1\nb: 2\na: 3\n", 3, "already given in line 1"),
        (b"a: !!python/object/apply:os.system [ls]\n", 1, "is not allowed here"),
        (b"a: !!binary aGk=\n", 1, "is not allowed here"),
        (b"a: .nan\n", 1, "not finite"),
        (b"a: [1,\n 1e999]\n", 2, "not finite"),
        (b"a: " + b"9" * 5000, 1, "too large"),
        (b"a: &x [*x]\n", 1, "contains itself"),
        (b"? [1]\n: 2\n", 1, "no plain text"),
        (b"a: {<<: 3}\n", 1, "no mapping"),
        (b"[" * 1000, 1, "levels are nested"),
        (b"a: " * 40 + b"1", 1, "YAML syntax"),
        (b" " * (MAX_BYTES + 1), 1, "bytes, more than"),
        (
            BILLION_LAUGHS,
            1,
            "once its aliases are followed",
        ),
    ],
)  # fmt: skip
def test_what_cannot_be_read_is_told_with_its_line(data: bytes, line: int, words: str) -> None:
    faults = [fault for _, fault in read(data).faults]
    assert len(faults) == 1
    assert faults[0].line == line
    assert words in f"{faults[0].problem} {faults[0].remedy}"
    assert faults[0].remedy


def test_the_rest_is_read_where_an_entry_is_at_fault() -> None:
    document = read(b"a: [1, .inf, 3]\nb: {c: .nan, d: 4}\ne: 5\ne: 6\n")
    assert document.value == {"a": [1, None, 3], "b": {"d": 4}, "e": 5}
    assert [place for place, _ in document.faults] == [("a", 1), ("b", "c"), None]


@pytest.mark.parametrize(
    ("place", "text"),
    [
        ((), ""),
        (("devices", 0, "price"), "devices[0].price"),
        (("headers", "a.b"), "headers['a.b']"),
        (("a\nb",), r"['a\nb']"),
    ],
)
def test_places_are_written_as_paths(place: Place, text: str) -> None:
    assert dotted(place) == text

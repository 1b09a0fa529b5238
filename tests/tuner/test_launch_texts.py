"""Placeholders of launch specifications."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.runners.trials import a_spec
from tuner.errors import UsageError
from tuner.launch import LaunchSpec
from tuner.launch_texts import LaunchTexts, launch_texts


def filled(spec: LaunchSpec) -> LaunchTexts:
    return launch_texts(
        spec, host="0.0.0.0", port=8000, scratch="/scratch", mounts={"model": "/models/m"}, forwarded={"A": "{b"}
    )


@given(st.text())
def test_text_whose_braces_are_doubled_arrives_as_it_was(text: str) -> None:
    doubled = text.replace("{", "{{").replace("}", "}}")
    texts = filled(a_spec("ok", argv=("serve", doubled), environment={"X": doubled}))
    assert texts.argv == ("serve", text)
    assert texts.environment == {"A": "{b", "X": text}


@given(st.text())
def test_file_that_is_no_template_arrives_as_it_was(text: str) -> None:
    assert filled(a_spec("ok", files={"f": text})).files == {"f": text}


def test_placeholders_are_filled_in() -> None:
    spec = a_spec(
        "ok",
        argv=("serve", "--at={host}:{port}", "{scratch}/f", "{mount:model}/config.json"),
        files={"f": '{"port": {port}, "log": "{level}"}'},
        templated_files=frozenset({"f"}),
    )
    assert filled(spec).argv == ("serve", "--at=0.0.0.0:8000", "/scratch/f", "/models/m/config.json")
    assert filled(spec).files["f"] == '{"port": 8000, "log": "{level}"}'


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("{prot}", "Did you mean 'port'"),
        ("{mount:mode}", "Did you mean 'mount:model'"),
        ("{", "single '{'"),
        ("a}", "single '}'"),
    ],
)
def test_placeholder_that_means_nothing_is_refused(text: str, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        filled(a_spec("ok", argv=(text,)))

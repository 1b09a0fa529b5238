"""Paths in adapters' options start at the study file, however deep they stand and whatever else is wrong."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, Field

from runners.docker import DockerOptions
from search_spaces.command import CommandSpace
from tuner.study.option_paths import located

FOLDER = Path("/studies/mine")


class Inner(BaseModel):
    source: str = Field(json_schema_extra={"format": "path"})
    target: str = ""


class Options(BaseModel):
    keep: str | None = Field(default=None, json_schema_extra={"format": "path"})
    one: Inner | None = None
    many: tuple[Inner, ...] = ()
    named: dict[str, str | Inner] = {}
    word: str = ""


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"keep": "logs"}, {"keep": "/studies/mine/logs"}),
        ({"keep": "/var/log"}, {"keep": "/var/log"}),
        ({"keep": "~/logs"}, {"keep": str(Path.home() / "logs")}),
        ({"keep": "~nosuchuser/logs"}, {"keep": "/studies/mine/~nosuchuser/logs"}),
        ({"keep": None, "word": "logs"}, {"keep": None, "word": "logs"}),
        ({"one": {"source": "a", "target": "a"}}, {"one": {"source": "/studies/mine/a", "target": "a"}}),
        ({"many": [{"source": "a"}]}, {"many": [{"source": "/studies/mine/a"}]}),
        (
            {"named": {"x": {"source": "a"}, "y": "text"}},
            {"named": {"x": {"source": "/studies/mine/a"}, "y": "text"}},
        ),
        ({"unknown": "a", "one": 3, "many": "a"}, {"unknown": "a", "one": 3, "many": "a"}),
    ],
)
def test_paths_and_nothing_else_are_placed(options: dict[str, object], expected: dict[str, object]) -> None:
    assert located(options, Options.model_json_schema(), FOLDER) == expected


@given(st.recursive(st.none() | st.text() | st.integers(), lambda s: st.lists(s) | st.dictionaries(st.text(), s)))
def test_options_of_any_shape_are_placed_once(value: object) -> None:
    schema = Options.model_json_schema()
    options = {"keep": value, "one": value, "many": [value], "named": {"x": value}}
    once = located(options, schema, FOLDER)
    assert located(once, schema, FOLDER) == once


def test_adapters_say_which_of_their_options_are_paths() -> None:
    files = {"files": {"a.conf": {"source": "a.template"}}, "mounts": {"data": {"source": "data", "target": "/data"}}}
    found = located(files, CommandSpace.options_schema(), FOLDER)
    assert found["files"] == {"a.conf": {"source": "/studies/mine/a.template"}}
    assert found["mounts"] == {"data": {"source": "/studies/mine/data", "target": "/data"}}
    assert located({"keep_logs": "logs"}, DockerOptions.model_json_schema(), FOLDER) == {
        "keep_logs": "/studies/mine/logs"
    }

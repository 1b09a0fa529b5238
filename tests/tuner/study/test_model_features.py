"""What earlier and new studies say of their models, by which the search knows which are alike."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import cast

import pytest

from tests.tuner.study.conftest import StudyMaker
from tuner.ports import SearchSpace
from tuner.study.read_model import model_features

CONFIG = {
    "model_type": "llama", "vocab_size": 512, "hidden_size": 128, "intermediate_size": 192, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 256,
}  # fmt: skip

ENGINE = cast(SearchSpace, object())
"""It predicts nothing; nothing else is asked of it."""


@pytest.mark.parametrize(
    ("files", "known"), [({"config.json": json.dumps(CONFIG)}, True), ({"config.json": "{"}, False), ({}, False)]
)
def test_model_of_an_engine_that_predicts_nothing_is_read_where_a_reader_can(
    make_study: StudyMaker, tmp_path: Path, files: dict[str, str], known: bool
) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    for name, text in files.items():
        (folder / name).write_text(text)
    task = make_study().task
    found = model_features(replace(task, model=replace(task.model, path=folder)), ENGINE)
    assert bool(found) is known
    if known:
        assert found["log_parameters"] == pytest.approx(12.6, abs=0.5)


def test_without_a_path_nothing_is_known(make_study: StudyMaker) -> None:
    assert model_features(make_study().task, ENGINE) == {}

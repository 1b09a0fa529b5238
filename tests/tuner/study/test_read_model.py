"""Readers of models may come from anywhere: what they do wrong is one fault, with the model's place."""

from __future__ import annotations

from pathlib import Path

import pytest

from tuner.cli import performance_inputs
from tuner.errors import ModelError, UnpredictableError
from tuner.model_graph import ModelGraph
from tuner.serving import ServedModel
from tuner.step import NumberFormat
from tuner.study import adapters
from tuner.study.read_model import read_graph, read_model


class Stumbling:
    """A reader that takes everything and fails in a way of its own."""

    def accepts(self, path: Path) -> bool:
        return True

    def read(self, path: Path, weights: NumberFormat | None = None) -> ModelGraph:
        raise KeyError("layers")


@pytest.fixture(autouse=True)
def _stumbling(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(adapters, "load", lambda group, name: Stumbling)


def test_commands_tell_what_a_reader_stumbled_over(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=rf"{tmp_path} cannot be read: KeyError: 'layers'.*undamaged"):
        read_model(tmp_path)
    with pytest.raises(ModelError, match=r"org--model cannot be read: KeyError"):
        performance_inputs.model_source(tmp_path)("org/model", None)


def test_a_study_whose_reader_stumbles_is_not_predicted(tmp_path: Path) -> None:
    def never(config: object) -> None:
        raise AssertionError

    served = ServedModel(reader="any", path=tmp_path, serving=never)  # type: ignore[arg-type]
    with pytest.raises(UnpredictableError, match=rf"operators cannot be read: {tmp_path} cannot be read: KeyError"):
        read_graph(served)

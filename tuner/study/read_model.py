"""Models, read into their operators by the readers that are installed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Final, Protocol, cast

from tuner.errors import ModelError, TunerError, UnpredictableError
from tuner.make_up import make_up
from tuner.model_graph import ModelGraph
from tuner.ports import Predictable, SearchSpace, ServingTask
from tuner.serving import ServedModel
from tuner.step import NumberFormat
from tuner.study import adapters

MODEL_READERS: Final = "tuner.model_readers"
HUGGING_FACE: Final = "huggingface"


class ModelReader(Protocol):
    """Reads the models of one format."""

    def accepts(self, path: Path) -> bool:
        """Whether the path is of its format."""

    def read(self, path: Path, weights: NumberFormat | None = None) -> ModelGraph:
        """The model, its weights in the given format where that is not as its files say; raises ModelError."""


def model_reader(name: str) -> ModelReader:
    """The reader `name`; raises what `adapters.load` raises."""
    return cast(Callable[[], ModelReader], adapters.load(MODEL_READERS, name))()


def read_with(reader: str, path: Path, weights: NumberFormat | None = None) -> ModelGraph:
    """The model at `path`, its weights in the given format where that is not as its files say.

    Raises:
        ModelError: the reader fails on it in a way of its own; it may come from anywhere, and takes nothing else down.
        TunerError: the reader refuses it, or cannot be loaded.
    """
    try:
        found = model_reader(reader)
        return found.read(path, weights) if weights is not None else found.read(path)
    except TunerError:
        raise
    except Exception as error:
        raise ModelError(
            f"{path} cannot be read: {type(error).__name__}: {error}. "
            "Give it as the model's authors published it, undamaged."
        ) from error


def read_model(path: Path) -> ModelGraph:
    """The model at `path`, by the first installed reader that takes it.

    Raises:
        ModelError: there is nothing, or nothing that a reader takes.
    """
    if not path.exists():
        raise ModelError(f"There is no {path}. Give an .onnx file, or a folder with a config.json.")
    for name in sorted(adapters.names(MODEL_READERS), key=lambda name: name != HUGGING_FACE):
        if model_reader(name).accepts(path):
            return read_with(name, path)
    raise ModelError(f"No reader takes {path}. Give an .onnx file, or a folder with a config.json.")


def read_graph(served: ServedModel, weights: NumberFormat | None = None) -> ModelGraph:
    """A study's model, as `read_with` reads it.

    Raises:
        UnpredictableError: its reader does not understand it.
    """
    try:
        return read_with(served.reader, served.path, weights)
    except TunerError as error:
        raise UnpredictableError(f"The model's operators cannot be read: {error}") from error


def model_features(task: ServingTask, engine: SearchSpace) -> dict[str, float]:
    """What the model of a task is made of (`tuner.make_up`); empty where it cannot be read."""
    try:
        if isinstance(engine, Predictable):
            return make_up(read_graph(engine.served_model(task)))
        return make_up(read_model(task.model.path)) if task.model.path else {}
    except Exception:  # a reader may come from anywhere, and no study depends on what it says
        return {}

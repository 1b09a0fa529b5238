"""A study's model, read into its operators."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Final, Protocol, cast

from tuner.errors import TunerError, UnpredictableError
from tuner.make_up import make_up
from tuner.model_graph import ModelGraph
from tuner.ports import Predictable, SearchSpace, ServingTask
from tuner.serving import ServedModel
from tuner.step import NumberFormat
from tuner.study import adapters

MODEL_READERS: Final = "tuner.model_readers"


class _Reader(Protocol):
    def read(self, path: Path, weights: NumberFormat | None = None) -> ModelGraph: ...


def read_graph(served: ServedModel, weights: NumberFormat | None = None) -> ModelGraph:
    """The model, its weights in the given format where that is not as its files say.

    Raises:
        UnpredictableError: no reader understands it.
    """
    try:
        reader = cast(Callable[[], _Reader], adapters.load(MODEL_READERS, served.reader))()
        return reader.read(served.path, weights) if weights is not None else reader.read(served.path)
    except TunerError as error:
        raise UnpredictableError(f"The model's operators cannot be read: {error}") from error
    except Exception as error:  # a reader may come from anywhere
        raise UnpredictableError(
            f"The model's operators cannot be read: {type(error).__name__}: {error}. "
            f"Give {served.path} as the model's authors published it, undamaged."
        ) from error


def model_features(task: ServingTask, engine: SearchSpace) -> dict[str, float]:
    """What the model of a task is made of (`tuner.make_up`); empty where it cannot be read."""
    if not isinstance(engine, Predictable):
        return {}
    try:
        return make_up(read_graph(engine.served_model(task)))
    except Exception:  # a reader may come from anywhere, and no study depends on what it says
        return {}

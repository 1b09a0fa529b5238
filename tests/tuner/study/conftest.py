"""Studies on the public fakes: no server, no waiting."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tuner.device import DeviceType
from tuner.metric import MetricRef
from tuner.objective import Objective
from tuner.ports import ModelSource, ServingTask
from tuner.slo import Slo
from tuner.study.definition import AdapterChoice, Budget, SearchOptions, Study
from tuner.study.store import open_storage
from tuner.testing.fakes import installed
from tuner.trial import TrialPlan
from tuner.workload import ClosedLoop, TemplateShapes, Workload

StudyMaker = Callable[..., Study]


@pytest.fixture(scope="session")
def empty_storage(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A storage without studies: copying it takes less than having Optuna make one."""
    path = tmp_path_factory.mktemp("storage") / "empty.db"
    open_storage(f"sqlite:///{path}").remove_session()
    return path


@pytest.fixture
def make_study(tmp_path: Path, empty_storage: Path) -> Iterator[StudyMaker]:
    """Makes studies on the fake engine and runner, stored in a file of the test's own."""
    with installed():
        yield study_maker(tmp_path, empty_storage)


@pytest.fixture(scope="module")
def make_shared_study(tmp_path_factory: pytest.TempPathFactory, empty_storage: Path) -> Iterator[StudyMaker]:
    """The same for what several tests of a module look at."""
    with installed():
        yield study_maker(tmp_path_factory.mktemp("shared"), empty_storage)


def study_maker(folder: Path, empty_storage: Path) -> StudyMaker:
    """Makes studies that are stored in a file of `folder`."""

    def make(
        *,
        name: str = "study",
        trials: int = 5,
        slos: tuple[str, ...] = ("p99(latency) <= 200 ms",),
        objectives: tuple[str, ...] = ("throughput",),
        confirmations: int = 1,
        failures: dict[int, str] | None = None,
        seconds: float = 0.0,
        sampler: str = "random",
        clients: int = 32,
        storage: str | None = None,
        budget: Budget | None = None,
        predictions: str = "none",
        memory_bytes: int | None = None,
    ) -> Study:
        if storage is None and not (own := folder / "study.db").exists():
            shutil.copyfile(empty_storage, own)
        workload = Workload(arrival=ClosedLoop(clients=clients), requests=TemplateShapes(path="/infer"))
        bounds = tuple(Slo.parse(text) for text in slos)
        return Study(
            name=name,
            task=ServingTask(
                model=ModelSource(name="model"),
                devices=(DeviceType(name="cpu-4", cpus=4, memory_bytes=memory_bytes, price_per_hour=0.2),),
                workload=workload,
            ),
            engine=AdapterChoice(name="fake", options={} if predictions == "none" else {"predictions": predictions}),
            runner=AdapterChoice(name="fake", options={"failures": failures or {}, "seconds": seconds}),
            slos=bounds,
            objectives=tuple(Objective(MetricRef.parse(text)) for text in objectives),
            search=SearchOptions(budget=budget or Budget(trials=trials), sampler=sampler, confirmations=confirmations),
            plan=TrialPlan(workload=workload, slos=bounds),
            storage=storage or f"sqlite:///{folder / 'study.db'}",
        )

    return make

"""The meta-learned sampler: it profits from earlier tasks, and wrong ones do no lasting harm."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import optuna
import pytest

from tuner.errors import UsageError
from tuner.metric import MetricRef
from tuner.objective import Objective
from tuner.parameter import DEVICE, Config, Parameter, Scale
from tuner.slo import Slo
from tuner.space import Space
from tuner.strategies.candidates import Candidates
from tuner.strategies.history import OUTCOME, distributions, outcome_to_json
from tuner.strategies.listed_problem import EarlierTask
from tuner.strategies.meta import MetaSampler
from tuner.trial import Estimate, Measurement

SPACE = Space(
    parameters=(
        Parameter(name=DEVICE, values=("gpu",), default="gpu"),
        Parameter(name="batch", values=(1, 2, 4, 8, 16, 32), default=1, scale=Scale.LOG),
        Parameter(name="instances", values=(1, 2, 3, 4), default=1, scale=Scale.LINEAR),
    )
)
OBJECTIVE = Objective(MetricRef.parse("throughput"))
SLO = Slo.parse("p99(latency) <= 100 ms")


def measured(config: Config, size: float) -> dict[str, float]:
    batch, instances = float(config["batch"]), float(config["instances"])
    latency = size * 0.004 * (2.0 + batch) * instances**0.6
    return {"throughput": batch * instances / latency, "p99(latency)": latency}


def earlier(size: float, sign: float = 1.0, space: Space = SPACE) -> EarlierTask:
    candidates = Candidates.of(space)
    configs = [candidates.config(at) for at in range(len(candidates))]
    values = [measured(config, size) for config in configs]
    return EarlierTask(
        name=(str(size),),
        rows=tuple(tuple(space.complete(config).values()) for config in configs),
        ran=np.ones(len(configs), bool),
        objective=np.array([value["throughput"] ** sign for value in values]),
        constraints=np.array([[value["p99(latency)"] ** sign] for value in values]),
    )


def steps_to_best(tasks: tuple[EarlierTask, ...], seed: int = 0, space: Space = SPACE) -> int:
    candidates = Candidates.of(space)
    gains = []
    for at in range(len(candidates)):
        values = measured(candidates.config(at), 1.0)
        gains.append(values["throughput"] if values["p99(latency)"] <= 0.1 else -np.inf)
    study = optuna.create_study(
        direction="maximize", sampler=MetaSampler(candidates, [OBJECTIVE], [SLO], seed, earlier=tasks)
    )
    for step in range(1, len(candidates) + 1):
        trial = study.ask(distributions(space))
        config = space.config({name: trial.params[name] for name in space.names})
        values = measured(config, 1.0)
        trial.set_user_attr(
            OUTCOME, outcome_to_json(Measurement(metrics={k: Estimate.exact(v) for k, v in values.items()}))
        )
        study.tell(trial, values["throughput"])
        position = candidates.position(config)
        assert position is not None
        if gains[position] >= 0.95 * max(gains):
            return step
    raise AssertionError("the best was never asked")


def test_good_earlier_tasks_lead_to_the_best_at_once() -> None:
    # The default is always the first trial.
    assert steps_to_best((earlier(0.8), earlier(1.3))) <= 3


def test_of_more_configurations_than_are_drawn_jointly_the_best_is_found_as_soon() -> None:
    many = Parameter(name="instances", values=tuple(range(1, 25)), default=1, scale=Scale.LINEAR)
    space = Space(parameters=(*SPACE.parameters[:-1], many))
    assert steps_to_best(tuple(earlier(size, space=space) for size in (0.8, 0.9, 1.1)), space=space) <= 3


def test_reversed_earlier_tasks_do_no_lasting_harm() -> None:
    assert steps_to_best((earlier(0.8, -1.0), earlier(1.3, -1.0))) <= 16


def test_two_objectives_are_refused() -> None:
    with pytest.raises(UsageError, match="one objective"):
        MetaSampler(Candidates.of(SPACE), [OBJECTIVE, OBJECTIVE])


@pytest.mark.parametrize(("speed", "asked"), [(4.0, "new"), (0.2, "old")])
def test_a_device_never_tried_is_ranked_by_its_descriptors(speed: float, asked: str) -> None:
    speeds = {"old": 1.0, "better": 2.0, "toy": 0.25, "new": speed}
    tried, devices = ("old", "better", "toy"), ("old", "new")
    space = Space(
        parameters=(
            Parameter(name=DEVICE, values=devices, default="old"),
            Parameter(name="batch", values=(1, 4, 16), default=1, scale=Scale.LOG),
        )
    )

    def throughput(device: str, batch: float, size: float) -> float:
        return speeds[device] * batch**0.5 / size

    tasks = tuple(
        EarlierTask(
            name=(str(size),),
            rows=tuple((device, batch) for device in tried for batch in (1, 4, 16)),
            ran=np.ones(9, bool),
            objective=np.array([throughput(device, batch, size) for device in tried for batch in (1, 4, 16)]),
            constraints=np.zeros((9, 0)),
        )
        for size in (0.7, 1.0, 1.6)
    )
    descriptors = {DEVICE: {name: (speed, speed) for name, speed in speeds.items()}}
    sampler = MetaSampler(Candidates.of(space), [OBJECTIVE], earlier=tasks, descriptors=descriptors)
    study = optuna.create_study(direction="maximize", sampler=sampler)
    first = study.ask(distributions(space))
    value = throughput("old", 1.0, 1.2)
    first.set_user_attr(OUTCOME, outcome_to_json(Measurement(metrics={"throughput": Estimate.exact(value)})))
    study.tell(first, value)
    assert study.ask(distributions(space)).params[DEVICE] == asked


def test_an_earlier_task_that_compares_nothing_changes_nothing() -> None:
    whole = earlier(0.8)
    flat = replace(whole, objective=np.full_like(whole.objective, 3.0))
    assert not flat.compares
    assert steps_to_best((flat,)) == steps_to_best(())

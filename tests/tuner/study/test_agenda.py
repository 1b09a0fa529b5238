"""The agenda: whatever happens to trials, a study ends with its budget, and nothing is searched twice."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

from hypothesis import given
from hypothesis import strategies as st

from tuner.device import DeviceType
from tuner.metric import MetricRef
from tuner.objective import Objective
from tuner.parameter import Config
from tuner.ports import ModelSource, ServingTask
from tuner.slo import Slo
from tuner.strategies.history import Kind
from tuner.study.agenda import MAX_ATTEMPTS, MAX_CHALLENGERS, Run, Search, Stop, next_step
from tuner.study.definition import AdapterChoice, Budget, SearchOptions, Study
from tuner.study.record import State, TrialRecord
from tuner.trial import Estimate, Infeasible, Measurement, Outcome, Phases, Reason, TrialPlan
from tuner.workload import ClosedLoop, TemplateShapes, Workload

SLO = Slo.parse("p99(latency) <= 100 ms")
PHASES = Phases(start_s=1.0, load_s=2.0)


def config(number: int) -> Config:
    return Config({"device": "cpu", "number": number})


DEFAULT = config(0)


def study(trials: int, confirmations: int) -> Study:
    workload = Workload(arrival=ClosedLoop(clients=1), requests=TemplateShapes())
    return Study(
        name="study",
        task=ServingTask(
            model=ModelSource(name="model"),
            devices=(DeviceType(name="cpu", price_per_hour=1.0),),
            workload=workload,
        ),
        engine=AdapterChoice(name="fake"),
        runner=AdapterChoice(name="fake"),
        slos=(SLO,),
        objectives=(Objective(MetricRef.parse("throughput")),),
        search=SearchOptions(budget=Budget(trials=trials), confirmations=confirmations),
        plan=TrialPlan(workload=workload),
        storage="",
    )


def measured(throughput: float, latency: float) -> Measurement:
    metrics = {"throughput": Estimate.exact(throughput), "p99(latency)": Estimate.exact(latency)}
    return Measurement(metrics=metrics, phases=PHASES)


outcomes = st.one_of(
    st.builds(measured, st.floats(1.0, 100.0), st.floats(0.01, 0.2)),
    st.sampled_from([Infeasible(reason=reason, message="", phases=PHASES) for reason in Reason]),
)
ends = st.one_of(outcomes, st.sampled_from([State.INTERRUPTED, State.FAULT]))


def play(plan: Study, ended: Callable[[], Outcome | State]) -> tuple[list[TrialRecord], str]:
    """Carries a study out, each trial ending as `ended` says."""
    records: list[TrialRecord] = []
    for _ in range(500):
        step = next_step(records, plan, DEFAULT, None)
        if isinstance(step, Stop):
            return records, step.reason
        kind = Kind.SEARCH if isinstance(step, Search) else step.kind
        asked = config(len({r.config for r in records})) if isinstance(step, Search) else step.config
        end = ended()
        state = end if isinstance(end, State) else State.DONE
        records.append(
            TrialRecord(
                number=len(records),
                kind=kind,
                state=state,
                config=asked,
                outcome=None if isinstance(end, State) else end,
                fault="the machine went down" if isinstance(end, State) else "",
            )
        )
    raise AssertionError("the study does not end")


@given(st.data(), st.integers(1, 8), st.integers(0, 3))
def test_study_ends_with_its_budget_and_searches_nothing_twice(
    data: st.DataObject, trials: int, confirmations: int
) -> None:
    records, reason = play(study(trials, confirmations), lambda: data.draw(ends))
    done = [r for r in records if r.kind is Kind.SEARCH and r.state is State.DONE]
    assert len(done) == trials
    assert set(Counter(r.config for r in done).values()) == {1}
    assert reason == f"budget of {trials} trials spent"


@given(st.data(), st.integers(1, 3))
def test_confirmation_is_bounded_whatever_the_repeats_say(data: st.DataObject, confirmations: int) -> None:
    records, _ = play(study(6, confirmations), lambda: data.draw(outcomes))
    repeats = [r for r in records if r.kind is Kind.CONFIRM]
    assert len({r.config for r in repeats} - {DEFAULT}) <= MAX_CHALLENGERS
    assert max(Counter(r.config for r in repeats).values(), default=0) <= confirmations


def test_configuration_that_takes_the_machine_down_is_left_alone_after_a_few_attempts() -> None:
    cut = [
        TrialRecord(number=i, kind=Kind.SEARCH, state=State.INTERRUPTED, config=config(0), fault="went down")
        for i in range(MAX_ATTEMPTS)
    ]
    assert next_step(cut[:-1], study(3, 0), DEFAULT, None) == Run(config(0), Kind.SEARCH)
    assert next_step(cut, study(3, 0), DEFAULT, None) == Search()


def test_configuration_that_the_user_interrupts_is_tried_again_however_often() -> None:
    cut = [TrialRecord(number=i, kind=Kind.SEARCH, state=State.INTERRUPTED, config=config(0)) for i in range(9)]
    assert next_step(cut, study(3, 0), DEFAULT, None) == Run(config(0), Kind.SEARCH)


def test_repeat_that_the_user_interrupts_is_run_again_however_often() -> None:
    won = TrialRecord(number=0, kind=Kind.SEARCH, state=State.DONE, config=config(0), outcome=measured(10.0, 0.05))
    cut = [TrialRecord(number=i, kind=Kind.CONFIRM, state=State.INTERRUPTED, config=config(0)) for i in range(1, 19)]
    assert next_step([won, *cut], study(1, 1), DEFAULT, None) == Run(config(0), Kind.CONFIRM)


def test_trial_that_another_process_runs_counts_against_the_budget() -> None:
    running = TrialRecord(number=0, kind=Kind.SEARCH, state=State.RUNNING, config=config(0))
    assert isinstance(next_step([running], study(1, 0), DEFAULT, None), Stop)


def test_infeasible_slo_needs_no_confirmation() -> None:
    missed = TrialRecord(number=0, kind=Kind.SEARCH, state=State.DONE, config=config(0), outcome=measured(10.0, 0.5))
    assert isinstance(next_step([missed], study(1, 2), DEFAULT, None), Stop)

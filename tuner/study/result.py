"""What a study has found."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, cast

from tuner.errors import UsageError
from tuner.export.bundle import Deployment, export_files, write_files
from tuner.metric import MetricRef
from tuner.parameter import Config
from tuner.ports import SearchSpace
from tuner.space import Space
from tuner.strategies.prospects import Prospects
from tuner.study.definition import Study
from tuner.study.evidence import Evidence, gain, gather
from tuner.study.forecast_note import ForecastNote
from tuner.study.recommendation import Shortfall, pareto_front, recommended, shortfall
from tuner.study.record import TrialRecord
from tuner.study.stopping import Ended
from tuner.study.study_calibration import Error, StudyCalibration
from tuner.trial import Estimate

if TYPE_CHECKING:
    import pandas


@dataclass(frozen=True, slots=True, kw_only=True)
class Spending:
    """Where the wall time of all runs of a study went, s.

    Attributes:
        wall_s: of the runs of the loop, from process start to end.
        start_s, load_s, stop_s: of their trials.
    """

    wall_s: float
    start_s: float
    load_s: float
    stop_s: float

    @property
    def other_share(self) -> float:
        """Share of the wall time that is neither server start, load nor shutdown."""
        trials = self.start_s + self.load_s + self.stop_s
        return max(0.0, self.wall_s - trials) / self.wall_s if self.wall_s > 0 else 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """What a study has found so far.

    Attributes:
        study: what was tuned.
        study_id: unique id in its storage.
        space: what was searched.
        forecast: how predictions took part; `None` where nothing is known of that.
        engine: its adapter.
        default_config: the engine's default configuration.
        records: every trial.
        ended: why the study ended; `None` while it has not.
        prospects: what more trials may bring, as last believed; `None` where the sampler could not tell.
        earlier: names of the earlier tasks that the search stands on.
        spending: where the wall time went; `None` where unknown.
    """

    study: Study
    study_id: str
    space: Space
    engine: SearchSpace
    default_config: Config
    records: tuple[TrialRecord, ...]
    ended: Ended | None = None
    prospects: Prospects | None = None
    earlier: tuple[str, ...] = ()
    spending: Spending | None = None
    forecast: ForecastNote | None = None

    @property
    def prediction_errors(self) -> list[Error]:
        """How far predictions were off, for the metrics of objectives and bounds that have any."""
        named = [objective.metric for objective in self.study.objectives] + [slo.metric for slo in self.study.slos]
        found = (StudyCalibration(self.space, ref, self.records).error() for ref in dict.fromkeys(named))
        return [error for error in found if error is not None]

    @property
    def stop_reason(self) -> str:
        """Why the study ended, in words; empty while it has not."""
        return "" if self.ended is None else self.ended.reason

    @property
    def best(self) -> Evidence | None:
        """The recommended configuration with its trials; `None` where none meets the SLO.

        With two objectives, the one of the Pareto front that is best on the first.
        """
        if len(self.study.objectives) == 1:
            return recommended(self.records, self.study.slos, self.study.objectives[0])
        return next(iter(self.front), None)

    @property
    def default(self) -> Evidence | None:
        """The engine's default with its trials; `None` where it was not measured."""
        return gather(self.records).get(self.default_config)

    @property
    def front(self) -> list[Evidence]:
        """Configurations that meet the SLO and that no other beats on every objective."""
        return pareto_front(self.records, self.study.slos, self.study.objectives)

    @property
    def gain(self) -> Estimate | None:
        """How many times better the best is than the default on the first objective."""
        best, default = self.best, self.default
        return None if best is None or default is None else gain(best, default, self.study.objectives[0])

    @property
    def shortfall(self) -> Shortfall | None:
        """Which bounds fail and by how much, where no configuration meets the SLO."""
        return shortfall(self.records, self.study.slos)

    @property
    def trials(self) -> pandas.DataFrame:
        """One row per trial: number, kind, state, parameters, metrics (by name, base units), excess, times.

        Of a trial that ended early, `ended_early` says which of its metrics are bounds.
        """
        import pandas as pd  # slow to import, and no part of a run needs it

        rows = []
        for record in self.records:
            row: dict[str, object] = {"number": record.number, "kind": record.kind.value, "state": record.state.value}
            row |= {f"param:{name}": value for name, value in record.config.values.items()}
            row["reason"] = record.failure.reason.value if record.failure else record.fault
            row["holds"] = record.holds(self.study.slos)
            row["ended_early"] = "" if record.ended_early is None else str(record.ended_early)
            if record.observed is not None:
                row |= {str(ref): value for ref, value in record.observed.values().items()}
                row |= {f"excess:{bound}": value for bound, value in record.excess(self.study.slos).items()}
            phases = record.phases
            row |= {"start_s": phases.start_s, "load_s": phases.load_s, "stop_s": phases.stop_s}
            rows.append(row)
        return pd.DataFrame(rows)

    def export(self, form: str, path: Path | str, config: Config | None = None) -> list[Path]:
        """Writes the best configuration (or `config`) for deployment.

        Args:
            form: `json`, `yaml`, `env`, `compose`, or one of the engine's own (`triton`, `vllm-args`, `script`).
            path: file to write for a format of one file, otherwise a folder.
            config: another measured configuration.

        Returns:
            The files written.

        Raises:
            UsageError: no configuration meets the SLO and none was given, or the format is unknown.
        """
        return write_files(self.files(form, config), Path(path))

    def files(self, form: str, config: Config | None = None) -> Mapping[str, str]:
        """What `export` would write, by relative path; raises what it raises."""
        chosen = gather(self.records).get(config) if config is not None else self.best
        if config is None and chosen is None:
            raise UsageError(
                "No configuration meets the SLO, so there is none to recommend. Export a trial by its number instead."
            )
        deployment = Deployment(
            study=self.study.name,
            engine_name=self.study.engine.name,
            engine=self.engine,
            task=self.study.task,
            config=chosen.config if chosen is not None else cast(Config, config),
            metrics=metric_values(chosen),
        )
        return export_files(deployment, form)


def metric_values(evidence: Evidence | None) -> dict[str, float]:
    """Every metric of a configuration over its trials, by name, in base units."""
    if evidence is None:
        return {}
    names = {name for record in evidence.records if (m := record.measurement) for name in m.metrics}
    found = {name: evidence.estimate(MetricRef.parse(name)) for name in sorted(names)}
    return {name: estimate.value for name, estimate in found.items() if estimate is not None}


def spending(sessions: Sequence[Mapping[str, float | str]]) -> Spending | None:
    """Where the time of all runs went; `None` before the first has been recorded."""
    if not sessions:
        return None
    parts = {
        name: math.fsum(float(session[name]) for session in sessions)
        for name in ("wall_s", "start_s", "load_s", "stop_s")
    }
    return Spending(**parts)

"""Predictions in the loop: made while the first server starts, they guide the search and are kept with every trial."""

from __future__ import annotations

from typing import Final

import numpy as np

from tuner.metric import MetricRef
from tuner.parameter import Config
from tuner.ports import SearchSpace
from tuner.strategies.candidates import Candidates
from tuner.strategies.guidance import Guidance, PredictedMeans
from tuner.study.definition import Study
from tuner.study.forecast import Forecast, try_forecast
from tuner.study.forecast_note import ForecastNote
from tuner.trial import Estimate

OPENINGS: Final = 2
"""Best predicted configurations that are tried right after the default."""


class Foresight:
    """What the performance model says of a study that runs; nothing, and why, where it cannot say anything.

    Args:
        study: what is tuned.
        engine: its adapter.
        candidates: every valid configuration.
    """

    def __init__(self, study: Study, engine: SearchSpace, candidates: Candidates) -> None:
        self._study, self._candidates = study, candidates
        self._forecast: Forecast | None = None
        if study.search.predictions:
            self._forecast, silence = try_forecast(study, engine, candidates)
        else:
            silence = "the study does without (predictions: false)"
        self.note = self._noted(silence)

    @property
    def refs(self) -> tuple[MetricRef, ...]:
        """Metrics that objectives and bounds name."""
        named = [objective.metric for objective in self._study.objectives]
        return tuple(dict.fromkeys(named + [slo.metric for slo in self._study.slos]))

    def predicted(self, config: Config) -> dict[str, Estimate] | None:
        """What is predicted of those metrics, uncalibrated; `None` where nothing is."""
        metrics = None if self._forecast is None else self._forecast.metrics_of(config)
        if metrics is None:
            return None
        named = {str(ref): metrics[str(ref)] for ref in self.refs if str(ref) in metrics}
        return named or None

    def guidance(self, openings: int = OPENINGS) -> Guidance:
        """What a sampler is told."""
        if self._forecast is None:
            return Guidance()
        try:
            return self._guidance(self._forecast, openings)
        except Exception as error:  # as in `try_forecast`: no trial depends on what is predicted
            self._forecast = None
            self.note = self._noted(f"{type(error).__name__}: {error}")
            return Guidance()

    def _guidance(self, forecast: Forecast, openings: int) -> Guidance:
        means = None
        if self._candidates.complete and len(forecast.positions) == len(self._candidates):
            logs = {ref: found for ref in self.refs if (found := forecast.log_values(ref)) is not None}
            varied = {ref: found for ref, found in logs.items() if np.isfinite(found).any()}
            means = PredictedMeans(space=forecast.space, rows=forecast.rows(), logs=varied)
        return Guidance(
            openings=forecast.openings(openings), excluded=forecast.positions[forecast.excluded()], means=means
        )

    def _noted(self, silence: str) -> ForecastNote:
        if self._forecast is None:
            return ForecastNote(silence=silence)
        surely = {each.reason: each.count for each in self._forecast.exclusions() if each.surely}
        return ForecastNote(
            looked_at=len(self._forecast.positions), excluded=surely, origins=dict(self._forecast.origins)
        )

"""The plot of a comparison: everything in it can be seen."""

from __future__ import annotations

from xml.etree import ElementTree

import pytest

from tuner.bench.regret_plot import regret_plot
from tuner.bench.score import StrategySummary

SVG = "{http://www.w3.org/2000/svg}"


def summary(task: str, strategy: str) -> StrategySummary:
    nothing = dict.fromkeys(("median", "p90", "worst", "mean", "median_1", "p90_1", "worst_1", "mean_1"), 1.0)
    return StrategySummary(
        task=task, strategy=strategy, replays=1, reached=(), regret=(1.0, 0.0), moved=0.0, suggest_s=0.0, **nothing
    )


@pytest.mark.parametrize("tasks", [1, 2, 5])
def test_every_strategy_is_named_within_the_picture_in_a_colour_of_its_own(tasks: int) -> None:
    names = [f"strategy_{at}" for at in range(10)]
    plot = ElementTree.fromstring(regret_plot([summary(f"<{at}>", name) for at in range(tasks) for name in names]))
    legend = {text.text: text for text in plot.findall(f"{SVG}text")}
    assert set(legend) == set(names)
    assert len({(text.get("x"), text.get("y")) for text in legend.values()}) == len(names)
    for text in legend.values():
        assert float(text.get("x", "nan")) + 80 <= float(plot.get("width", "nan"))
        assert float(text.get("y", "nan")) <= float(plot.get("height", "nan"))
    assert len({mark.get("fill") for mark in plot.findall(f"{SVG}rect")[1:]}) == len(names)

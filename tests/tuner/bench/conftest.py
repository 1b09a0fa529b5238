"""A small recorded data set to replay: throughput and latency over batch size and instances, for four models."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

TASK = """\
name: small
data: [data/grid.csv]
group_by: [model]
parameters:
  kind: {type: categorical}
  batch: {type: ordinal, scale: log2}
  instances: {type: ordinal, scale: linear}
objective: {expr: rate / instances, direction: maximize}
constraints:
  - {expr: latency, upper: 40}
feasible: ran == 1
min_rows: 4
"""


Edit = Callable[[str], str]


@pytest.fixture
def write_grid(tmp_path: Path) -> Callable[..., Path]:
    """Writes `data/grid.csv` and `tasks/small.yaml` with edits; returns the task file."""

    def write(edit_task: Edit = str, edit_data: Edit = str) -> Path:
        (tmp_path / "data").mkdir(exist_ok=True)
        (tmp_path / "tasks").mkdir(exist_ok=True)
        (tmp_path / "data" / "grid.csv").write_text(edit_data(_grid()), encoding="utf-8")
        path = tmp_path / "tasks" / "small.yaml"
        path.write_text(edit_task(TASK), encoding="utf-8")
        return path

    return write


def _grid() -> str:
    lines = ["model,kind,batch,instances,rate,latency,ran"]
    for number, model in enumerate(("ant", "bee", "cat", "dog")):
        work = 1.0 + 0.3 * number
        for kind, speed in (("small", 1.0), ("large", 2.2)):
            for batch in (1, 2, 4, 8, 16):
                for instances in (1, 2, 3):
                    latency = work * (3.0 + 2.0 * batch * instances**0.8) / speed
                    rate = 1000.0 * batch * instances / latency
                    ran = int(batch * instances * work <= 40)
                    lines.append(f"{model},{kind},{batch},{instances},{rate:.3f},{latency:.3f},{ran}")
    return "\n".join(lines) + "\n"

"""Makes the starter library of earlier tasks (tuner/priors/starter) from the task files beside this script.

python benchmarks/replay/starter.py
"""

from __future__ import annotations

import gzip
import re
from pathlib import Path

import numpy as np

from tuner.bench.recorded_task import RecordedTask, load_recorded
from tuner.bench.task_file import TaskFile, read_task_file
from tuner.priors.prior_task import PriorTask, PriorTrial

HERE = Path(__file__).resolve().parent
OUT = HERE.parents[1] / "tuner" / "priors" / "starter"
SOURCES = {
    "parvagpu_50ms": ("ParvaGPU (SC 2024), github.com/MunQ-Lee/ParvaGPU_SC24", "MIT"),
    "ibm_llm_usd": ("LLM-Pilot (SC 2024), github.com/IBM/LLM-performance-prediction", "CDLA-Permissive-2.0"),
    "llm_bench_accelerators": ("LLM-Inference-Bench, github.com/argonne-lcf/LLM-Inference-Bench", "BSD-3-Clause"),
    "scout_cost": ("Scout, github.com/oxhead/scout", "MIT"),
}


def prior_of(task_file: TaskFile, task: RecordedTask) -> PriorTask:
    """A recorded group as a prior, its metrics under the names of their expressions."""
    names = [parameter.name for parameter in task_file.parameters]
    metrics = [task_file.objective.text, *(bound.name for bound in task_file.bounds)]
    source, licence = SOURCES[task_file.name]
    trials = []
    for at, row in enumerate(task.rows):
        values = [float(task.objective[at]), *map(float, task.constraints[at])]
        measured = dict(zip(metrics, values, strict=True)) if task.ran[at] and np.isfinite(values).all() else {}
        trials.append(PriorTrial(config=dict(zip(names, row, strict=True)), metrics=measured))
    label = re.sub(r"[^A-Za-z0-9._@+-]+", "_", "-".join([task_file.name, *map(str, task.name)]))
    return PriorTask(
        name=label,
        source=source,
        licence=licence,
        parameters={parameter.name: parameter.scale for parameter in task_file.parameters},
        trials=tuple(trials),
        features=task.features,
    )


def main() -> None:
    """Writes one file per group."""
    OUT.mkdir(exist_ok=True)
    for name in SOURCES:
        data = load_recorded(read_task_file(HERE / "tasks" / f"{name}.yaml"))
        for task in data.tasks:
            prior = prior_of(data.task_file, task)
            # No time stamp, so that the same data gives the same file.
            (OUT / f"{prior.name}.json.gz").write_bytes(gzip.compress(prior.to_json().encode(), mtime=0))


if __name__ == "__main__":
    main()

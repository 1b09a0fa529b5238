"""What the simulator costs: starting, with its compiled code on disk, and per request.

    python -m benchmarks.simulator_cost ../shared/models/meta-llama--Llama-3.1-8B-Instruct

Each start is a process of its own, which simulates one request: its stages are the simulator's imports, reading model
and tables, and the first simulation, which loads what was compiled. The first process is not counted: it may compile.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tuner.performance.simulation.deployment import Deployment, ModelOnDevice

STARTS = 7
REQUESTS = 5000
RATES_RPS = (6.0, 20.0)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", type=Path)
    parser.add_argument("--one", action="store_true", help="be one of the processes")
    arguments = parser.parse_args()
    if arguments.one:
        print(json.dumps(one_start(arguments.model)))
        return
    command = [sys.executable, "-m", "benchmarks.simulator_cost", str(arguments.model), "--one"]
    starts = [json.loads(subprocess.check_output(command)) for _ in range(STARTS + 1)][1:]
    for stage in starts[0]:
        times_s = sorted(start[stage] for start in starts)
        print(f"{stage:32} median {times_s[STARTS // 2]:.2f} s, {times_s[0]:.2f} to {times_s[-1]:.2f}")
    per_request(arguments.model)


def one_start(path: Path) -> dict[str, float]:
    """Seconds by stage."""
    began = time.perf_counter()
    from tuner.performance.simulation.deployment import simulate_deployment

    imported = time.perf_counter()
    model, deployment = whole(path)
    from benchmarks.simulated_deployments import poisson

    read = time.perf_counter()
    simulate_deployment(poisson(1.0, 1), deployment, model)
    done = time.perf_counter()
    # The second time nothing is loaded: what remains is the table of step times.
    simulate_deployment(poisson(1.0, 1), deployment, model)
    again = time.perf_counter() - done
    return {
        "imports": imported - began,
        "model and operator tables": read - imported,
        "step times of the model": again,
        "first simulation": done - read - again,
        "imports and first simulation": imported - began + done - read - again,
        "all": done - began,
    }


def per_request(path: Path) -> None:
    from benchmarks.simulated_deployments import poisson
    from tuner.performance.simulation.deployment import simulate_deployment

    model, deployment = whole(path)
    nothing_s = cpu_s(partial(simulate_deployment, poisson(1.0, 1), deployment, model))
    for rate_rps in RATES_RPS:
        requests = poisson(rate_rps, REQUESTS)
        whole_s = cpu_s(partial(simulate_deployment, requests, deployment, model))
        print(f"{rate_rps:g} requests/s: {1e3 * (whole_s - nothing_s) / REQUESTS:.4f} CPU-ms per request")


def cpu_s(run: Callable[[], object]) -> float:
    """CPU-seconds, the least of five."""
    found = []
    for _ in range(5):
        began = time.process_time()
        run()
        found.append(time.process_time() - began)
    return min(found)


def whole(path: Path) -> tuple[ModelOnDevice, Deployment]:
    """One engine on an H100."""
    from benchmarks.simulated_deployments import INPUTS, OUTPUTS, on_device
    from tuner.performance.simulation.engine_settings import read_settings

    model = on_device(path, "h100_sxm", INPUTS + OUTPUTS)
    return model, read_settings({}, model.graph, model.table.hardware)


if __name__ == "__main__":
    main()

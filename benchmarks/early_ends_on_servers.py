"""What ending hopeless trials early saves on real servers under real load.

The server is tests/search_spaces/batching_server.py with 1 to 8 threads and 5 to 40 ms of work for a request: 16
configurations, of which most miss the bound. Each study is carried out with and without early ends.

    python benchmarks/early_ends_on_servers.py --trials 12
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Final

import tuner

SERVER: Final = Path(__file__).resolve().parents[1] / "tests" / "search_spaces" / "batching_server.py"
STUDY: Final = """
model: ./model.bin
engine:
  name: command
  command:
    [{python}, "{{scratch}}/server.py", "--listen={{host}}:{{port}}", "--settings={{scratch}}/s.conf", "--keep-alive"]
  files:
    s.conf: "threads = {{threads}}\\nwork_ms = {{work}}\\n"
    server.py: {{source: {server}}}
  parameters:
    threads: {{values: [1, 2, 4, 8], scale: log, default: 4}}
    work: {{values: [5, 10, 20, 40], scale: log, default: 10}}
  health: {{path: /, deadline: 60 s}}
devices:
  - {{name: cpu, cpus: 1, price: 0.10 USD/h}}
workload:
  arrival: {arrival}
  requests: {{template: {{path: /predict, body: {{inputs: [1]}}, expect: outputs}}}}
slo: {slo}
objective: {objective}
search: {{budget: {{trials: {trials}}}, stop: never, confirmations: 1, priors: none}}
runner: process
"""
WORKLOADS: Final = {
    "closed": ("{clients: 8}", "p99(latency) <= 30 ms", "throughput"),
    "open": ("{rate: 80 rps}", "p99(latency) <= 60 ms", "mean(latency)"),
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=12, help="budget of each study")
    parser.add_argument("--workloads", nargs="*", choices=list(WORKLOADS), default=list(WORKLOADS))
    arguments = parser.parse_args()
    for name in arguments.workloads:
        for early_end in (True, False):
            with tempfile.TemporaryDirectory() as folder:
                told = carried_out(name, early_end, arguments.trials, Path(folder))
            print(f"{name}, {'early ends' if early_end else 'in full'}: {told}", flush=True)
    return 0


def carried_out(name: str, early_end: bool, trials: int, folder: Path) -> str:
    """The study of a workload, in words."""
    arrival, slo, objective = WORKLOADS[name]
    folder.joinpath("model.bin").touch()
    path = folder / f"{name}.yaml"
    path.write_text(
        STUDY.format(python=sys.executable, server=SERVER, arrival=arrival, slo=slo, objective=objective, trials=trials)
    )
    study = tuner.load_study(path)
    result = tuner.tune(replace(study, search=replace(study.search, early_end=early_end)))
    best = "none" if result.best is None else dict(result.best.config.values)
    ended = sum(record.ended_early is not None for record in result.records)
    return (
        f"load {sum(record.phases.load_s for record in result.records):.0f} s in {len(result.records)} trials, "
        f"{ended} ended early, best {best}"
    )


if __name__ == "__main__":
    sys.exit(main())

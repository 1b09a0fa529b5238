"""How often a search that stops by its own belief is right: from the `beliefs.jsonl` of a replay that spent its budget.

tune bench replay benchmarks/replay/tasks/*.yaml --strategies meta --seeds 5 --leave-out app,service,model --out out
python benchmarks/replay/stop_calibration.py out/beliefs.jsonl
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from statistics import median
from typing import Any

FEWEST_TRIALS = (1, 5, 10)


def runs_of(path: Path) -> dict[str, dict[tuple[Any, ...], list[dict[str, Any]]]]:
    """By task file, by replay: what was believed after each step, in order."""
    found: dict[str, dict[tuple[Any, ...], list[dict[str, Any]]]] = {}
    for line in path.read_text(encoding="utf-8").splitlines():
        belief = json.loads(line)
        key = (belief["strategy"], belief["seed"], *belief["group"])
        found.setdefault(belief["task"], {}).setdefault(key, []).append(belief)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("beliefs", type=Path, nargs="+")
    parser.add_argument("--probability", type=float, default=0.95)
    options = parser.parse_args()
    print("task                       fewest trials   stopped   of them within 5 %   median trials")
    for fewest in FEWEST_TRIALS:
        stopped_in_all, right_in_all, runs_in_all = 0, 0, 0
        for path in options.beliefs:
            for task, runs in runs_of(path).items():
                stops = [
                    next((b for b in run if b["step"] >= fewest and b["within"] >= options.probability), None)
                    for run in runs.values()
                ]
                stopped = [stop for stop in stops if stop is not None]
                right = sum(stop["right"] for stop in stopped)
                share = f"{right / len(stopped):.0%}" if stopped else "-"
                trials = f"{median(stop['step'] for stop in stopped):g}" if stopped else "-"
                print(f"{task:26} {fewest:13} {f'{len(stopped)}/{len(runs)}':>9} {share:>20} {trials:>15}")
                stopped_in_all, right_in_all = stopped_in_all + len(stopped), right_in_all + right
                runs_in_all += len(runs)
        share = f"{right_in_all / max(stopped_in_all, 1):.0%}"
        print(f"{'all':26} {fewest:13} {f'{stopped_in_all}/{runs_in_all}':>9} {share:>20}")


if __name__ == "__main__":
    main()

"""The memory rule of the engine vllm on CPUs, against containers of limited memory.

Starts the study's default configuration with every memory and cache size, with as little load as shows that it
serves, and prints which ran and which the rule refuses.

    python benchmarks/memory_rule.py study.yaml --memory 1GiB 2GiB 3GiB 4GiB --cache-gib 1 2
"""

from __future__ import annotations

import argparse
import secrets
import sys
from dataclasses import replace
from pathlib import Path

import tuner
from tuner.study import adapters
from tuner.study.space import study_space
from tuner.trial import Attempt, Infeasible, Reason
from tuner.units import Dimension, format_bytes, parse_quantity


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("study", type=Path, help="of a model on vllm, with one device type of CPUs")
    parser.add_argument("--memory", nargs="+", default=["1GiB", "2GiB", "3GiB", "4GiB"])
    parser.add_argument("--cache-gib", nargs="+", type=int, default=[1, 2])
    arguments = parser.parse_args()
    study = adapters.with_runner_resolved(tuner.load_study(arguments.study))
    engine = adapters.search_space(study.engine.name, study.engine.options)
    runner = adapters.runner(study.runner.name, study.runner.options)
    plan = replace(study.plan, warmup_s=0.5, windows=2, window_s=0.5)
    wrong = refused_of_oom = out_of_memory = 0
    generous = study_space(study, engine)
    for text in arguments.memory:
        device = replace(study.task.devices[0], memory_bytes=round(parse_quantity(text, Dimension.BYTES)))
        task = replace(study.task, devices=(device,))
        for cache_gib in arguments.cache_gib:
            config = generous.config({**generous.complete(generous.default), "kv_cache_gib": cache_gib})
            refusals = engine.space(task).violations(config)
            attempt = Attempt(study_id="memory-rule", trial=0, token=secrets.token_hex(8))
            outcome = runner.run(engine.launch(task, config, runner.target), device, plan, attempt, lambda _: None)
            ran = not isinstance(outcome, Infeasible)
            short = isinstance(outcome, Infeasible) and outcome.reason is Reason.OUT_OF_MEMORY
            wrong += ran and bool(refusals)
            out_of_memory += short
            refused_of_oom += short and bool(refusals)
            said = "ran" if not isinstance(outcome, Infeasible) else f"{outcome.reason.value}: {outcome.message[:90]}"
            print(
                f"{format_bytes(device.memory_bytes or 0):>9}, cache {cache_gib} GiB: "
                f"{'refused' if refusals else 'let through'}; {said}",
                flush=True,
            )
    print(f"ran though refused: {wrong}; refused of those out of memory: {refused_of_oom} of {out_of_memory}")
    return 0


if __name__ == "__main__":
    sys.exit(main())

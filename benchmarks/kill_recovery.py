"""Kills `tune run` at random moments and runs the same command again, until the study has ended.

Checked after every kill: no container and no process of the study is left a few seconds later. Checked
after every run: every trial that had finished is still there, unchanged. Checked at the end: no
configuration was searched twice, and the budget was spent exactly.

    python benchmarks/kill_recovery.py examples/quickstart/study.yaml --kills 20
"""

from __future__ import annotations

import argparse
import os
import random
import secrets
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path

import docker
import docker.errors
import optuna
import psutil
import sqlalchemy.exc

import tuner
from tuner.strategies.history import Kind
from tuner.study import adapters
from tuner.study.record import State, TrialRecord

CLEANED_WITHIN_S = 10.0
_MARK = "KILL_RECOVERY_MARK"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("study", type=Path)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--latest", type=float, default=20.0, help="kill at the latest this long after the start, s")
    parser.add_argument("--trials", type=int, default=12)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    moments = random.Random(arguments.seed)
    text = arguments.study.read_text()
    faults: list[str] = []
    with tempfile.TemporaryDirectory(dir=arguments.study.parent.resolve()) as folder:
        file = Path(folder, "study.yaml")
        file.write_text(text.replace("model: ../../", "model: ../../../"))
        study = tuner.load_study(file)
        study = adapters.with_runner_resolved(replace(study, storage=f"sqlite:///{Path(folder, 'study.db')}"))
        file.write_text(file.read_text() + f"\nstorage: sqlite:///{Path(folder, 'study.db')}\n")
        command = [
            sys.executable,
            "-m",
            "tuner.cli.main",
            "run",
            str(file),
            "--plain",
            "--trials",
            str(arguments.trials),
        ]
        marked = {**os.environ, _MARK: secrets.token_hex(8)}
        before: dict[int, TrialRecord] = {}
        kills = 0
        while True:
            process = subprocess.Popen(
                command, start_new_session=True, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, env=marked
            )
            delay = moments.uniform(0.3, arguments.latest) if kills < arguments.kills else None
            try:
                _, errors = process.communicate(timeout=delay)
            except subprocess.TimeoutExpired:
                os.kill(process.pid, signal.SIGKILL)
                process.wait()
                kills += 1
                faults += leftovers(study, marked[_MARK])
            records = recorded(study)
            faults += [f"trial {n} was finished and is {records.get(n)}" for n in before if records.get(n) != before[n]]
            before = {n: record for n, record in records.items() if record.state is State.DONE}
            how = "ended by itself" if process.returncode >= 0 else f"killed after {delay:.1f} s"
            print(f"kill {kills}: {how}, {len(before)} finished", flush=True)
            if process.returncode >= 0:
                if process.returncode not in (0, 3):
                    faults.append(f"exit code {process.returncode}: {errors.decode()[-500:]}")
                break
        searched = Counter(r.config for r in before.values() if r.kind is Kind.SEARCH)
        faults += [f"run twice: {config}" for config, count in searched.items() if count > 1]
        if sum(searched.values()) != arguments.trials:
            faults.append(f"{sum(searched.values())} trials for a budget of {arguments.trials}")
    print(f"{kills} kills, {len(before)} finished trials, {len(faults)} faults")
    for fault in faults:
        print(f"  {fault}")
    return 1 if faults else 0


def recorded(study: tuner.Study) -> dict[int, TrialRecord]:
    """The trials by number; none before the study has been made."""
    try:
        return {record.number: record for record in tuner.load_result(study).records}
    except tuner.TunerError:
        return {}


def leftovers(study: tuner.Study, mark: str) -> list[str]:
    """What of the killed run is still there after a few seconds."""
    deadline = time.monotonic() + CLEANED_WITHIN_S
    while True:
        left = [f"container {name} left behind" for name in _containers(study)]
        left += [f"process {name} left behind" for name in _processes(mark)]
        if not left or time.monotonic() > deadline:
            return left
        time.sleep(0.25)


def _containers(study: tuner.Study) -> list[str]:
    try:
        study_id = optuna.load_study(study_name=study.name, storage=study.storage).user_attrs["study_id"]
        client = docker.from_env()
        label = f"serving-tuner.study={study_id}"
        return [str(c.name) for c in client.containers.list(all=True, filters={"label": label}, ignore_removed=True)]
    except (KeyError, sqlalchemy.exc.SQLAlchemyError, docker.errors.DockerException):
        return []


def _processes(mark: str) -> list[str]:
    """Processes that inherited the environment of the killed run: servers, load generators, guardians."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.environ().get(_MARK) == mark and process.status() != psutil.STATUS_ZOMBIE:
                found.append(f"{process.pid}: {' '.join(process.cmdline())[:80]}")
        except psutil.Error:
            continue
    return found


if __name__ == "__main__":
    sys.exit(main())

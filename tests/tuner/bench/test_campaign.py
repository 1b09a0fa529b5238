"""The replay command: what it writes, that it resumes, and what it refuses."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from multiprocessing import active_children
from pathlib import Path

import pytest

from tuner.bench.campaign import CampaignData, CampaignPlan, run_campaign
from tuner.bench.history import History, HistoryKind
from tuner.bench.replay import ReplayOptions
from tuner.bench.task_file import read_task_file
from tuner.cli.bench import main
from tuner.cli.main import main as tune
from tuner.errors import UsageError

FIELDS = ["task", "group", "strategy", "seed", "step", "config", "row", "objective", "holds", "ran", "suggest_s"]


def _lines(folder: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in (folder / "evaluations.jsonl").read_text().splitlines()]


def test_every_evaluation_is_written_as_documented(write_grid: Callable[..., Path], tmp_path: Path) -> None:
    path, out = write_grid(), tmp_path / "out"
    assert main(["replay", str(path), "--strategies", "random,portfolio", "--budget", "5", "--out", str(out)]) == 0
    lines = _lines(out)
    assert len(lines) == 2 * 4 * 5
    assert all(list(line) == FIELDS for line in lines)
    rows = (tmp_path / "data" / "grid.csv").read_text().splitlines()[1:]
    for line in lines:
        model, kind, batch, instances, rate, latency, ran = rows[int(str(line["row"]))].split(",")
        assert line["group"] == [model]
        assert line["config"] == {"kind": kind, "batch": int(batch), "instances": int(instances)}
        assert line["ran"] == (ran == "1")
        assert line["holds"] == (ran == "1" and float(latency) <= 40)
        assert line["objective"] == (pytest.approx(float(rate) / int(instances)) if ran == "1" else None)
    assert {path.name for path in out.iterdir()} >= {"summary.txt", "summary.json", "regret.svg"}


def test_an_interrupted_campaign_goes_on_where_it_was_left(write_grid: Callable[..., Path], tmp_path: Path) -> None:
    arguments = ["replay", str(write_grid()), "--strategies", "random", "--budget", "4", "--seeds", "2"]
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    main([*arguments, "--out", str(whole)])
    main([*arguments, "--out", str(cut)])
    for name in ("evaluations.jsonl", "moves.jsonl"):
        text = (cut / name).read_text()
        (cut / name).write_text(
            text[: len(text) // 2].rpartition("\n")[0] + ('\n{"task": "sm' if "eval" in name else "\n")
        )
    main([*arguments, "--out", str(cut)])

    def untimed(folder: Path) -> list[tuple[object, ...]]:
        return sorted((str(line["group"]), line["seed"], line["step"], line["row"]) for line in _lines(folder))

    assert untimed(cut) == untimed(whole)


def test_logs_give_a_strategy_only_what_its_earlier_studies_left(
    write_grid: Callable[..., Path], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    arguments = ["--strategies", "portfolio", "--history", "logs:6", "--budget", "8", "--seeds", "3", "--out", str(out)]
    assert main(["replay", str(write_grid()), *arguments]) == 0
    assert len(_lines(out)) == 3 * 4 * 8
    assert json.loads((out / "summary.json").read_text())[0]["replays"] == 3 * 2


def test_targets_from_other_files_have_all_groups_but_their_own_as_earlier_tasks(
    write_grid: Callable[..., Path], tmp_path: Path
) -> None:
    path, out, other = write_grid(), tmp_path / "out", tmp_path / "other.csv"
    other.write_text((tmp_path / "data" / "grid.csv").read_text().replace("ant,", "gnu,"), encoding="utf-8")
    assert main(["replay", str(path), "--strategies", "portfolio", "--targets", str(other), "--out", str(out)]) == 0
    assert {tuple(line["group"]) for line in _lines(out)} == {("gnu",), ("bee",), ("cat",), ("dog",)}  # type: ignore[arg-type]
    plan = CampaignPlan(
        strategies=("random",), seeds=1, history=History(HistoryKind.FULL), targets=(other,), options=ReplayOptions()
    )
    data = CampaignData.load(read_task_file(path), plan)
    earlier = {task.name[0]: [each.name[0] for each in data.earlier_than(task)] for task in data.targets.tasks}
    assert earlier["gnu"] == ["ant", "bee", "cat", "dog"]
    assert earlier["bee"] == ["ant", "cat", "dog"]


@pytest.mark.parametrize(
    "arguments",
    [
        ["--strategies", "mata"],
        ["--seeds", "0"],
        ["--history", "logs:0"],
        ["--history", "some"],
        ["--targets", "nowhere.csv"],
        ["--noise", "-1"],
        ["--until", "2"],
    ],
)
def test_misuse_is_exit_code_2_and_writes_nothing(
    write_grid: Callable[..., Path], tmp_path: Path, arguments: list[str]
) -> None:
    out = tmp_path / "out"
    assert main(["replay", str(write_grid()), *arguments, "--out", str(out)]) == 2
    assert not out.exists()


def test_results_of_other_settings_are_not_joined(write_grid: Callable[..., Path], tmp_path: Path) -> None:
    path, out = write_grid(), tmp_path / "out"
    assert main(["replay", str(path), "--strategies", "random", "--budget", "3", "--out", str(out)]) == 0
    assert main(["replay", str(path), "--strategies", "random", "--budget", "4", "--out", str(out)]) == 2


def test_results_of_an_edited_task_file_are_not_joined(write_grid: Callable[..., Path], tmp_path: Path) -> None:
    arguments = ["--strategies", "random", "--budget", "3", "--out", str(tmp_path / "out")]
    assert main(["replay", str(write_grid()), *arguments]) == 0
    edited = write_grid(lambda text: text.replace("  kind: {type: categorical}\n", ""))
    assert main(["replay", str(edited), *arguments]) == 2
    assert main(["replay", str(write_grid(lambda text: f"says: the same\n{text}")), *arguments]) == 0


def test_damaged_results_are_done_again_and_a_damaged_plan_is_refused(
    write_grid: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    arguments = ["replay", str(write_grid()), "--strategies", "random", "--budget", "3", "--out", str(out)]
    assert main(arguments) == 0
    for name in ("evaluations.jsonl", "moves.jsonl"):
        (out / name).write_bytes((out / name).read_bytes() + b'5\n{"task": "small"}\n\x84\xff\n')
    assert main(arguments) == 0
    assert len(_lines(out)) == 4 * 3
    (out / "plan.json").write_text("[]")
    assert main(arguments) == 2
    assert "plan.json is damaged" in capsys.readouterr().err


def test_an_out_that_is_a_file_is_misuse(
    write_grid: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write_grid()
    assert main(["replay", str(path), "--strategies", "random", "--out", str(path)]) == 2
    assert "is no folder" in capsys.readouterr().err


def test_processes_do_not_change_the_result(write_grid: Callable[..., Path], tmp_path: Path) -> None:
    path = write_grid()
    for jobs in ("1", "2"):
        arguments = ["--strategies", "random", "--budget", "4", "--jobs", jobs, "--out", str(tmp_path / jobs)]
        assert main(["replay", str(path), *arguments]) == 0
    one, two = (
        [line.split()[:7] for line in (tmp_path / jobs / "summary.txt").read_text().splitlines()] for jobs in "12"
    )
    assert one == two
    rows = [{(str(e["group"]), e["step"]): e["row"] for e in _lines(tmp_path / jobs)} for jobs in ("1", "2")]
    assert rows[0] == rows[1]


def test_what_the_disk_refuses_is_a_failure_that_names_the_place(
    write_grid: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "out" / "beliefs.jsonl").mkdir(parents=True)
    arguments = ["bench", "replay", str(write_grid()), "--strategies", "random", "--out", str(tmp_path / "out")]
    assert tune(arguments) == 1
    assert "beliefs.jsonl: Is a directory" in " ".join(capsys.readouterr().err.split())


def test_a_folder_has_one_run_at_a_time_and_an_interruption_waits_for_no_process(
    write_grid: Callable[..., Path], tmp_path: Path
) -> None:
    plan = CampaignPlan(
        strategies=("random", "meta"), seeds=300, history=History(HistoryKind.FULL), options=ReplayOptions(budget=20)
    )
    data = CampaignData.load(read_task_file(write_grid()), plan)
    running = run_campaign([data], plan, tmp_path / "out", jobs=2)
    next(running)
    with pytest.raises(UsageError, match="Another run is writing"):
        next(run_campaign([data], plan, tmp_path / "out", jobs=1))
    processes, started = active_children(), time.monotonic()
    running.close()
    for process in processes:
        process.join(10.0)
    assert processes
    assert time.monotonic() - started < 10.0

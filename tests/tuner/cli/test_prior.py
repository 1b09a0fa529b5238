"""`tune prior` and `tune run` together: what one study found, the next one begins with."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tuner.cli.main import main
from tuner.priors.library import PriorLibrary
from tuner.testing.fakes import installed

STUDY = """\
model: model.onnx
engine: fake
devices: [{name: cpu-4, cpus: 4}]
workload:
  arrival: {clients: 32}
  requests: {template: {path: /infer}}
slo: [p99(latency) <= 200 ms]
objective: throughput
search:
  space: {dynamic_batching: true, queue_delay_us: 0, precision: fp16}
  budget: {trials: 5}
  confirmations: 0
runner: {name: fake}
"""


@pytest.fixture
def study(tmp_path: Path) -> Iterator[Path]:
    (tmp_path / "model.onnx").write_bytes(b"a model")
    file = tmp_path / "study.yaml"
    file.write_text(STUDY)
    with installed():
        yield file


def test_what_is_added_is_listed_shown_used_exported_imported_and_removed(
    study: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["prior", "add", str(study)]) == 2
    assert main(["run", str(study)]) == 0
    assert main(["prior", "add", str(study), "--name", "first"]) == 0
    capsys.readouterr()
    assert main(["prior", "list", "--json"]) == 0
    mine = [entry for entry in json.loads(capsys.readouterr().out) if entry["kind"] == "library"]
    assert [(entry["name"], entry["engine"], entry["trials"]) for entry in mine] == [("first", "fake", 5)]
    assert main(["prior", "show", "first"]) == 0
    assert "engine      fake" in capsys.readouterr().out

    second = tmp_path / "second.yaml"
    second.write_text(STUDY.replace("clients: 32", "clients: 40").replace("trials: 5", "trials: 2"))
    assert main(["check", str(second)]) == 0
    assert "the search stands on 1 earlier task: first (5 trials)" in capsys.readouterr().out
    assert main(["run", str(second), "--json"]) == 0
    out, err = capsys.readouterr()
    assert "the search stands on 1 earlier task: first (5 trials)" in err
    result = json.loads(out)
    assert [task["name"] for task in result["earlier_tasks"]] == ["first"]
    assert 0 <= result["prospects"]["probability_within"] <= 1
    assert result["stop_rule"] == "budget"
    assert main(["show", str(second)]) == 0
    shown = capsys.readouterr().out
    assert "budget of 2 trials spent" in shown
    assert "\noutlook    within 5% of the best with probability" in shown
    assert "\nearlier    first" in shown

    file = tmp_path / "first.json"
    assert main(["prior", "export", "first", str(file)]) == 0
    assert main(["prior", "remove", "first"]) == 0
    assert main(["prior", "import", str(file)]) == 0
    assert main(["prior", "import", str(file)]) == 2
    third = tmp_path / "third.yaml"
    third.write_text(STUDY.replace("confirmations: 0", "priors: ./first.json").replace("trials: 5", "trials: 1"))
    capsys.readouterr()
    assert main(["run", str(third)]) == 0
    assert "stands on 1 earlier task" in capsys.readouterr().err
    assert main(["run", str(second), "--priors", "none", "--trials", "3", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["earlier_tasks"] == []
    assert main(["run", str(second), "--priors", str(tmp_path / "absent.json")]) == 2


@pytest.mark.parametrize(
    ("search", "words"),
    [
        ("priors: ./absent.json", "absent.json cannot be read"),
        ("priors: ./new.json", "version 2"),
        ("stop: sometimes", "Write never"),
        ("stop: {tolerance: 0%}", "tolerance of 0%"),
        ("stop: {after: 0}", "below 1"),
    ],
)
def test_what_cannot_be_used_is_a_fault_of_the_file(
    study: Path, capsys: pytest.CaptureFixture[str], search: str, words: str
) -> None:
    study.with_name("new.json").write_text('{"version": 2, "name": "new", "parameters": {}, "trials": []}')
    study.write_text(STUDY.replace("confirmations: 0", search))
    assert main(["run", str(study)]) == 2
    assert words in capsys.readouterr().err


def test_a_damaged_prior_is_listed_as_unreadable_and_stops_no_study(
    study: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = PriorLibrary().folder
    folder.mkdir(parents=True)
    (folder / "broken.json").write_text("{")
    assert main(["prior", "list"]) == 0
    (line,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("broken ")]
    assert "unreadable" in line
    assert "broken.json holds no prior" in line
    assert main(["prior", "list", "--json"]) == 0
    (entry,) = [each for each in json.loads(capsys.readouterr().out) if each["kind"] == "unreadable"]
    assert entry["name"] == "broken"
    assert "broken.json" in entry["problem"]
    assert main(["check", str(study)]) == 0
    capsys.readouterr()
    study.write_text(STUDY.replace("trials: 5", "trials: 1"))
    assert main(["run", str(study)]) == 0
    assert "tune prior remove broken" in " ".join(capsys.readouterr().err.split())

"""The commands: results to stdout, words to stderr, exit codes that scripts can rely on."""

from __future__ import annotations

import importlib.metadata
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tuner.cli.main import main
from tuner.testing.fakes import installed

STUDY = """\
model: model.onnx
engine: fake
devices:
  - {name: cpu-4, cpus: 4, price: 0.2 USD/h}
workload:
  arrival: {clients: 32}
  requests: {template: {path: /infer}}
slo: [p99(latency) <= 200 ms]
objective: throughput
search: {budget: {trials: 4}, sampler: random, confirmations: 1}
runner: {name: fake}
"""


@pytest.fixture
def study(tmp_path: Path) -> Iterator[Path]:
    (tmp_path / "model.onnx").write_bytes(b"a model")
    file = tmp_path / "study.yaml"
    file.write_text(STUDY)
    with installed():
        yield file


def test_run_prints_the_winner_beside_the_default(study: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", str(study)]) == 0
    out, err = capsys.readouterr()
    assert out.startswith("study: 4 trials")
    assert "\nbest " in out
    assert "\ngain " in out or "is the best configuration found" in out
    assert "trial 0:" in err


def test_json_goes_to_stdout_alone_and_is_complete(study: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", str(study), "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["best"]["holds"] is True
    assert result["best"]["metrics"]["throughput"]["origin"] == "measured"
    assert len([trial for trial in result["trials"] if trial["kind"] == "search"]) == 4


def test_run_again_measures_nothing_more(study: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["run", str(study)])
    first = capsys.readouterr().out.splitlines()
    assert main(["run", str(study)]) == 0
    out, err = capsys.readouterr()
    assert "trial " not in err.replace("finished trial", "")
    assert out.splitlines()[1:3] == first[1:3]


def test_unattainable_slo_has_an_exit_code_of_its_own(study: Path, capsys: pytest.CaptureFixture[str]) -> None:
    study.write_text(STUDY.replace("200 ms", "1 us"))
    assert main(["run", str(study)]) == 3
    out = capsys.readouterr().out
    assert "no configuration meets the SLO" in out
    assert "nearest" in out
    assert "fails everywhere" in out


def test_faulty_study_file_is_misuse(study: Path, capsys: pytest.CaptureFixture[str]) -> None:
    study.write_text(STUDY.replace("objective: throughput", "objectiv: throughput").replace("200 ms", "200 parsec"))
    assert main(["check", str(study)]) == 2
    err = capsys.readouterr().err
    assert "2 faults" in err or "3 faults" in err
    assert "parsec" in err
    assert "'objectiv'" in err


def test_check_says_how_large_the_space_is(study: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", str(study)]) == 0
    assert "1,132 valid configurations" in capsys.readouterr().out


def test_show_and_export_read_what_run_stored(study: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["show", str(study)]) == 2
    main(["run", str(study)])
    capsys.readouterr()
    assert main(["show", str(study)]) == 0
    assert "best" in capsys.readouterr().out
    assert main(["export", str(study), "--format", "json"]) == 0
    assert json.loads(capsys.readouterr().out)["engine"] == "fake"
    assert main(["export", str(study), "--format", "fake", "--output", str(tmp_path / "out"), "--trial", "0"]) == 0
    assert (tmp_path / "out" / "fake.conf").exists()
    assert main(["export", str(study), "--trial", "99"]) == 2


def test_schema_is_json_and_init_passes_the_check_but_for_its_model(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["schema"]) == 0
    assert json.loads(capsys.readouterr().out)["type"] == "object"
    file = tmp_path / "new.yaml"
    assert main(["init", "--engine", "triton", "--output", str(file)]) == 0
    assert main(["init", "--engine", "triton", "--output", str(file)]) == 2
    capsys.readouterr()
    assert main(["check", str(file)]) == 2
    assert "1 fault" in capsys.readouterr().err


def test_termination_closes_the_running_trial_and_the_study_goes_on(study: Path) -> None:
    study.write_text(STUDY.replace("{name: fake}", "{name: fake, seconds: 3}"))
    with installed() as adapters:
        command = [sys.executable, "-c", "import sys; from tuner.cli.main import main; sys.exit(main())", "run"]
        process = subprocess.Popen(
            [*command, str(study)],
            env={**os.environ, "PYTHONPATH": str(adapters)},
            stderr=subprocess.PIPE,
            text=True,
        )
        assert process.stderr is not None
        for line in process.stderr:
            if line.startswith("trial 0"):
                break
        process.send_signal(signal.SIGTERM)
        rest = process.stderr.read()
        process.stderr.close()
        assert process.wait(timeout=30) == 130
    assert "goes on from here" in rest
    study.write_text(STUDY)
    assert main(["run", str(study), "--json"]) == 0


def test_version_is_that_of_the_distribution(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["--version"])
    assert ended.value.code == 0
    assert capsys.readouterr().out == f"tune {importlib.metadata.version('serving-tuner')}\n"


@pytest.mark.parametrize("words", [["--version"], ["run", "--help"]], ids=" ".join)
def test_what_tunes_nothing_imports_nothing_for_it(words: list[str]) -> None:
    code = (
        "import sys\nfrom tuner.cli.main import main\n"
        f"try:\n    main({words!r})\nexcept SystemExit:\n    pass\n"
        "print([name for name in ('torch', 'optuna', 'pandas', 'scipy', 'sqlalchemy') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.splitlines()[-1] == "[]"

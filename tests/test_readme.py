"""The README's promises: its Python runs, its commands exist."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tuner.cli.main import build_parser
from tuner.testing.fakes import installed

README = Path(__file__).parents[1].joinpath("README.md").read_text()

STUDY = """\
model: model.onnx
engine: fake
devices: [{name: cpu-4, cpus: 4, price: 0.2 USD/h}]
workload: {arrival: {clients: 32}, requests: {template: {path: /infer}}}
slo: [p99(latency) <= 200 ms]
objective: throughput
search: {budget: {trials: 4}, sampler: random, confirmations: 0}
runner: fake
"""


def test_library_example_runs_as_it_stands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (example,) = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    (tmp_path / "study.yaml").write_text(STUDY)
    (tmp_path / "model.onnx").write_bytes(b"a model")
    monkeypatch.chdir(tmp_path)
    with installed():
        exec(compile(example, "README.md", "exec"), {})
    assert (tmp_path / "deploy/compose.yaml").exists()


def test_commands_that_the_readme_shows_parse() -> None:
    lines = [line.split(" #")[0].split(" > ")[0].strip() for line in README.splitlines()]
    commands = [line.split()[1:] for line in lines if line.startswith("tune ")]
    assert len(commands) >= 6
    for command in commands:
        build_parser().parse_args(command)


def test_every_link_leads_somewhere() -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", README):
        assert "://" in target or Path(__file__).parents[1].joinpath(target).exists(), target

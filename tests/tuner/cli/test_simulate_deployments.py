"""`tune simulate --requests` of several engines: settings as people write them, and what is told of them."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest

from tuner.cli.main import main

DENSE: dict[str, Any] = {
    "model_type": "llama", "vocab_size": 32000, "hidden_size": 4096, "intermediate_size": 14336,
    "num_hidden_layers": 32, "num_attention_heads": 32, "num_key_value_heads": 8, "max_position_embeddings": 8192,
}  # fmt: skip
EXPERTS: dict[str, Any] = {
    "model_type": "qwen3_moe", "vocab_size": 32000, "hidden_size": 2048, "intermediate_size": 6144,
    "num_hidden_layers": 48, "num_attention_heads": 32, "num_key_value_heads": 4, "head_dim": 128,
    "num_experts": 128, "num_experts_per_tok": 8, "moe_intermediate_size": 768, "max_position_embeddings": 8192,
}  # fmt: skip
WORKERS = ("prefill_workers=2", "decode_workers=1")


@pytest.fixture
def models(tmp_path: Path) -> Path:
    for name, config in (("dense", DENSE), ("experts", EXPERTS)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text(json.dumps(config))
    rows = "".join(f"{place / 10},500,20\n" for place in range(40))
    (tmp_path / "trace.csv").write_text("arrival_s,input_tokens,output_tokens\n" + rows)
    return tmp_path


def simulated(models: Path, model: str, *settings: str, json: bool = True) -> int:
    arguments = ["simulate", "--requests", str(models / "trace.csv"), "--model", str(models / model)]
    arguments += ["--device", "h100_sxm", "--out", str(models / "out.csv"), *(["--json"] if json else [])]
    return main([*arguments, *(["--set", *settings] if settings else [])])


@pytest.mark.parametrize(
    ("model", "settings", "told"),
    [
        ("dense", (), {"gpus": 1, "data_parallel_size": 1, "enable_expert_parallel": False}),
        ("dense", ("data_parallel_size=2", "tensor_parallel_size=2"), {"gpus": 4, "data_parallel_size": 2}),
        ("experts", ("data_parallel_size=2",), {"gpus": 2, "enable_expert_parallel": False}),
        (
            "experts",
            ("data_parallel_size=2", "enable_expert_parallel=true"),
            {"gpus": 2, "data_parallel_size": 2, "enable_expert_parallel": True},
        ),
        (
            "dense",
            (*WORKERS, "decode_tensor_parallel_size=2"),
            {"gpus": 4, "prefill_workers": 2, "decode_workers": 1, "decode_tensor_parallel_size": 2},
        ),
    ],
)
def test_every_request_is_served_and_the_summary_says_by_what(
    models: Path, capsys: pytest.CaptureFixture[str], model: str, settings: tuple[str, ...], told: dict[str, object]
) -> None:
    assert simulated(models, model, *settings) == 0
    summary = json.loads(capsys.readouterr().out)
    assert {name: summary[name] for name in told} == told
    assert (summary["requests"], summary["refused"]) == (40, 0)
    with (models / "out.csv").open(newline="") as file:
        assert all(float(row["e2e_s"]) > float(row["ttft_s"]) for row in csv.DictReader(file))


@pytest.mark.parametrize(
    ("model", "settings"),
    [
        ("dense", ()),
        ("dense", ("data_parallel_size=2",)),
        ("experts", ("data_parallel_size=2", "enable_expert_parallel=true")),
        ("dense", WORKERS),
    ],
)
@pytest.mark.parametrize(("limit", "warns"), [("max_model_len=1000", True), ("num_gpu_blocks_override=50", False)])
def test_what_is_too_long_is_refused_by_any_number_of_engines(
    models: Path, capsys: pytest.CaptureFixture[str], model: str, settings: tuple[str, ...], limit: str, warns: bool
) -> None:
    with (models / "trace.csv").open("a") as file:
        file.write("1.05,900,101\n")
    assert simulated(models, model, *settings, limit) == 0
    out, err = capsys.readouterr()
    summary = json.loads(out)
    assert (summary["requests"], summary["refused"]) == (41, 1)
    assert ("900 + 101 tokens" in err) == warns
    with (models / "out.csv").open(newline="") as file:
        assert [row["input_tokens"] for row in csv.DictReader(file) if not row["e2e_s"]] == ["900"]


@pytest.mark.parametrize(
    "setting", ["gpu_memory_utilization=nan", "gpu_memory_utilization=1.5", "block_size=1.5", "max_num_seqs=inf"]
)
def test_numbers_out_of_range_are_misuse(models: Path, capsys: pytest.CaptureFixture[str], setting: str) -> None:
    name, value = setting.split("=")
    assert simulated(models, "dense", setting) == 2
    assert f"{name} is '{value}'. Write a" in capsys.readouterr().err


def test_switches_are_printed_as_they_are_written(models: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert simulated(models, "experts", "data_parallel_size=2", "enable_expert_parallel=true", json=False) == 0
    lines = dict(line.split() for line in capsys.readouterr().out.splitlines())
    assert (lines["gpus"], lines["enable_expert_parallel"]) == ("2", "true")


@pytest.mark.parametrize(
    ("model", "settings", "told"),
    [
        ("dense", ("enable_expert_parallel=true",), "dense has no experts. Leave it out"),
        ("dense", ("enable_expert_parallel=yes",), "enable_expert_parallel is 'yes'. Write true or false"),
        ("dense", ("data_parallel_size=0",), "data_parallel_size is '0'. Write a whole number from 1"),
        ("dense", ("tensor_parallel_size=3",), "32 attention heads, which 3 GPUs do not share evenly"),
        (
            "dense",
            ("tensor_parallel_size=16",),
            "tensor_parallel_size is 16, but a node of NVIDIA H100 SXM5 80GB has 8",
        ),
        ("experts", ("data_parallel_size=5",), "experts of width 768 are not shared evenly by the 5 GPUs"),
        (
            "experts",
            ("data_parallel_size=3", "enable_expert_parallel=true"),
            "128 experts are not shared evenly by the 3 GPUs",
        ),
        ("dense", ("prefill_workers=2",), "prefill_workers is '2', but there is no decode_workers"),
        ("dense", ("decode_max_num_seqs=8",), "no prefill_workers and no decode_workers"),
        ("dense", (*WORKERS, "data_parallel_size=2"), "data_parallel_size is '2' beside prefill_workers"),
        ("dense", (*WORKERS, "decode_max_num_seqs=0"), "decode_workers: max_num_seqs is '0'"),
        ("dense", (*WORKERS, "prefill_tensor_parallel_size=3"), "prefill_workers: "),
        ("dense", ("prefil_workers=2",), "Did you mean 'prefill_workers'"),
    ],
)
def test_what_cannot_be_is_misuse_with_its_value_and_a_remedy(
    models: Path, capsys: pytest.CaptureFixture[str], model: str, settings: tuple[str, ...], told: str
) -> None:
    assert simulated(models, model, *settings) == 2
    assert told in " ".join(capsys.readouterr().err.split())
    assert not (models / "out.csv").exists()

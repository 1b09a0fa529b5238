"""`tune predict` and `tune simulate` of a study: a model's description is enough for them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.search_spaces.onnx_files import embedder, save
from tuner.cli.main import main

CONFIG = {
    "architectures": ["LlamaForCausalLM"], "model_type": "llama", "torch_dtype": "bfloat16", "vocab_size": 32000,
    "hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32, "num_attention_heads": 32,
    "num_key_value_heads": 8, "max_position_embeddings": 8192, "hidden_act": "silu", "rms_norm_eps": 1e-5,
    "tie_word_embeddings": False,
}  # fmt: skip
STUDY = """
model: ./model
engine: {name: vllm, max_model_len: 4096}
devices:
  - {name: h100, gpus: 1, gpu: H100, price: 4 USD/h}
  - {name: t4, gpus: 1, gpu: T4, price: 0.6 USD/h}
workload: {arrival: {rate: 2 rps}, requests: {tokens: {input: 512, output: 64}}}
slo: [p95(ttft) <= 1 s]
objective: cost_per_million_tokens
search:
  space: {block_size: 16, scheduling_policy: fcfs, dtype: bfloat16, quantization: none, kv_cache_dtype: auto}
  budget: {trials: 3}
"""


@pytest.fixture
def study(tmp_path: Path) -> Path:
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text(json.dumps(CONFIG))
    path = tmp_path / "study.yaml"
    path.write_text(STUDY)
    return path


def test_a_configuration_file_alone_is_predicted(study: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["predict", str(study), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["origin"] == "predicted"
    assert found["devices"]["h100"]["best"]
    assert found["devices"]["t4"]["best"] == []
    assert any(each["certain"] and "exceed" in each["reason"] for each in found["ruled_out"])


def test_a_configuration_file_alone_is_simulated(study: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["simulate", str(study), "--set", "max_num_seqs=32", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["origin"] == "simulated"


def test_an_overload_far_beyond_what_is_simulated_shows_what_the_server_can_do(
    study: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = []
    for rate in (500, 100_000):
        study.write_text(STUDY.replace("2 rps", f"{rate} rps"))
        assert main(["simulate", str(study), "--set", "max_num_seqs=32", "--json"]) == 0
        found.append(json.loads(capsys.readouterr().out)["metrics"]["throughput"]["value"])
    assert found[0] == pytest.approx(found[1], rel=0.05)
    assert found[0] > 10.0


def test_what_will_be_started_needs_all_its_files(study: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", str(study)]) == 2
    assert "has no tokenizer" in capsys.readouterr().err


@pytest.mark.parametrize("value", ["nan", "inf", "99999999999999999999"])
def test_a_value_beyond_all_numbers_is_a_fault(study: Path, capsys: pytest.CaptureFixture[str], value: str) -> None:
    assert main(["simulate", str(study), "--set", f"max_num_seqs={value}"]) == 2
    assert f"max_num_seqs: {value} is beyond" in capsys.readouterr().err


def test_a_model_on_which_its_reader_fails_is_a_fault(
    study: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise ValueError("not what was expected")

    monkeypatch.setattr("profilers.huggingface.reader.HuggingFaceReader.read", fail)
    assert main(["predict", str(study)]) == 2
    assert "operators cannot be read" in capsys.readouterr().err


def test_a_batch_larger_than_any_load_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save(embedder(), tmp_path / "model.onnx")
    (tmp_path / "study.yaml").write_text(
        "model: ./model.onnx\nengine: triton\ndevices: [{name: cpu-1, cpus: 1, price: 0.05 USD/h}]\n"
        "workload: {arrival: {rate: 50 rps}}\nobjective: cost_per_million_requests\n"
    )
    assert main(["simulate", str(tmp_path / "study.yaml"), "--set", "max_batch_size=1000000000"]) == 2
    assert "Batches of 1000000000 are larger" in capsys.readouterr().err

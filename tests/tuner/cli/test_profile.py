"""`tune profile`: key operators of every kind of model, and what wrong input gets."""

from __future__ import annotations

import json
import runpy
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from profilers.gpu_probes import gpu_probes
from profilers.microbenchmark import Profile
from profilers.operator_tables import write_operator_tables
from profilers.timing import Timing
from tuner.cli.main import main
from tuner.study.read_model import read_model

EXAMPLE = Path(__file__).resolve().parents[3] / "examples" / "quickstart" / "make_encoder.py"
DENSE = {
    "model_type": "llama", "vocab_size": 512, "hidden_size": 128, "intermediate_size": 192, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 256,
}  # fmt: skip


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = runpy.run_path(str(EXAMPLE), run_name="example")
    shape = made["EncoderShape"](layers=2, hidden=32, heads=4, intermediate=64, vocab=100, positions=64)
    path = tmp_path_factory.mktemp("model") / "encoder.onnx"
    onnx.save(made["encoder"](shape, made["random_weights"](shape)), str(path))
    return path


def config(folder: Path, values: dict[str, object]) -> Path:
    (folder / "config.json").write_text(json.dumps(values))
    return folder


def told(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    code = main(["profile", *arguments])
    out, err = capsys.readouterr()
    return code, out, err


def test_an_interrupted_profile_goes_on_and_shows_the_key_operators(
    encoder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = (str(encoder), "--device", "cpu", "--tokens", "4", "--batch", "1", "--out", str(tmp_path), "--show")
    told(capsys, *asked, "--limit", "0.4")
    journal = next(tmp_path.rglob("journal.jsonl"))
    first = journal.read_text().splitlines()
    code, out, _ = told(capsys, *asked, "--limit", "1")
    assert code == 0
    assert journal.read_text().splitlines()[: len(first)] == first
    assert len(journal.read_text().splitlines()) > len(first) > 1
    assert "operators make up 9" in out or "operators make up 100%" in out
    assert "matmul" in out


@pytest.mark.parametrize("decode", [False, True])
def test_a_device_of_the_catalogue_is_looked_up(
    decode: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    extra = ("--decode",) if decode else ()
    code, out, _ = told(capsys, str(config(tmp_path, DENSE)), "--device", "h100_sxm", "--show", *extra)
    assert code == 0
    assert "operators make up" in out


def test_an_onnx_file_on_a_gpu_of_the_catalogue(encoder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = told(capsys, str(encoder), "--device", "a100_sxm", "--tokens", "16", "--show")
    assert code == 0
    assert "attention" in out or "matmul" in out


def test_profiled_convolutions_are_not_called_bounds(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = convolution(tmp_path / "model.onnx")
    asked = (str(model), "--device", "l4", "--show", "--out", str(tmp_path / "profiles"))
    _, out, _ = told(capsys, *asked)
    assert "~ bounds by the device's rates, not timed: 100.0%" in out
    wanted = [probe for probe in gpu_probes(read_model(model), 128, 8e10) if probe.kind == "convolution"]
    taken = Timing(median_s=1e-3, low_s=1e-3, high_s=1e-3, repeats=5, kernel="made up")
    origin = {"device": "NVIDIA L4", "software": "torch", "date": "2026-11-26"}
    found = Profile(timings=dict.fromkeys(wanted, taken), missing=(), origin=origin)
    write_operator_tables(found, tmp_path / "profiles")
    _, out, _ = told(capsys, *asked)
    assert "1 ms" in out
    assert "not timed" not in out


def convolution(path: Path) -> Path:
    """A file that holds one, of any number of images."""
    weight = numpy_helper.from_array(np.zeros((8, 3, 3, 3), dtype=np.float32), "weight")
    graph = helper.make_graph(
        [helper.make_node("Conv", ["x", "weight"], ["y"])],
        "one",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 3, 16, 16])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 8, 14, 14])],
        [weight],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), str(path))
    return path


def test_a_format_that_the_device_lacks_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    values = {**DENSE, "quantization_config": {"quant_method": "fp8", "weight_block_size": [128, 128]}}
    code, _, err = told(capsys, str(config(tmp_path, values)), "--device", "a100_sxm")
    assert code == 0
    assert "does not multiply in fp8" in err


@pytest.mark.parametrize(
    ("values", "arguments", "words"),
    [
        (DENSE, ("--tokens", "-3"), "is none"),
        (DENSE, ("--batch", "0"), "is none"),
        (DENSE, ("--tokens", "100000"), "256 tokens at most"),
        (DENSE, ("--device", "cpu", "--batch", "99999999"), "Choose a smaller batch"),
        (DENSE, ("--device", "h100_sxm", "--tensor-parallel", "3"), "4 attention heads, which 3 GPUs"),
        (DENSE, ("--device", "h100_sxm", "--tensor-parallel", "0"), "is no shard"),
        (DENSE, ("--device", "h100-sxm"), "h100_sxm"),
        (DENSE, ("--device", "cpu", "--decode"), "not timed on CPUs"),
        (DENSE, ("--device", "cpu", "--threads", "0"), "1 thread or more"),
        (DENSE, ("--device", "cpu", "--limit", "-1"), "more than 0 seconds"),
        ({"model_type": "llama", "hidden_size": 64}, (), "is missing"),
        ({**DENSE, "num_attention_heads": -4}, (), "'num_attention_heads' is -4"),
        ({**DENSE, "hidden_size": "wide"}, (), "'hidden_size' is 'wide'"),
        ({**DENSE, "num_hidden_layers": 1e99}, (), "'num_hidden_layers' is 1e+99"),
        ({**DENSE, "num_hidden_layers": 2_000_000}, (), "10000 or less"),
        ({**DENSE, "hidden_size": float("nan")}, (), "'hidden_size' is nan"),
    ],
)
def test_wrong_input_is_named_and_ends_with_2(
    values: dict[str, object], arguments: tuple[str, ...], words: str, tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    code, _, err = told(capsys, str(config(tmp_path, values)), "--out", str(tmp_path / "out"), *arguments)
    assert code == 2
    assert words in err


@pytest.mark.parametrize("name", ["nowhere", "notes.txt"])
def test_what_no_reader_takes_is_refused(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "notes.txt").write_text("hello")
    code, _, err = told(capsys, str(tmp_path / name))
    assert code == 2
    assert "Give an .onnx file" in err


@pytest.mark.parametrize("content", [b"\xff\xfe\x00damaged", b"[]\n", b'{"format": "serving-tuner profile 1"}\n'])
def test_a_damaged_or_older_journal_is_refused(
    content: bytes, encoder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "torch-cpu-1"
    folder.mkdir()
    (folder / "journal.jsonl").write_bytes(content)
    asked = ("--device", "cpu", "--runtime", "torch", "--tokens", "4", "--batch", "1", "--out", str(tmp_path))
    code, _, err = told(capsys, str(encoder), *asked)
    assert code == 2
    assert "The profile journal" in err
    assert (folder / "journal.jsonl").read_bytes() == content


def test_times_are_said_to_be_kept_only_where_there_are_some(
    encoder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = (str(encoder), "--device", "cpu", "--tokens", "4", "--batch", "1", "--out", str(tmp_path))
    _, _, before = told(capsys, *asked, "--limit", "1e-9")
    assert "nothing was timed within --limit 1e-09" in before
    assert "times are kept" not in before
    _, _, after = told(capsys, *asked, "--limit", "1")
    assert f"times are kept in {tmp_path}" in after


def test_a_model_without_anything_to_time_is_not_offered_more_seconds(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    onnx = pytest.importorskip("onnx")
    ends = [onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, ["n", 4]) for name in "xy"]
    graph = onnx.helper.make_graph([onnx.helper.make_node("Identity", ["x"], ["y"])], "same", ends[:1], ends[1:])
    onnx.save(onnx.helper.make_model(graph), str(tmp_path / "same.onnx"))
    _, out, err = told(capsys, str(tmp_path / "same.onnx"), "--device", "cpu", "--show", "--out", str(tmp_path))
    assert "no operator of this model can be timed" in out
    assert "no operator of this model can be timed" in err

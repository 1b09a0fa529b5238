"""`tune predict --batch` and `tune simulate --requests`: files and settings as people write them."""

from __future__ import annotations

import csv
import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from tuner.cli.main import main

CONFIG: dict[str, Any] = {
    "model_type": "llama", "vocab_size": 32000, "hidden_size": 4096, "intermediate_size": 14336,
    "num_hidden_layers": 32, "num_attention_heads": 32, "num_key_value_heads": 8, "max_position_embeddings": 8192,
}  # fmt: skip
BERT = {**CONFIG, "model_type": "bert", "num_key_value_heads": None}
HEADER = "model_path,system,backend,isl,osl,batch_size,tp_size,attention_dp_size\n"
TRACE = "arrival_s,input_tokens,output_tokens\n"


@pytest.fixture
def models(tmp_path: Path) -> Path:
    damaged = {**CONFIG, "quantization_config": {"quant_method": "fp8", "ignore": ["re:*("]}}
    for name, content in (("good", CONFIG), ("bert", BERT), ("damaged", damaged)):
        folder = tmp_path / "models" / f"org--{name}"
        folder.mkdir(parents=True)
        (folder / "config.json").write_text(json.dumps(content))
    (tmp_path / "models" / "org--deep").mkdir()
    (tmp_path / "models" / "org--deep" / "config.json").write_text("[" * 100_000)
    return tmp_path / "models"


def predicted(models: Path, text: str, *options: str) -> list[dict[str, str]]:
    rows, out = models.parent / "rows.csv", models.parent / "out.csv"
    rows.write_text(text, encoding="utf-8")
    assert main(["predict", "--batch", str(rows), "--out", str(out), "--models", str(models), *options]) == 0
    with out.open(newline="") as file:
        return list(csv.DictReader(file))


def test_a_model_that_cannot_be_read_declines_its_own_rows_only(models: Path) -> None:
    rows = [f"org/{name},h100_sxm,vllm,512,64,4,1,1\n" for name in ("damaged", "deep", "bert", "a" * 300, "good")]
    found = predicted(models, "\ufeff" + HEADER + "".join(rows))
    assert [row["origin"] for row in found] == ["declined"] * 4 + ["predicted"]
    for place, words in ((0, "no regular expression"), (1, "too deeply"), (3, "cannot be read")):
        assert words in found[place]["reason"]
    assert "generates no tokens" in found[2]["reason"]


@pytest.mark.parametrize("size", ["1e300", "-1", "1.5"])
def test_a_size_that_no_deployment_has_is_declined(models: Path, size: str) -> None:
    (row,) = predicted(models, HEADER + f"org/good,h100_sxm,vllm,512,64,4,1,{size}\n")
    assert "attention_dp_size" in row["reason"]


def test_measured_rows_must_say_what_was_measured(models: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = models.parent / "rows.csv"
    rows.write_text(HEADER + "org/good,h100_sxm,vllm,512,64,4,1,1\n")
    out = str(models.parent / "out.csv")
    arguments = ["predict", "--batch", str(rows), "--out", out, "--models", str(models), "--calibrate", str(rows)]
    assert main(arguments) == 2
    assert "no column silicon_ttft_ms" in capsys.readouterr().err


def test_a_damaged_archive_is_refused(models: Path, capsys: pytest.CaptureFixture[str]) -> None:
    packed = bytearray(gzip.compress((HEADER + "org/good,h100_sxm,vllm,512,64,4,1,1\n" * 999).encode()))
    packed[40:60] = b"\x55" * 20
    path = models.parent / "rows.csv.gz"
    path.write_bytes(packed)
    out = models.parent / "out.csv"
    assert main(["predict", "--batch", str(path), "--out", str(out), "--models", str(models)]) == 2
    assert "cannot be read as CSV" in capsys.readouterr().err
    assert not out.exists()


def simulated(models: Path, trace: str, *settings: str, model: str = "good") -> int:
    path = models.parent / "trace.csv.gz"
    path.write_bytes(gzip.compress(("\ufeff" + trace).encode()))
    place = str(models / f"org--{model}")
    options = ["--model", place, "--device", "h100_sxm", "--out", str(models.parent / "out.csv")]
    return main(["simulate", "--requests", str(path), *options, *(f"--set={setting}" for setting in settings)])


def test_requests_that_arrive_at_once_are_all_served(models: Path) -> None:
    assert simulated(models, TRACE + "0,100,10\n" * 3, "max_num_seqs=2") == 0
    with (models.parent / "out.csv").open(newline="") as file:
        assert all(float(row["e2e_s"]) > 0 for row in csv.DictReader(file))


def test_requests_longer_than_the_engine_takes_are_named_and_refused_and_the_others_served(
    models: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    trace = TRACE + "0,100,10\n1,91,10\n2,500,1\n3,90,10\n"
    assert simulated(models, trace, "max_model_len=100") == 0
    out, err = capsys.readouterr()
    assert "3 of 4 requests are longer than max_model_len, 100 tokens" in err
    assert "at 0 s, 100 + 10 tokens; at 1 s, 91 + 10 tokens; at 2 s, 500 + 1 tokens" in err
    assert [line.split()[1] for line in out.splitlines() if line.startswith("refused")] == ["3"]
    with (models.parent / "out.csv").open(newline="") as file:
        assert [bool(row["e2e_s"]) for row in csv.DictReader(file)] == [False, False, False, True]


def test_requests_that_are_all_longer_than_the_model_takes_are_misuse(
    models: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    too_long = CONFIG["max_position_embeddings"] + 1
    assert simulated(models, TRACE + f"0,{too_long},1\n") == 2
    assert f"max_model_len, {CONFIG['max_position_embeddings']} tokens" in " ".join(capsys.readouterr().err.split())


def test_all_values_that_are_none_are_told_at_their_lines(models: Path, capsys: pytest.CaptureFixture[str]) -> None:
    trace = TRACE + "nan,10,10\n0,0,10\n\n1,10,-1\n2,10\n3,1e300,1.5\n4,5,6\n"
    assert simulated(models, trace) == 2
    told = " ".join(capsys.readouterr().err.split())
    for fault in (
        "line 2: arrival_s is 'nan'", "line 3: input_tokens is '0'", "line 5: output_tokens is '-1'",
        "line 6: output_tokens is ''", "line 7: input_tokens is '1e300'", "line 7: output_tokens is '1.5'",
    ):  # fmt: skip
        assert fault in told


@pytest.mark.parametrize(
    "setting",
    [
        "max_num_seqs=nan", "max_num_seqs=1e18", "max_num_seqs=0", "block_size=0", "block_size=inf", "max_model_len=0",
        "gpu_memory_utilization=nan", "gpu_memory_utilization=1.5", "kv_cache_dtype=fp9",
        "num_gpu_blocks_override=1e300",
    ],
)  # fmt: skip
def test_a_value_that_a_setting_cannot_have_is_refused(
    models: Path, capsys: pytest.CaptureFixture[str], setting: str
) -> None:
    assert simulated(models, TRACE + "0,100,10\n", setting) == 2
    assert f"{setting.partition('=')[0]} is '" in capsys.readouterr().err


@pytest.mark.parametrize("model", ["bert", "damaged", "deep"])
def test_a_model_that_cannot_be_simulated_is_refused(models: Path, model: str) -> None:
    assert simulated(models, TRACE + "0,100,10\n", model=model) == 2


def test_an_empty_trace_is_refused(models: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert simulated(models, "") == 2
    assert "has no column arrival_s" in capsys.readouterr().err


def test_a_setting_is_given_once(models: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert simulated(models, TRACE + "0,100,10\n", "max_num_seqs=2", "max_num_seqs=4") == 2
    assert "gives max_num_seqs as '2' and as '4'" in capsys.readouterr().err


@pytest.mark.parametrize("place", ["missing/out.csv", "models"])
def test_a_result_without_a_place_is_misuse_before_anything_is_read(
    models: Path, capsys: pytest.CaptureFixture[str], place: str
) -> None:
    out = ["--out", str(models.parent / place)]
    assert main(["predict", "--batch", "none.csv", "--models", str(models), *out]) == 2
    assert main(["simulate", "--requests", "none.csv", "--model", "none", "--device", "h100_sxm", *out]) == 2
    assert capsys.readouterr().err.count("folder") == 2


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_disk_is_a_failure(models: Path) -> None:
    rows = models.parent / "rows.csv"
    rows.write_text(HEADER + "org/good,h100_sxm,vllm,512,64,4,1,1\n")
    assert main(["predict", "--batch", str(rows), "--models", str(models), "--out", "/dev/full"]) == 1


@pytest.mark.parametrize(
    "arguments",
    [
        ["predict", "study.yaml", "--out", "out.csv"],
        ["predict", "study.yaml", "--models", "."],
        ["simulate", "study.yaml", "--out", "out.csv"],
        ["simulate", "study.yaml", "--engine", "sglang"],
    ],
)
def test_an_option_that_a_study_has_no_use_for_is_refused(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == 2
    assert f"{arguments[2]} belongs to --" in capsys.readouterr().err


def test_a_column_that_is_there_twice_is_refused(models: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert simulated(models, "arrival_s,arrival_s,input_tokens,output_tokens\n5,0,10,10\n") == 2
    assert "more than one column arrival_s" in capsys.readouterr().err


def test_rows_longer_than_their_header_are_refused_with_their_lines(
    models: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    row = "org/good,h100_sxm,vllm,512,64,4,1,1"
    rows, out = models.parent / "rows.csv", models.parent / "out.csv"
    rows.write_text(HEADER + f"{row},,\n{row},,7\n{row}\n")
    assert main(["predict", "--batch", str(rows), "--out", str(out), "--models", str(models)]) == 2
    assert "has 8 columns, but line 3 has 10 cells. Quote" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("measured", "told"),
    [
        ("", "no measured row is of a model to predict"),
        ("other/model,h100_sxm,vllm,512,64,4,1,1,9,9\n", "no measured row is of a model to predict"),
        ("org/good,h100_sxm,vllm,512,0,4,1,1,9,9\n", "1 of 1 measured rows tell nothing; the first: osl is 0"),
        ("org/good,h100_sxm,vllm,512,64,4,1,1,-5,n/a\n", "tell nothing; the first: neither silicon_ttft_ms nor"),
    ],
)
def test_measured_rows_that_tell_nothing_are_told(
    models: Path, capsys: pytest.CaptureFixture[str], measured: str, told: str
) -> None:
    path = models.parent / "measured.csv"
    path.write_text(HEADER.strip() + ",silicon_ttft_ms,silicon_tpot_ms\n" + measured)
    predicted(models, HEADER + "org/good,h100_sxm,vllm,512,64,4,1,1\n", "--calibrate", str(path))
    assert told in capsys.readouterr().err

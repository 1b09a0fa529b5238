"""The quickstart's encoder is a BERT encoder."""

from __future__ import annotations

import runpy
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest

SCRIPT = Path(__file__).parents[2] / "examples" / "quickstart" / "make_encoder.py"


@pytest.fixture(scope="module")
def script() -> dict[str, Any]:
    return runpy.run_path(str(SCRIPT))


def test_it_computes_what_transformers_bert_computes(script: dict[str, Any]) -> None:
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    sizes = {"layers": 3, "hidden": 64, "heads": 4, "intermediate": 256, "vocab": 100, "positions": 32}
    shape = script["EncoderShape"](**sizes)
    weights = script["random_weights"](shape, seed=1)
    config = transformers.BertConfig(
        vocab_size=100,
        hidden_size=64,
        num_hidden_layers=3,
        num_attention_heads=4,
        intermediate_size=256,
        max_position_embeddings=32,
    )
    bert = transformers.BertModel(config, add_pooling_layer=False).eval()
    bert.load_state_dict({name: torch.tensor(value) for name, value in weights.items()})
    ids = np.random.default_rng(0).integers(0, 100, (3, 17))
    mask = np.ones_like(ids)
    mask[1, 9:] = 0
    with torch.no_grad():
        hidden = bert(torch.tensor(ids), torch.tensor(mask)).last_hidden_state.numpy()
    kept = mask[..., None]
    expected = (hidden * kept).sum(axis=1) / kept.sum(axis=1)
    session = onnxruntime.InferenceSession(script["encoder"](shape, weights).SerializeToString())
    (actual,) = session.run(None, {"input_ids": ids, "attention_mask": mask})
    np.testing.assert_allclose(actual, expected, atol=1e-4)


def test_the_command_writes_the_same_file_every_time(script: dict[str, Any], tmp_path: Path) -> None:
    small = ["--layers", "1", "--hidden", "8", "--heads", "2", "--vocab", "11", "--positions", "7"]
    for name in ("a", "b"):
        script["main"]([*small, "--out", str(tmp_path / "made" / f"{name}.onnx")])
    written = sorted((tmp_path / "made").iterdir())
    assert [path.name for path in written] == ["a.onnx", "b.onnx"]
    assert written[0].read_bytes() == written[1].read_bytes()


def test_heads_that_do_not_divide_the_width_are_misuse(
    script: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        script["main"](["--hidden", "10", "--heads", "3", "--out", str(tmp_path / "x.onnx")])
    assert caught.value.code == 2
    assert "does not divide into 3 heads" in capsys.readouterr().err

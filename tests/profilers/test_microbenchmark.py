"""The operator profiler: what it times, how it goes on, and what a foreign journal gets."""

from __future__ import annotations

from pathlib import Path

import pyarrow.parquet as pq
import pytest

from profilers.huggingface.blocks import blocks
from profilers.microbenchmark import profile, write_profile
from profilers.pass_time import PassTime
from profilers.probe import Probe, probes
from tuner.errors import UnavailableError, UsageError
from tuner.model_graph import ModelGraph
from tuner.step import Rows

torch = pytest.importorskip("torch")

GRAPH = ModelGraph(
    name="tiny", family="bert", operators=tuple(blocks(2, 32, 4, 64, Rows.TOKEN)), layers=2, hidden=32,
    max_context=None, generates=False,
)  # fmt: skip


def test_like_layers_are_timed_once_and_the_largest_work_first() -> None:
    found = probes(GRAPH, [1, 4], 8)
    assert len(found) == len(set(found))
    assert [probe.flops for probe in found] == sorted((probe.flops for probe in found), reverse=True)


def test_an_interrupted_profile_goes_on_where_it_stopped(tmp_path: Path) -> None:
    journal = tmp_path / "journal.jsonl"
    wanted = probes(GRAPH, [1], 8)
    first = profile(wanted[:3], "cpu", journal)
    with journal.open("a") as file:
        file.write('{"kind": "matm')  # torn by a crash
    second = profile(wanted, "cpu", journal)
    assert not second.missing
    for probe in wanted[:3]:
        assert second.timings[probe] == first.timings[probe]
    write_profile(second, tmp_path / "profile.parquet")
    assert pq.read_table(tmp_path / "profile.parquet").num_rows == len(wanted)
    assert PassTime(second).pass_s(GRAPH, 1, 8) > 0


def test_a_spent_limit_leaves_probes_missing(tmp_path: Path) -> None:
    found = profile(probes(GRAPH, [1], 8), "cpu", tmp_path / "journal.jsonl", limit_s=-1.0)
    assert not found.timings
    assert found.missing


def test_a_foreign_journal_is_refused(tmp_path: Path) -> None:
    (tmp_path / "journal.jsonl").write_text('{"format": "serving-tuner profile 3", "device": "abacus"}\n')
    with pytest.raises(UsageError, match="is of device 'abacus'"):
        profile([Probe("matmul", 1, 8, 8)], "cpu", tmp_path / "journal.jsonl")


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without a GPU")
def test_a_missing_gpu_is_named(tmp_path: Path) -> None:
    with pytest.raises(UnavailableError, match="No CUDA device"):
        profile([], "cuda", tmp_path / "journal.jsonl")

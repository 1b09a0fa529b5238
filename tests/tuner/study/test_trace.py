"""Trace files: good ones are read, bad rows are numbered."""

from __future__ import annotations

import gzip
import itertools
import json
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tuner.errors import TraceError
from tuner.study.trace import read_trace
from tuner.workload import TraceRequest

_REQUESTS = st.lists(
    st.tuples(
        st.floats(0, 1e6),
        st.none() | st.integers(1, 100_000),
        st.none() | st.integers(1, 100_000),
    ),
    min_size=2,
    max_size=20,
).filter(lambda rows: len({arrival for arrival, _, _ in rows}) > 1)


def _write(folder: Path, text: str, name: str = "trace.csv") -> Path:
    path = folder / name
    data = text.encode()
    path.write_bytes(gzip.compress(data) if name.endswith(".gz") else data)
    return path


@given(rows=_REQUESTS, name=st.sampled_from(["trace.csv", "trace.jsonl", "trace.csv.gz", "trace.JSONL.gz"]))
@settings(max_examples=60, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_trace_is_read_as_it_was_written(
    rows: list[tuple[float, int | None, int | None]], name: str, tmp_path: Path
) -> None:
    rows = sorted(rows, key=lambda row: row[0])
    if "csv" in name:
        lines = [",".join("" if cell is None else repr(cell) for cell in row) for row in rows]
        text = "\n".join(["arrival_s,input_tokens,output_tokens", *lines])
    else:
        keys = ("arrival_s", "input_tokens", "output_tokens")
        text = "\n".join(json.dumps(dict(zip(keys, row, strict=True))) for row in rows)
    expected = [TraceRequest(arrival_s=a - rows[0][0], input_tokens=i, output_tokens=o) for a, i, o in rows]
    assert list(read_trace(_write(tmp_path, text, name))) == expected


@pytest.mark.parametrize(
    ("text", "arrivals", "tokens"),
    [
        ("time\n5\n6.5\n", [0.0, 1.5], (None, None)),
        ("\ufeffArrival_S , Prompt_Tokens,completion_tokens,user\n0,7,8,me\n1,7,8,you\n", [0.0, 1.0], (7, 8)),
        ("arrival_ms,input_length,output_length\n1000,7,8\n\n1250,7,8\n", [0.0, 0.25], (7, 8)),
        (
            "TIMESTAMP,ContextTokens,GeneratedTokens\n"
            "2023-11-16 18:15:46.5000000,7,8\n"
            "2023-11-16 18:16:46.5000000,7,8\n",
            [0.0, 60.0],
            (7, 8),
        ),
    ],
)
def test_columns_may_have_the_names_of_published_traces(
    text: str, arrivals: list[float], tokens: tuple[int | None, int | None], tmp_path: Path
) -> None:
    requests = read_trace(_write(tmp_path, text))
    assert [request.arrival_s for request in requests] == pytest.approx(arrivals)
    assert (requests[0].input_tokens, requests[0].output_tokens) == tokens


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ("-1,1,1", "arrival_s is '-1', below 0"),
        ("nan,1,1", "arrival_s is 'nan', no number"),
        ("soon,1,1", "arrival_s is 'soon', no number"),
        (",1,1", "arrival_s is '', no number"),
        ("1,1,1", "before the row above"),
        ("9,0,1", "input_tokens is '0', no whole number"),
        ("9,1,1.5", "output_tokens is '1.5', no whole number"),
        ("9,1,1e99", "output_tokens is '1e99'"),
        ("9,many,1", "input_tokens is 'many'"),
    ],
)
def test_a_bad_row_is_named_by_its_number(row: str, words: str, tmp_path: Path) -> None:
    path = _write(tmp_path, f"arrival_s,input_tokens,output_tokens\n0,1,1\n5,1,1\n{row}\n10,1,1\n")
    with pytest.raises(TraceError) as caught:
        read_trace(path)
    assert "has 1 bad row: row 4: " in str(caught.value)
    assert words in str(caught.value)


def test_all_bad_rows_are_counted_and_the_first_ten_listed(tmp_path: Path) -> None:
    rows = [str(number) if number % 2 else "x" for number in range(1, 51)]
    with pytest.raises(TraceError) as caught:
        read_trace(_write(tmp_path, "arrival_s\n" + "\n".join(rows)))
    message = str(caught.value)
    assert "25 bad rows" in message
    assert "row 3: " in message
    assert "row 21: " in message
    assert "row 23: " not in message
    assert "and 15 more" in message


def test_bad_lines_of_json_are_named_by_their_number(tmp_path: Path) -> None:
    text = '{"arrival_s": 0}\n{"arrival_s": \n[1]\n{"arrival_s": true}\n{"arrival_s": NaN}\n{}\n{"arrival_s": 2}\n'
    with pytest.raises(TraceError, match="5 bad rows") as caught:
        read_trace(_write(tmp_path, text, "trace.jsonl"))
    for row in (2, 3, 4, 5, 6):
        assert f"row {row}: " in str(caught.value)


@pytest.mark.parametrize(
    ("name", "data", "words"),
    [
        ("trace.csv", b"", "its first row holds nothing"),
        ("trace.csv", b"arrival_s\n", "holds no requests"),
        ("trace.jsonl", b"\n\n", "holds no requests"),
        ("trace.csv", b"when,what\n1,2\n", "no column of arrivals"),
        ("trace.csv", b"arrival_s\n1\n1\n", "arrive at once"),
        ("trace.csv", b"arrival_s\n\xff\n", "no UTF-8"),
        ("trace.csv", b'arrival_s\n"1\n', "no CSV"),
        ("trace.csv", b"x" * 200_000, "a line of"),
        ("trace.csv.gz", b"arrival_s\n1\n", "cannot be read"),
        ("trace.csv.gz", gzip.compress(b"arrival_s\n1\n2\n")[:-9], "cannot be read"),
        ("trace.parquet", b"PAR1", "no trace by its name"),
    ],
)
def test_a_file_that_is_no_trace_says_so(name: str, data: bytes, words: str, tmp_path: Path) -> None:
    tmp_path.joinpath(name).write_bytes(data)
    with pytest.raises(TraceError, match=words):
        read_trace(tmp_path / name)


def test_a_missing_trace_says_so(tmp_path: Path) -> None:
    with pytest.raises(TraceError, match="No such file"):
        read_trace(tmp_path / "trace.csv")


@given(data=st.binary(max_size=300), name=st.sampled_from(["t.csv", "t.jsonl", "t.csv.gz"]))
@settings(
    max_examples=150, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_any_bytes_are_a_trace_or_a_trace_error(data: bytes, name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    path.write_bytes(b"arrival_s\n" + data if name == "t.csv" else data)
    try:
        requests = read_trace(path)
    except TraceError:
        return
    assert all(a.arrival_s <= b.arrival_s for a, b in itertools.pairwise(requests))

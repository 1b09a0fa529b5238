"""What is sent, and how answers are judged, protocol by protocol."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runners.load.completions import CompletionAnswer, CompletionSource
from runners.load.exchange import Exchange, Fate
from runners.load.http_head import Endpoint, head
from runners.load.kserve import KServeAnswer, KServeSource, inference_answer, tensor_bytes
from runners.load.lengths import draw_length
from runners.load.records import collect
from runners.load.sse import EventSplitter
from runners.load.template import StreamedAnswer, TemplateSource, fill
from runners.load.words import WORDS
from tests.runners.load.strategies import seeds
from tuner.errors import UsageError
from tuner.launch import CompletionRequest, KServeRequest, TemplateRequest, TensorInput
from tuner.workload import Lengths, LengthShape, TemplateShapes, TokenShapes, TraceRequest

ENDPOINT = Endpoint(host="127.0.0.1", address="127.0.0.1", port=8000)


def split(wire: bytes) -> tuple[str, dict[str, str], bytes]:
    """Request line, headers, body; the length must be the body's."""
    top, body = wire.split(b"\r\n\r\n", 1)
    line, *fields = top.decode().split("\r\n")
    headers = {name: value.strip() for name, value in (field.split(":", 1) for field in fields)}
    assert int(headers.get("Content-Length", "0")) == len(body)
    return line, headers, body


def no_trace(index: int) -> None:
    return None


# KServe


def an_input(name: str, datatype: str, *dims: tuple[int, ...], labels: tuple[str, ...] | None = None) -> TensorInput:
    return TensorInput(name=name, datatype=datatype, dims=dims, labels=labels or ("",) * len(dims), low=5, high=9)


def test_kserve_request_announces_the_tensors_it_carries() -> None:
    request = KServeRequest(
        model_name="bert",
        inputs=(
            an_input("ids", "INT64", (2,), (16, 32), labels=("", "sequence")),
            an_input("mask", "FP32", (2,), (16, 32), labels=("", "sequence")),
        ),
        outputs=("logits",),
    )
    line, headers, body = split(KServeSource(ENDPOINT, request, seed=1).prepare(3).wire)
    assert line == "POST /v2/models/bert/infer HTTP/1.1"
    size = int(headers["Inference-Header-Content-Length"])
    content = json.loads(body[:size])
    ids, mask = content["inputs"]
    assert ids["shape"] == mask["shape"]
    assert ids["shape"][1] in (16, 32)
    cut = size + ids["parameters"]["binary_data_size"]
    values = np.frombuffer(body[size:cut], dtype="<i8")
    assert len(values) == math.prod(ids["shape"])
    assert set(values) <= {5, 6, 7, 8}
    assert len(body) == cut + mask["parameters"]["binary_data_size"]
    assert content["outputs"] == [{"name": "logits", "parameters": {"binary_data": True}}]


@pytest.mark.parametrize(
    ("datatype", "size"),
    [("BOOL", 1), ("INT8", 1), ("UINT16", 2), ("FP16", 2), ("BF16", 2), ("INT32", 4), ("FP32", 4), ("FP64", 8)],
)
def test_tensor_takes_the_bytes_of_its_datatype(datatype: str, size: int) -> None:
    data = tensor_bytes(an_input("x", datatype, (3,), (4,)), (3, 4), np.random.default_rng(0))
    assert len(data) == 12 * size


def test_text_tensors_carry_their_lengths() -> None:
    data = tensor_bytes(an_input("x", "BYTES", (2,)), (2,), np.random.default_rng(0))
    first = int.from_bytes(data[:4], "little")
    second = int.from_bytes(data[4 + first : 8 + first], "little")
    assert len(data) == 8 + first + second


def test_unknown_datatype_is_refused_with_the_known_ones() -> None:
    request = KServeRequest(model_name="m", inputs=(an_input("x", "FP8", (1,)),))
    with pytest.raises(UsageError, match=r"'x' has the datatype 'FP8'.*FP32"):
        KServeSource(ENDPOINT, request, seed=0)


@pytest.mark.parametrize(
    ("answer", "complaint"),
    [
        (b'{"outputs":[{"name":"y","parameters":{"binary_data_size":4}}]}', None),
        (b'{"error":"no such model"}', "inference error: no such model"),
        (b'{"outputs":[{"name":"z","data":[1]}]}', r"lacks the outputs \['y'\]"),
        (b'{"outputs":[{"name":"y"}]}', "'y' has no data"),
        (b'{"outputs":[]}', "lacks"),
        (b"[1]", "no inference answer"),
        (b"<html>", "no inference answer"),
    ],
)
def test_only_an_inference_answer_is_good(answer: bytes, complaint: str | None) -> None:
    found = inference_answer(answer, frozenset({"y"}))
    if complaint is None:
        assert found == 4
    else:
        with pytest.raises(ValueError, match=complaint):
            raise ValueError(found)


def test_answer_with_missing_tensor_bytes_is_refused() -> None:
    answer = KServeAnswer(frozenset({"y"}), {})
    text = b'{"outputs":[{"name":"y","parameters":{"binary_data_size":4}}]}'
    answer.header(b"inference-header-content-length", str(len(text)).encode())
    answer.body(text + b"123", 1.0)
    assert answer.end(200, 1.0) == "no inference answer: 3 bytes of tensors where 4 were announced"


# Completions


def a_completion(**changes: object) -> CompletionRequest:
    shapes = TokenShapes(
        input_tokens=Lengths(shape=LengthShape.UNIFORM, mean=50, low=20, high=80),
        output_tokens=Lengths(shape=LengthShape.LOGNORMAL, mean=30, std=10, low=1, high=60),
        shared_prefix_tokens=10,
    )
    settings = {"model_name": "llama", "shapes": shapes, "token_ids": (100, 200), **changes}
    return CompletionRequest(**settings)  # type: ignore[arg-type]


@given(seed=seeds, index=st.integers(0, 10**6))
@settings(max_examples=40)
def test_completion_request_has_the_drawn_lengths_and_is_reproducible(seed: int, index: int) -> None:
    prepared = CompletionSource(ENDPOINT, a_completion(), seed, no_trace).prepare(index)
    again = CompletionSource(ENDPOINT, a_completion(), seed, no_trace)
    again.prepare(index + 1)
    assert again.prepare(index).wire == prepared.wire
    content = json.loads(split(prepared.wire)[2])
    assert len(content["prompt"]) == prepared.input_tokens
    assert content["max_tokens"] == prepared.output_tokens
    assert 20 <= prepared.input_tokens <= 80
    assert all(100 <= token < 200 for token in content["prompt"])
    assert content["ignore_eos"] is True
    assert content["stream_options"] == {"include_usage": True}


def test_prompts_share_their_prefix_and_nothing_else() -> None:
    source = CompletionSource(ENDPOINT, a_completion(), 5, no_trace)
    one, two = (json.loads(split(source.prepare(index).wire)[2])["prompt"] for index in (0, 1))
    assert one[:10] == two[:10]
    assert one[10:20] != two[10:20]


def test_text_prompts_have_as_many_words_share_their_prefix_and_are_reproducible() -> None:
    source = CompletionSource(ENDPOINT, a_completion(token_ids=None), 5, no_trace)
    one, two = (source.prepare(index) for index in (0, 1))
    texts = [json.loads(split(prepared.wire)[2])["prompt"].split() for prepared in (one, two)]
    assert [len(text) for text in texts] == [one.input_tokens, two.input_tokens]
    assert texts[0][:10] == texts[1][:10]
    assert texts[0][10:20] != texts[1][10:20]
    assert set(texts[0]) <= set(WORDS)
    assert CompletionSource(ENDPOINT, a_completion(token_ids=None), 5, no_trace).prepare(1).wire == two.wire


def test_a_chat_is_asked_by_a_message_of_its_user() -> None:
    chat = a_completion(token_ids=None, path="/v1/chat/completions")
    line, _, body = split(CompletionSource(ENDPOINT, chat, 5, no_trace).prepare(0).wire)
    plain = split(CompletionSource(ENDPOINT, a_completion(token_ids=None), 5, no_trace).prepare(0).wire)[2]
    assert line.startswith("POST /v1/chat/completions ")
    assert "prompt" not in json.loads(body)
    assert json.loads(body)["messages"] == [{"role": "user", "content": json.loads(plain)["prompt"]}]


@pytest.mark.parametrize(
    ("token_ids", "usage", "length"),
    [
        (None, {"completion_tokens": 5, "prompt_tokens": 23}, 23),
        (None, {"completion_tokens": 5}, 20),
        ((1, 9), {"completion_tokens": 5, "prompt_tokens": 23}, 20),
    ],
)
def test_texts_are_as_long_as_the_server_counts(
    token_ids: tuple[int, int] | None, usage: dict[str, int], length: int
) -> None:
    tokens = TokenShapes(input_tokens=Lengths.constant(20), output_tokens=Lengths.constant(5))
    request = CompletionRequest(model_name="m", shapes=tokens, token_ids=token_ids)
    source = CompletionSource(ENDPOINT, request, 5, no_trace)
    exchange = Exchange(source.prepare(0), source.answer(), 0.0, 0.0)
    exchange.answer.body(stream('{"choices":[{"text":"a"}]}', json.dumps({"choices": [], "usage": usage})), 1.0)
    assert exchange.answer.end(200, 1.0) is None
    exchange.settle(Fate.COMPLETED, 1.0)
    assert collect([exchange], 0.0, 2.0).input_tokens.tolist() == [length]


def test_lengths_of_a_trace_go_before_drawn_ones() -> None:
    row = TraceRequest(arrival_s=0, input_tokens=33, output_tokens=None)
    prepared = CompletionSource(ENDPOINT, a_completion(), 5, lambda index: row).prepare(0)
    drawn = CompletionSource(ENDPOINT, a_completion(), 5, no_trace).prepare(0)
    assert prepared.input_tokens == 33
    assert prepared.output_tokens == drawn.output_tokens


def stream(*events: str, end: str = "data: [DONE]\n\n") -> bytes:
    return "".join(f"data: {event}\n\n" for event in events).encode() + end.encode()


def test_completion_stream_is_timed_piece_by_piece() -> None:
    answer = CompletionAnswer()
    answer.body(stream('{"choices":[{"text":"a"}]}', end=""), 1.0)
    answer.body(stream('{"choices":[{"text":""}]}', end=""), 2.0)
    answer.body(stream('{"choices":[{"text":"c","finish_reason":"length"}]}', end=""), 4.0)
    answer.body(stream('{"choices":[],"usage":{"completion_tokens":5}}'), 4.1)
    assert answer.end(200, 4.1) is None
    assert answer.first_s == 1.0
    assert answer.pieces_s == [1.0, 2.0, 4.0]
    assert answer.output_tokens == 5


def test_role_of_a_chat_answer_is_no_token() -> None:
    answer = CompletionAnswer()
    answer.body(stream('{"choices":[{"delta":{"role":"assistant","content":""}}]}', end=""), 1.0)
    answer.body(stream('{"choices":[{"delta":{"content":"hi"}}]}'), 2.0)
    assert answer.end(200, 2.0) is None
    assert answer.first_s == 2.0


@pytest.mark.parametrize(
    ("status", "body", "complaint"),
    [
        (400, b'{"error":"bad"}', 'HTTP 400: {"error":"bad"}'),
        (200, stream('{"error":{"message":"engine died"}}'), "engine died"),
        (200, stream('{"choices":[{"text":"a"}]}', end=""), "ended before its last token"),
        (200, b"<html>hello</html>", "holds no token"),
        (200, stream("no json"), "no completion event"),
        (200, stream('{"choices":[{}],"usage":7}'), "no completion event"),
        (200, stream(), "holds no token"),
    ],
)
def test_bad_streams_are_told_from_good_ones(status: int, body: bytes, complaint: str) -> None:
    answer = CompletionAnswer()
    answer.body(body, 1.0)
    assert complaint in (answer.end(status, 1.0) or "")


@given(
    text=st.lists(st.sampled_from(["data: a\n\n", "data: bb\r\n\r\n", ": ping\n\n", "event: x\ndata: c\n\n"])),
    data=st.data(),
)
@settings(max_examples=60)
def test_events_are_the_same_however_the_stream_is_cut(text: list[str], data: st.DataObject) -> None:
    whole = "".join(text).encode()
    cuts = sorted(data.draw(st.lists(st.integers(0, len(whole)), max_size=5)))
    splitter = EventSplitter()
    found: list[bytes] = []
    for start, end in zip([0, *cuts], [*cuts, len(whole)], strict=True):
        found += splitter.feed(whole[start:end])
    found += splitter.end()
    expected = {"data: a\n\n": b"a", "data: bb\r\n\r\n": b"bb", "event: x\ndata: c\n\n": b"c"}
    assert found == [expected[event] for event in text if event in expected]


@given(
    lengths=st.builds(
        Lengths,
        shape=st.sampled_from(LengthShape),
        mean=st.floats(1, 500),
        std=st.floats(0, 300),
        low=st.just(3),
        high=st.just(400),
    ),
    seed=seeds,
)
@settings(max_examples=60)
def test_lengths_stay_within_their_bounds(lengths: Lengths, seed: int) -> None:
    assert 3 <= draw_length(lengths, np.random.default_rng(seed)) <= 400


@pytest.mark.parametrize("shape", [LengthShape.NORMAL, LengthShape.LOGNORMAL])
def test_unclipped_lengths_have_the_stated_mean_and_spread(shape: LengthShape) -> None:
    lengths = Lengths(shape=shape, mean=200, std=50, low=1, high=10_000)
    generator = np.random.default_rng(0)
    drawn = np.array([draw_length(lengths, generator) for _ in range(5000)])
    assert drawn.mean() == pytest.approx(200, rel=0.02)
    assert drawn.std() == pytest.approx(50, rel=0.05)


# Templates


def test_template_numbers_its_requests_and_halves_doubled_braces() -> None:
    assert fill('{{"id": {request_id}, "x": {other}}}', 7) == '{"id": 7, "x": {other}}'


def test_template_request_is_sent_as_written() -> None:
    shapes = TemplateShapes(method="PUT", path="/a b?q=1", headers=(("X-Key", "v"),), body="n={request_id}")
    source = TemplateSource(ENDPOINT, TemplateRequest(shapes=shapes))
    line, headers, body = split(source.prepare(4).wire)
    assert line == "PUT /a%20b?q=1 HTTP/1.1"
    assert headers["X-Key"] == "v"
    assert headers["Host"] == "127.0.0.1:8000"
    assert body == b"n=4"


def test_get_without_body_has_no_length() -> None:
    source = TemplateSource(ENDPOINT, TemplateRequest(shapes=TemplateShapes(method="GET", path="/health")))
    assert b"Content-Length" not in source.prepare(0).wire
    assert source.prepare(0).wire.endswith(b"\r\n\r\n")


def test_streamed_template_needs_its_expected_text() -> None:
    answer = StreamedAnswer(b"ok")
    answer.body(b"o", 1.0)
    answer.body(b"k", 2.0)
    assert answer.end(200, 2.0) is None
    assert answer.first_s == 1.0
    assert StreamedAnswer(b"ok").end(200, 1.0) == "the streamed answer is empty"


# Heads


@pytest.mark.parametrize(
    "header", [("X-A", "1\r\nX-B: 2"), ("X A", "1"), ("Content-Length", "3"), ("Host", "x"), ("", "1")]
)
def test_header_that_would_break_the_request_is_refused(header: tuple[str, str]) -> None:
    with pytest.raises(UsageError, match="header"):
        head(ENDPOINT, "POST", "/", [header])


@pytest.mark.parametrize("method", ["HEAD", "P OST", ""])
def test_method_without_an_answer_to_read_is_refused(method: str) -> None:
    with pytest.raises(UsageError, match=r"Write (for example )?POST"):
        head(ENDPOINT, method, "/", [])


@pytest.mark.parametrize("url", ["127.0.0.1:8000", "ftp://x", "http://", "http://x:notaport", "http://[::1"])
def test_url_that_is_none_is_refused(url: str) -> None:
    with pytest.raises(UsageError, match=r"is no .*URL"):
        Endpoint.resolve(url)


def test_prefix_of_the_url_goes_before_every_path() -> None:
    endpoint = Endpoint.resolve("http://127.0.0.1:9000/base/")
    assert head(endpoint, "GET", "/x", [], has_body=False).startswith(
        b"GET /base/x HTTP/1.1\r\nHost: 127.0.0.1:9000\r\n"
    )

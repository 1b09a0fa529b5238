"""Serves a causal language model over the OpenAI completions API, by the continuous batching of `transformers`.

`transformers serve` does the same, but takes texts only and refuses `ignore_eos`; a load of exact lengths needs both
token ids and that. What is served and how it is batched is the library's own.

    python serve.py model --port 8000 --max-requests 64
    curl localhost:8000/v1/completions -d '{"prompt": [5, 6, 7], "max_tokens": 8, "stream": true}'
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import itertools
import json
import logging
import threading
import time
from collections.abc import AsyncGenerator

import torch
from aiohttp import web
from tokenizers.decoders import DecodeStream
from transformers import AutoModelForCausalLM, AutoTokenizer, ContinuousBatchingConfig, GenerationConfig
from transformers.utils import logging as transformers_logging


class Server:
    """Requests in, tokens out; the batching runs in a thread of its own."""

    def __init__(self, args: argparse.Namespace) -> None:
        self._name = args.model
        self._tokenizer = AutoTokenizer.from_pretrained(args.model)
        device = args.device or ("cuda" if torch.cuda.is_available() else "cpu")
        model = AutoModelForCausalLM.from_pretrained(
            args.model, dtype=args.dtype, attn_implementation=f"paged|{args.attention}"
        ).to(device)
        self._manager = model.init_continuous_batching(
            generation_config=GenerationConfig(do_sample=False, eos_token_id=model.config.eos_token_id, pad_token_id=0),
            continuous_batching_config=ContinuousBatchingConfig(
                block_size=args.block_size,
                num_blocks=args.blocks,
                max_batch_tokens=args.max_batch_tokens,
                max_requests_per_batch=args.max_requests,
                kv_padding_interval_size=args.kv_padding,
                use_cuda_graph=args.cuda_graphs,
                use_async_batching=args.async_batching,
                default_compile_level=args.compile_level,
            ),
        )
        self._manager.warmup()
        self._manager.start()
        self._numbers = itertools.count()

    def application(self) -> web.Application:
        """The HTTP side of it."""
        application = web.Application()
        application.add_routes([web.get("/health", self._health), web.post("/v1/completions", self._completions)])
        application.on_shutdown.append(self._stop)
        return application

    async def _stop(self, _: web.Application) -> None:
        self._manager.stop(block=True, timeout=5, hard_stop=True)

    async def _health(self, _: web.Request) -> web.Response:
        return web.Response(status=200 if self._manager.is_running() else 503)

    async def _completions(self, request: web.Request) -> web.StreamResponse:
        body = await request.json()
        prompt = body["prompt"]
        ids = self._tokenizer(prompt)["input_ids"] if isinstance(prompt, str) else prompt
        most, eos = int(body.get("max_tokens", 16)), -1 if body.get("ignore_eos") else None
        usage = {"prompt_tokens": len(ids), "completion_tokens": 0, "total_tokens": len(ids)}
        texts: list[str] = []
        if not body.get("stream"):
            try:
                async for batch in self._generate(ids, most, eos):
                    texts += batch
            except RuntimeError as error:
                return web.json_response({"error": str(error)}, status=500)
            usage["completion_tokens"] = len(texts)
            usage["total_tokens"] += len(texts)
            return web.json_response(self._event("".join(texts)) | {"usage": usage})
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        with contextlib.suppress(ConnectionError):  # a client may go at any time
            try:
                async with contextlib.aclosing(self._generate(ids, most, eos)) as batches:
                    async for batch in batches:
                        usage["completion_tokens"] += len(batch)
                        await response.write(b"".join(_sse(self._event(text)) for text in batch))
                usage["total_tokens"] += usage["completion_tokens"]
                await response.write(_sse(self._event(None) | {"usage": usage}) + b"data: [DONE]\n\n")
            except RuntimeError as error:
                await response.write(_sse({"error": str(error)}))
        return response

    async def _generate(self, ids: list[int], most: int, eos: int | None) -> AsyncGenerator[list[str]]:
        """The texts of new tokens, as they come; more than one at a time if they come faster than they are sent."""
        name = f"request-{next(self._numbers)}"
        outputs: asyncio.Queue = asyncio.Queue()
        # Before the request is added: an output without a handler is lost.
        self._manager.register_result_handler(name, outputs.put_nowait)
        added = self._manager.add_request(ids, name, max_new_tokens=most, streaming=True, eos_token_id=eos)
        if added is None:
            raise RuntimeError("the server is stopping")
        decoder = DecodeStream([], skip_special_tokens=False)
        sent, finished = 0, False
        try:
            while not finished:
                output = await outputs.get()
                if output.error is not None:
                    raise RuntimeError(output.error)
                new, sent = output.generated_tokens[sent:], len(output.generated_tokens)
                finished = output.is_finished()
                if new:
                    yield [decoder.step(self._tokenizer._tokenizer, token) or "" for token in new]
        finally:
            if not finished:
                self._manager.cancel_request(name)

    def _event(self, text: str | None) -> dict[str, object]:
        choices = [] if text is None else [{"index": 0, "text": text, "finish_reason": None}]
        return {"object": "text_completion", "created": int(time.time()), "model": self._name, "choices": choices}


def _sse(event: dict[str, object]) -> bytes:
    return b"data: " + json.dumps(event, separators=(",", ":")).encode() + b"\n\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="folder of the model")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8000)
    parser.add_argument("--device", help="by default cuda where there is one, else cpu")
    parser.add_argument("--dtype", default="auto")
    parser.add_argument("--attention", default="sdpa", help="sdpa, eager, flash_attention_2, ...")
    parser.add_argument("--block-size", type=int, default=64, help="tokens of one block of the cache")
    parser.add_argument("--blocks", type=int, default=1024, help="blocks of the cache")
    parser.add_argument("--max-batch-tokens", type=int, default=1024, help="tokens of one step")
    parser.add_argument("--max-requests", type=int, default=64, help="requests of one step")
    parser.add_argument("--cuda-graphs", action="store_true", help="replay captured steps, of padded sizes")
    parser.add_argument("--kv-padding", type=int, default=16384, help="pad reads of the cache to multiples of this")
    parser.add_argument("--async-batching", action="store_true", help="prepare a step while the one before runs")
    parser.add_argument("--compile-level", type=int, default=0, help="torch.compile, 0 (none) to 3")
    args = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    logging.getLogger("aiohttp.access").setLevel(logging.WARNING)
    transformers_logging.set_verbosity_info()
    transformers_logging.disable_progress_bar()
    since = time.monotonic()
    server = Server(args)
    logging.info("ready after %.1f s, %d threads", time.monotonic() - since, threading.active_count())
    web.run_app(server.application(), host=args.host, port=args.port, print=None, access_log=None, shutdown_timeout=0.1)


if __name__ == "__main__":
    main()

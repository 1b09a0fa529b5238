"""A model server for tests, in a process of its own, that behaves and misbehaves on request.

The path chooses how a request is answered (`/slow`, `/hang`, `/garbage`…); bodies are read and dropped.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import signal
from collections import Counter
from typing import Final

import uvloop

_KSERVE_JSON: Final = json.dumps(
    {
        "model_name": "m",
        "outputs": [{"name": "y", "datatype": "FP32", "shape": [1, 4], "parameters": {"binary_data_size": 16}}],
    }
).encode()


class Server:
    """Answers by path.

    `workers` requests to `/queue` are served at a time, each for an exponential time of mean `service_s`.
    """

    def __init__(self, service_s: float, workers: int) -> None:
        self.counts: Counter[str] = Counter()
        self.service_s = service_s
        self.workers = asyncio.Semaphore(workers)
        self.random = random.Random(1)

    async def answer(self, path: str, body: bytes, writer: asyncio.StreamWriter) -> bool:
        """Writes an answer; false ends the connection."""
        self.counts[path] += 1
        match path.strip("/").split("/"):
            case ["slow"]:
                await asyncio.sleep(self.service_s)
            case ["queue"]:
                async with self.workers:
                    await asyncio.sleep(self.random.expovariate(1 / self.service_s))
            case ["tenth"] if self.counts[path] % 10 == 0:
                writer.write(plain(b"out of luck", "500 Internal Server Error"))
                return True
            case ["hang"]:
                await asyncio.sleep(3600)
            case ["garbage"]:
                writer.write(b"\x00\x01 what is HTTP?\r\n\r\n")
                return False
            case ["close"]:
                return False
            case ["half"]:
                writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nonly this")
                return False
            case ["until-close"]:
                writer.write(b"HTTP/1.1 200 OK\r\n\r\nhello")
                return False
            case ["forgetful"]:
                writer.write(plain(b"hello"))  # promises to keep the connection, and drops it
                return False
            case ["chunked"]:
                writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n")
                return True
            case ["continue"]:
                writer.write(b"HTTP/1.1 100 Continue\r\n\r\n" + plain(b"hello"))
                return True
            case ["die"]:
                if self.counts[path] > 10:
                    signal.raise_signal(signal.SIGKILL)
            case ["stream"]:
                await self.stream(writer, json.loads(body)["max_tokens"], usage=True)
                return True
            case ["texts"]:
                if not isinstance(json.loads(body)["prompt"], str):
                    writer.write(plain(b"a prompt is a text", "400 Bad Request"))
                    return True
                await self.stream(writer, json.loads(body)["max_tokens"], usage=True, prompt_tokens=1000)
                return True
            case ["stream-cut"]:
                await self.stream(writer, 3, usage=False, whole=False)
                return True
            case ["pieces"]:
                writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
                for _ in range(3):
                    writer.write(b"5\r\nhello\r\n")
                    await asyncio.sleep(self.service_s)
                writer.write(b"0\r\n\r\n")
                return True
            case ["v2", "models", "lies", "infer"]:
                writer.write(plain(b'{"model_name": "m"}'))
                return True
            case ["v2", "models", _, "infer"]:
                header = b"Inference-Header-Content-Length: %d\r\n" % len(_KSERVE_JSON)
                writer.write(plain(_KSERVE_JSON + bytes(16), extra=header))
                return True
        writer.write(plain(b"hello"))
        return True

    async def stream(
        self, writer: asyncio.StreamWriter, tokens: int, *, usage: bool, whole: bool = True, prompt_tokens: int = 20
    ) -> None:
        """Server-sent events, one token each, `service_s` apart."""
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n")
        for index in range(tokens):
            await asyncio.sleep(self.service_s)
            finish = "length" if whole and index == tokens - 1 else None
            writer.write(event({"choices": [{"text": "a", "finish_reason": finish}]}))
        if usage:
            writer.write(event({"choices": [], "usage": {"completion_tokens": tokens, "prompt_tokens": prompt_tokens}}))
        if whole:
            writer.write(b"e\r\ndata: [DONE]\n\n\r\n")
        writer.write(b"0\r\n\r\n")

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection."""
        try:
            going_on = True
            while going_on:
                request_head = await reader.readuntil(b"\r\n\r\n")
                lines = request_head.decode("latin-1").split("\r\n")
                lengths = [line.split(":")[1] for line in lines if line.lower().startswith("content-length:")]
                body = await reader.readexactly(int(lengths[0]) if lengths else 0)
                going_on = await self.answer(lines[0].split(" ")[1], body, writer)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()


def plain(body: bytes, status: str = "200 OK", extra: bytes = b"") -> bytes:
    """A whole answer."""
    return b"HTTP/1.1 %b\r\nContent-Length: %d\r\n%b\r\n%b" % (status.encode(), len(body), extra, body)


def event(content: object) -> bytes:
    """One server-sent event as one HTTP chunk."""
    data = b"data: " + json.dumps(content).encode() + b"\n\n"
    return b"%x\r\n%b\r\n" % (len(data), data)


async def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--service", type=float, default=0.01, help="seconds")
    parser.add_argument("--workers", type=int, default=1)
    options = parser.parse_args()
    server = Server(options.service, options.workers)
    listener = await asyncio.start_server(server.serve, "127.0.0.1", 0, backlog=1024)
    print(listener.sockets[0].getsockname()[1], flush=True)
    await listener.serve_forever()


if __name__ == "__main__":
    uvloop.run(main())

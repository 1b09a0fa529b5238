"""How many requests/s the load generator sends on one core, and how late.

An open loop against a trivial server in a process of its own: the generator on one core, the server on
another. Prints one line per repeat, then medians and the spread.

    python benchmarks/load_ceiling.py --rate 3000 --repeats 5
"""

from __future__ import annotations

import argparse
import asyncio
import os
import resource
import statistics
import subprocess
import sys
import time
from typing import cast

import uvloop

from runners.load.driver import SubprocessLoadDriver
from runners.load.precedence import precedence
from tuner.launch import TemplateRequest
from tuner.metric import MetricRef
from tuner.trial import TrialPlan
from tuner.workload import OpenLoop, TemplateShapes, Workload

_ANSWER = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 11\r\n\r\n" + b'{"ok":true}'


class Trivial(asyncio.Protocol):
    """Answers every read, which holds one request, with the same bytes."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        self._transport.write(_ANSWER)


async def serve() -> None:
    """Listens on a free port, which it prints."""
    server = await asyncio.get_running_loop().create_server(Trivial, "127.0.0.1", 0, backlog=4096)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


def children_cpu_s() -> float:
    """CPU time of ended child processes."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rate", type=float, default=3000.0, help="requests/s")
    parser.add_argument("--seconds", type=float, default=10.0, help="length of the measured part")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--serve", action="store_true", help="be the server")
    options = parser.parse_args()
    cores = sorted(os.sched_getaffinity(0))
    if options.serve:
        os.sched_setaffinity(0, {cores[-1]})
        with precedence():  # as the generator has it: on a busy machine its server must not be what waits
            uvloop.run(serve())
        return
    shapes = TemplateShapes(path="/", body='{"id": 1, "text": "a request of ordinary size"}')
    print(f"{'rps':>8} {'p50 latency':>12} {'p99 latency':>12} {'p99 lateness':>13} {'core used':>10}")
    rows = []
    with subprocess.Popen([sys.executable, "-P", __file__, "--serve"], stdout=subprocess.PIPE, text=True) as server:
        try:
            assert server.stdout is not None
            url = f"http://127.0.0.1:{int(server.stdout.readline())}"
            os.sched_setaffinity(0, {cores[0]})
            for repeat in range(options.repeats):
                plan = TrialPlan(
                    workload=Workload(arrival=OpenLoop(rate_rps=options.rate), requests=shapes),
                    warmup_s=1.0,
                    windows=5,
                    window_s=options.seconds / 5,
                    seed=repeat,
                )
                before_cpu, before_s = children_cpu_s(), time.monotonic()
                found = SubprocessLoadDriver().drive(url, TemplateRequest(shapes=shapes), plan, lambda progress: None)
                busy = (children_cpu_s() - before_cpu) / (time.monotonic() - before_s)
                p50, p99, rps = (
                    found.value(MetricRef.parse(name)) or 0.0 for name in ("p50(latency)", "p99(latency)", "throughput")
                )
                rows.append((rps, p50 * 1e3, p99 * 1e3, found.lateness_p99_s * 1e3, busy))
                show(rows[-1])
        finally:
            server.kill()
    print("median")
    show(tuple(statistics.median(column) for column in zip(*rows, strict=True)))
    print("least and most")
    show(tuple(min(column) for column in zip(*rows, strict=True)))
    show(tuple(max(column) for column in zip(*rows, strict=True)))


def show(row: tuple[float, ...]) -> None:
    """One line of the table."""
    rps, p50, p99, lateness, busy = row
    print(f"{rps:8.0f} {p50:9.3f} ms {p99:9.3f} ms {lateness:10.3f} ms {busy:10.0%}", flush=True)


if __name__ == "__main__":
    main()

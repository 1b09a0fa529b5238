"""What Docker's forwarding of a published port adds to a request.

One client asks a trivial server in a container, in turn at its published port on 127.0.0.1 and at the
container's own address, the server pinned to the last core and the client to the first.

    python benchmarks/published_port.py --image python:3.11-slim --repeats 5
"""

from __future__ import annotations

import argparse
import os
import socket
import statistics
import time

import docker
from docker.models.containers import Container

PORT = 8000
SERVER = f"""
import asyncio

class Answer(asyncio.Protocol):
    def connection_made(self, transport):
        self.transport = transport
    def data_received(self, data):
        self.transport.write(b"HTTP/1.1 200 OK\\r\\nContent-Length: 2\\r\\n\\r\\nok")

async def main():
    await (await asyncio.get_running_loop().create_server(Answer, "0.0.0.0", {PORT})).serve_forever()

asyncio.run(main())
"""
REQUEST = b"POST / HTTP/1.1\r\nContent-Length: 200\r\n\r\n" + 200 * b"x"
START_DEADLINE_S = 30.0


def latencies_s(host: str, port: int, requests: int) -> list[float]:
    """Latencies of requests sent one after another over one connection."""
    taken = []
    with socket.create_connection((host, port), timeout=10) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for _ in range(requests):
            sent = time.perf_counter()
            connection.sendall(REQUEST)
            if not connection.recv(4096):
                raise ConnectionResetError("the server closed the connection")
            taken.append(time.perf_counter() - sent)
    return taken


def await_answer(host: str, port: int) -> None:
    """Returns once the server answers."""
    deadline = time.monotonic() + START_DEADLINE_S
    while True:
        try:
            latencies_s(host, port, 1)
            return
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.05)


def addresses(container: Container) -> dict[str, tuple[str, int]]:
    """Where the container's server is reached, by the name of the way."""
    container.reload()
    network = container.attrs["NetworkSettings"]
    published = network["Ports"][f"{PORT}/tcp"][0]
    return {"published": (published["HostIp"], int(published["HostPort"])), "direct": (network["IPAddress"], PORT)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--image", default=os.environ.get("TUNER_BASE_IMAGE", "python:3.11-slim"))
    parser.add_argument("--requests", type=int, default=5000)
    parser.add_argument("--repeats", type=int, default=5)
    arguments = parser.parse_args()
    cores = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, {cores[0]})
    client = docker.from_env()
    container = client.containers.run(
        arguments.image,
        ["python3", "-c", SERVER],
        ports={f"{PORT}/tcp": ("127.0.0.1", 0)},
        cpuset_cpus=str(cores[-1]),
        detach=True,
    )
    try:
        ways = addresses(container)
        await_answer(*ways["published"])
        medians: dict[str, list[float]] = {name: [] for name in ways}
        for _ in range(arguments.repeats):
            for name, (host, port) in ways.items():
                medians[name].append(1e6 * statistics.median(latencies_s(host, port, arguments.requests)))
        for name, values in medians.items():
            print(f"{name:>9}: p50 {statistics.median(values):.0f} us ({min(values):.0f}-{max(values):.0f})")
    finally:
        container.remove(force=True)
        client.close()


if __name__ == "__main__":
    main()

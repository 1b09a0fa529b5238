"""The load generator beside wrk: one server, a closed loop, the same requests, in turn.

    python benchmarks/load_versus_wrk.py --serve                       # a trivial server of its own
    python benchmarks/load_versus_wrk.py --url http://127.0.0.1:8000 --kserve-model bert --dim 128

Of a KServe server the model's inputs are read from its metadata. wrk (apt install wrk) counts latency
from handing a request to the socket to the last byte of its answer; here it runs from the end of the
connection's last answer, so it contains the generator's own time between the two (microseconds).
wrk has no warm-up: it is run once, briefly, before each of its measurements.

Where it may, the load generator runs ahead of ordinary processes. On a machine that does other work as
well, wrk and the server must be given the same for a fair comparison: --wrk "chrt -r 1 wrk", and
`chrt -a -r -p 1 PID` for a server.
"""

from __future__ import annotations

import argparse
import json
import re
import shlex
import shutil
import statistics
import subprocess
import sys
import tempfile
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from runners.load.driver import SubprocessLoadDriver
from runners.load.http_head import Endpoint
from runners.load.source import make_source
from tuner.launch import KServeRequest, RequestSpec, TemplateRequest, TensorInput
from tuner.metric import MetricRef
from tuner.trial import TrialPlan
from tuner.workload import ClosedLoop, TemplateShapes, Workload

_BODIES: Final = 256
_BODY: Final = '{{"id": 1, "text": "a request of ordinary size"}}'
_UNITS: Final = {"us": 1e-3, "ms": 1.0, "s": 1e3, "m": 60e3}
_NAMES: Final = ("rps", "p50 ms", "p99 ms")

_SCRIPT: Final = """
local file = io.open("{path}", "rb")
local text = file:read("*a")
file:close()
local requests, position = {{}}, 1
while position <= #text do
  local length = tonumber(text:sub(position, position + 9))
  requests[#requests + 1] = text:sub(position + 10, position + 9 + length)
  position = position + 10 + length
end
local index = 0
request = function()
  index = index % #requests + 1
  return requests[index]
end
"""


def kserve_request(url: str, model: str, dim: int, high: float) -> KServeRequest:
    """A request with the inputs that the server's metadata names."""
    with urllib.request.urlopen(f"{url}/v2/models/{model}", timeout=10) as answer:
        metadata = json.load(answer)
    inputs = tuple(
        TensorInput(
            name=tensor["name"],
            datatype=tensor["datatype"],
            dims=tuple(
                (int(size),) if int(size) > 0 else ((1,) if axis == 0 else (dim,))
                for axis, size in enumerate(tensor["shape"])
            ),
            labels=("",) * len(tensor["shape"]),
            high=high,
        )
        for tensor in metadata["inputs"]
    )
    return KServeRequest(
        model_name=model, inputs=inputs, outputs=tuple(tensor["name"] for tensor in metadata["outputs"])
    )


def wires(endpoint: Endpoint, request: RequestSpec) -> list[bytes]:
    """The requests as they go over the wire, heads and bodies."""
    source = make_source(endpoint, request, 0, lambda index: None)
    return [source.prepare(index).wire for index in range(_BODIES)]


def run_wrk(command: Sequence[str], url: str, script: Path, clients: int, seconds: float) -> tuple[float, ...]:
    """rps, p50 and p99 in ms."""
    argv = [*command, "-t1", f"-c{clients}", "--latency", "--timeout", "30s", "-s", str(script)]
    subprocess.run([*argv, "-d2s", url], check=True, capture_output=True, timeout=60)
    done = subprocess.run(
        [*argv, f"-d{round(seconds)}s", url], check=True, capture_output=True, text=True, timeout=seconds + 60
    )
    if "Non-2xx" in done.stdout or "Socket errors" in done.stdout:
        raise SystemExit(f"wrk met errors:\n{done.stdout}")
    rate = re.search(r"Requests/sec:\s+([\d.]+)", done.stdout)
    quantiles = dict(re.findall(r"^\s+(50|99)%\s+(\S+)\s*$", done.stdout, re.MULTILINE))
    if rate is None or len(quantiles) != 2:
        raise SystemExit(f"wrk printed no such table:\n{done.stdout}")
    return (float(rate.group(1)), *(milliseconds(quantiles[name]) for name in ("50", "99")))


def milliseconds(text: str) -> float:
    """A time as wrk writes it."""
    match = re.fullmatch(r"([\d.]+)(us|ms|s|m)", text)
    assert match is not None, text
    return float(match.group(1)) * _UNITS[match.group(2)]


def run_ours(url: str, request: RequestSpec, clients: int, seconds: float) -> tuple[float, ...]:
    """rps, p50 and p99 in ms."""
    plan = TrialPlan(
        workload=Workload(arrival=ClosedLoop(clients=clients), requests=TemplateShapes()),
        warmup_s=2.0,
        windows=5,
        window_s=round(seconds) / 5,
    )
    found = SubprocessLoadDriver().drive(url, request, plan, lambda progress: None)
    if found.errors:
        raise SystemExit(f"The load generator met errors: {found.errors}")
    rps, p50, p99 = (
        found.value(MetricRef.parse(name)) or 0.0 for name in ("throughput", "p50(latency)", "p99(latency)")
    )
    return rps, p50 * 1e3, p99 * 1e3


def compare(command: Sequence[str], url: str, request: RequestSpec, clients: int, seconds: float, repeats: int) -> None:
    """Prints one line per repeat, then the medians, the spread and the ratio of the medians."""
    endpoint = Endpoint.resolve(url)
    ours: list[tuple[float, ...]] = []
    theirs: list[tuple[float, ...]] = []
    print(f"{'':12} {'ours':^33} {'wrk':^33}")
    print(f"{'repeat':12} " + " ".join(f"{name:>10}" for name in (*_NAMES, *_NAMES)))
    with tempfile.TemporaryDirectory() as folder:
        data, script = Path(folder, "requests"), Path(folder, "requests.lua")
        data.write_bytes(b"".join(b"%010d%b" % (len(wire), wire) for wire in wires(endpoint, request)))
        script.write_text(_SCRIPT.format(path=data))
        for repeat in range(repeats):
            if repeat % 2:
                theirs.append(run_wrk(command, url, script, clients, seconds))
                ours.append(run_ours(url, request, clients, seconds))
            else:
                ours.append(run_ours(url, request, clients, seconds))
                theirs.append(run_wrk(command, url, script, clients, seconds))
            show(str(repeat + 1), (*ours[-1], *theirs[-1]))
    columns = [*zip(*ours, strict=True), *zip(*theirs, strict=True)]
    medians = [statistics.median(column) for column in columns]
    show("median", medians)
    show("least", [min(column) for column in columns])
    show("most", [max(column) for column in columns])
    show("ours / wrk", [mine / other for mine, other in zip(medians[:3], medians[3:], strict=True)])


def show(name: str, values: list[float] | tuple[float, ...]) -> None:
    """One line of the table."""
    print(f"{name:12} " + " ".join(f"{value:10.3f}" for value in values), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--url", help="scheme, host and port of a running server")
    parser.add_argument("--serve", action="store_true", help="start a server that answers after 10 ms")
    parser.add_argument("--kserve-model", help="model to ask for inferences; without it, POST / with a small body")
    parser.add_argument("--dim", type=int, default=128, help="size of the dynamic dimensions but the first")
    parser.add_argument("--high", type=float, default=1000.0, help="tensor values lie below this")
    parser.add_argument("--wrk", default="wrk", help="its command; on a busy machine 'chrt -r 1 wrk'")
    parser.add_argument("--clients", type=int, default=16)
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    command = shlex.split(options.wrk)
    if shutil.which(command[0]) is None:
        raise SystemExit(f"{command[0]} is not installed. Install it: apt-get install wrk")
    if not options.serve:
        if options.url is None:
            raise SystemExit("Name a server with --url, or start one with --serve.")
        request: RequestSpec = TemplateRequest(shapes=TemplateShapes(body=_BODY))
        if options.kserve_model:
            request = kserve_request(options.url, options.kserve_model, options.dim, options.high)
        compare(command, options.url, request, options.clients, options.seconds, options.repeats)
        return
    server_script = Path(__file__).resolve().parents[1] / "tests" / "runners" / "load" / "server.py"
    argv = [*command[:-1], sys.executable, "-P", str(server_script), "--service", "0.01"]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) as server:
        try:
            assert server.stdout is not None
            url = f"http://127.0.0.1:{int(server.stdout.readline())}/slow"
            shapes = TemplateShapes(path="", body=_BODY)
            compare(command, url, TemplateRequest(shapes=shapes), options.clients, options.seconds, options.repeats)
        finally:
            server.kill()


if __name__ == "__main__":
    main()

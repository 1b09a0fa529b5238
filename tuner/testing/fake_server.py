"""A batching server as a formula: what the fakes answer instead of a measurement.

    s(b)    time to serve a batch of b requests, s
    C       capacity, requests/s: n max_b / s(max_b)
    rho     offered rate / C
    b       batch that forms at that rate: b = rate / n (s(b) + queue delay), within 1..max_b
    W       mean wait, s: s(b) / n * rho / (1 - rho) * (1 + cv^2) / 2, as of a queue with general arrivals

Latency is s(b) + half the queue delay, plus an exponential wait of mean W. Above C the backlog grows
for as long as the load lasts.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from tuner.device import DeviceKind, DeviceType
from tuner.metric import STANDARD_STATISTICS, Metric, MetricRef
from tuner.parameter import Config
from tuner.trial import TrialPlan
from tuner.workload import ClosedLoop, OpenLoop, RateBracket, TokenShapes, TraceReplay

WEIGHTS_BYTES = 300 * 2**20
ROW_BYTES = 3 * 2**20
_SATURATED = 0.98


@dataclass(frozen=True, slots=True, kw_only=True)
class FakeServer:
    """The server that a configuration of `FakeSearchSpace` stands for.

    Attributes:
        max_batch: largest batch; 1 without dynamic batching.
        delay_s: how long a request may wait for others.
        instances, threads: copies of the model, and threads of each.
        half: fp16 rather than fp32.
        cores: what the device can do at once, in CPU cores.
    """

    max_batch: int
    delay_s: float
    instances: int
    threads: int
    half: bool
    cores: float

    @classmethod
    def of(cls, config: Config, device: DeviceType) -> FakeServer:
        """The server in one configuration on one device type."""
        cores = 64.0 * device.gpus if device.kind is DeviceKind.GPU else (device.cpus or 4.0)
        return cls(
            max_batch=int(config.get("max_batch_size", 1) or 1),
            delay_s=float(config.get("queue_delay_us", 0) or 0) * 1e-6,
            instances=int(config["instance_count"]),
            threads=int(config["threads"]),
            half=config["precision"] == "fp16",
            cores=cores,
        )

    @property
    def memory_bytes(self) -> int:
        """What it needs, and is killed without."""
        needed = self.instances * (WEIGHTS_BYTES + self.max_batch * ROW_BYTES)
        return needed // 2 if self.half else needed

    @property
    def speed(self) -> float:
        """Work of one instance per second, relative to one thread on a core of its own in fp32."""
        share = min(1.0, self.cores / (self.instances * self.threads))
        return math.pow(self.threads, 0.8) * share * (1.5 if self.half else 1.0)

    def service_s(self, batch: float) -> float:
        """s(b)."""
        return 0.0005 + (0.004 + 0.0015 * batch) / self.speed

    @property
    def capacity_rps(self) -> float:
        """C."""
        return self.instances * self.max_batch / self.service_s(self.max_batch)

    def batch_at(self, rate_rps: float) -> float:
        """b: the batch that forms at an arrival rate."""
        batch = 1.0
        for _ in range(40):
            wanted = rate_rps / self.instances * (self.service_s(batch) + self.delay_s)
            batch = min(max(1.0, wanted), float(self.max_batch))
        return batch

    def open_loop(self, rate_rps: float, cv: float, plan: TrialPlan) -> dict[str, float]:
        """Metrics at an arrival rate, by name, without noise."""
        load = rate_rps / self.capacity_rps
        batch = self.batch_at(rate_rps)
        base = self.service_s(batch) + (self.delay_s / 2 if self.max_batch > 1 else 0.0)
        steady = min(load, _SATURATED)
        wait = self.service_s(batch) / self.instances * steady / (1 - steady) * (1 + cv**2) / 2
        if load > _SATURATED:
            wait += (load - _SATURATED) * plan.load_s
        return self._metrics(min(rate_rps, self.capacity_rps), base, wait, batch, plan)

    def closed_loop(self, clients: int, think_time_s: float, plan: TrialPlan) -> dict[str, float]:
        """Metrics under so many clients, by name, without noise (Little's law)."""
        batch = min(float(self.max_batch), max(1.0, clients / self.instances))
        base = self.service_s(batch) + (self.delay_s if clients < self.instances * self.max_batch else 0.0)
        rate = min(self.instances * batch / base, clients / (base + think_time_s))
        wait = max(0.0, clients / rate - think_time_s - base)
        return self._metrics(rate, base, wait + 0.05 * base, batch, plan)

    def _metrics(self, rate: float, base: float, wait: float, batch: float, plan: TrialPlan) -> dict[str, float]:
        missed = _beyond(plan.request_timeout_s, base, wait)
        metrics = {Metric.THROUGHPUT.value: rate * (1 - missed), Metric.ERROR_RATE.value: missed}
        shifts = {Metric.LATENCY: 0.0}
        shapes = plan.workload.requests
        if isinstance(shapes, TokenShapes):
            tpot = 0.004 / self.speed * (1 + 0.05 * batch)
            tokens_out = shapes.output_tokens.mean
            shifts = {Metric.TTFT: 0.0, Metric.LATENCY: tpot * max(0.0, tokens_out - 1)}
            served = rate * (1 - missed)
            metrics[Metric.OUTPUT_THROUGHPUT.value] = served * tokens_out
            metrics[Metric.TOTAL_THROUGHPUT.value] = served * (tokens_out + shapes.input_tokens.mean)
            for metric in (Metric.TPOT, Metric.ITL):
                for ref in _statistics(metric, plan):
                    metrics[str(ref)] = tpot * (1 + 0.1 * (ref.percentile or 50.0) / 100)
        for metric, shift in shifts.items():
            for ref in _statistics(metric, plan):
                tail = 1.0 if ref.percentile is None else math.log(100 / (100 - ref.percentile))
                metrics[str(ref)] = base + shift + wait * tail
        met = 1.0
        for slo in plan.slos:
            if slo.metric.metric in shifts:
                met = min(met, 1 - _beyond(slo.bound, base + shifts[slo.metric.metric], wait))
        metrics[Metric.GOODPUT.value] = rate * (1 - missed) * met
        return metrics

    def respond(self, plan: TrialPlan, rate_rps: float | None = None) -> dict[str, float]:
        """Metrics under the plan's arrivals, or at another rate, by name, without noise."""
        match plan.workload.arrival:
            case ClosedLoop(clients=clients, think_time_s=think_time_s):
                return self.closed_loop(clients, think_time_s, plan)
            case OpenLoop(rate_rps=rate, cv=cv):
                fixed = rate.low if isinstance(rate, RateBracket) else rate
                return self.open_loop(fixed if rate_rps is None else rate_rps, cv, plan)
            case TraceReplay(requests=requests, speed=speed):
                span = max(requests[-1].arrival_s - requests[0].arrival_s, 1e-9)
                return self.open_loop(speed * max(1, len(requests) - 1) / span, 1.0, plan)


def _statistics(metric: Metric, plan: TrialPlan) -> list[MetricRef]:
    asked = {*plan.metrics, *(slo.metric for slo in plan.slos)}
    refs = {MetricRef(metric, statistic) for statistic in STANDARD_STATISTICS}
    return sorted(refs | {ref for ref in asked if ref.metric is metric}, key=str)


def _beyond(bound: float, base: float, wait: float) -> float:
    """Share of requests whose latency, `base` plus an exponential of mean `wait`, exceeds `bound`."""
    if bound <= base:
        return 1.0
    return math.exp(-(bound - base) / wait) if wait > 0 else 0.0

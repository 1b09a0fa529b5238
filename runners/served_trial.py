"""The course of a trial, whatever the server runs in.

Start, wait until ready, load, stop: at each step the server may end, hang or run out of memory, and each
ends the trial within a deadline, classified (`runners.verdict`), with the server gone.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass, replace
from typing import Protocol

from runners.placement import confined
from runners.readiness import unready
from runners.server_log import KEPT_LINES
from runners.verdict import (
    Evidence,
    ServerExit,
    Verdict,
    died_under_load,
    ended_before_ready,
    error_rate,
    not_ready_in_time,
    stopped_answering,
    too_many_errors,
)
from tuner.cost import with_costs
from tuner.device import DeviceType
from tuner.errors import GeneratorBoundError, TunerError, UnavailableError
from tuner.launch import LaunchSpec
from tuner.ports import LoadDriver
from tuner.trial import Infeasible, Measurement, Outcome, Phase, Phases, Progress, Reason, TrialPlan

_POLL_S = 0.05
_PROBE_S = 1.0
"""A server that loads weights may accept a connection and let it wait: then it is asked again."""
_PROGRESS_S = 0.5
_SETTLE_S = 1.0
_LOAD_SLACK_S = 60.0
"""For what the generator does beside the load: starting, making requests, computing statistics."""


class Server(Protocol):
    """One server of one attempt; a runner provides it.

    Attributes:
        host, port: where its readiness is asked for, once started.
    """

    host: str
    port: int

    def start(self) -> None:
        """Starts it, without waiting until it is ready.

        Raises:
            ServerRefusedError: it cannot be started as configured.
            TrialFault, UnavailableError: as `tuner.ports.Runner.run` says.
        """
        ...

    def exited(self, timeout_s: float) -> ServerExit | None:
        """How it ended; `None` if it still runs after `timeout_s`."""
        ...

    def owns_port(self) -> bool:
        """Whether it is this server that listens at `port`."""
        ...

    def load_address(self) -> tuple[str, int]:
        """Host and port for the load, once it is ready: the shortest way to it."""
        ...

    def evidence(self) -> Evidence:
        """What is known of it now."""
        ...

    def stop(self, grace_s: float) -> None:
        """Ends it and removes all that belongs to it; may be called at any time, again too.

        Args:
            grace_s: how long it may take to end by itself; 0 kills it at once.

        Raises:
            TrialFault: it cannot be ended.
        """
        ...


class ServerRefusedError(Exception):
    """The server's program could not even be executed; the message says why."""


class _LoadEndedEarly(Exception):
    """The way out of a load that has become pointless, from within the driver's `watch`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Failure:
    verdict: Verdict
    evidence: Evidence
    partial: Measurement | None = None


@dataclass(slots=True, kw_only=True)
class ServedTrial:
    """One trial of one server.

    Attributes:
        server: not yet started.
        spec, device, plan: what is measured, on what and how.
        driver: makes the load.
        generator_cores: where the load generator runs; `None` leaves it to the system.
        watch: told what happens; what it raises ends the trial.
    """

    server: Server
    spec: LaunchSpec
    device: DeviceType
    plan: TrialPlan
    driver: LoadDriver
    generator_cores: Collection[int] | None
    watch: Callable[[Progress], None]

    def run(self) -> Outcome:
        """Runs it; the server is gone afterwards, whatever happened.

        Raises:
            TrialFault, UnavailableError: as `tuner.ports.Runner.run` says.
        """
        began = time.monotonic()
        try:
            found: Measurement | _Failure | None = self._started()
            ready = time.monotonic()
            if found is None:
                found = self._loaded()
                if isinstance(found, _Failure) and found.verdict.reason is Reason.GENERATOR_BOUND:
                    # Other work on this machine may have held the generator up, and the server is still there.
                    found = self._loaded()
            loaded = time.monotonic()
            self.watch(Progress(phase=Phase.STOPPING, expected_s=self.plan.stop_deadline_s))
            # A server that failed has nothing left to say, and one that hangs would use up the whole deadline.
            self.server.stop(0.0 if isinstance(found, _Failure) else self.plan.stop_deadline_s)
        except BaseException:
            self.server.stop(0.0)
            raise
        phases = Phases(start_s=ready - began, load_s=loaded - ready, stop_s=time.monotonic() - loaded)
        if isinstance(found, Measurement):
            return replace(with_costs(found, self.device), phases=phases)
        partial = found.partial
        return Infeasible(
            reason=found.verdict.reason,
            message=found.verdict.message,
            log_tail=tuple(found.evidence.lines[-KEPT_LINES:]),
            phases=phases,
            partial=None if partial is None else replace(with_costs(partial, self.device), phases=phases),
        )

    def _started(self) -> _Failure | None:
        """Starts the server and waits until it is ready."""
        began = time.monotonic()
        deadline_s = min(self.plan.start_deadline_s, self.spec.health.deadline_s)
        path = self.spec.health.path
        self.watch(Progress(phase=Phase.STARTING))
        try:
            self.server.start()
        except ServerRefusedError as error:
            return _Failure(
                verdict=Verdict(reason=Reason.DID_NOT_START, message=str(error)), evidence=self.server.evidence()
            )
        reported = began
        while True:
            left_s = began + deadline_s - time.monotonic()
            why = unready(self.server.host, self.server.port, path, max(min(_PROBE_S, left_s), _POLL_S))
            if why is None and not self.server.owns_port():
                why = f"another program answers at port {self.server.port}"
            ended = self.server.exited(0.0 if why is None else min(_POLL_S, max(left_s, 0.0)))
            now = time.monotonic()
            if ended is not None:
                evidence = self.server.evidence()
                return _Failure(verdict=ended_before_ready(self.spec, evidence, now - began), evidence=evidence)
            if why is None:
                return None
            if now >= began + deadline_s:
                evidence = self.server.evidence()
                return _Failure(verdict=not_ready_in_time(evidence, deadline_s, path, why), evidence=evidence)
            if now >= reported + _PROGRESS_S:
                reported = now
                self.watch(Progress(phase=Phase.STARTING, elapsed_s=now - began, note=why))

    def _loaded(self) -> Measurement | _Failure:
        """Loads the server that is ready."""
        began = time.monotonic()
        deadline_s = load_deadline_s(self.plan)

        def watched(progress: Progress) -> None:
            if self.server.exited(0.0) is not None or time.monotonic() > began + deadline_s:
                raise _LoadEndedEarly
            self.watch(progress)

        host, port = self.server.load_address()
        url = f"http://{host}:{port}"
        measurement: Measurement | None = None
        error: Exception | None = None
        try:
            with confined(self.generator_cores):
                measurement = self.driver.drive(url, self.spec.request, self.plan, watched)
        except (_LoadEndedEarly, TunerError) as caught:
            error = caught
        after_s = time.monotonic() - began
        good = measurement is not None and (
            # One that was ended early has been told from requests that it had not answered yet, maybe from all.
            measurement.ended_early is not None or error_rate(measurement) <= self.plan.max_error_rate
        )
        # A server that has died explains whatever the driver says, so that is looked at first; word of its
        # end may come a moment after the last connection has broken.
        ended = self.server.exited(0.0 if good else _SETTLE_S)
        if good and ended is None:
            assert measurement is not None
            return measurement
        evidence = self.server.evidence()
        if ended is not None:
            return _Failure(verdict=died_under_load(evidence, after_s), evidence=evidence, partial=measurement)
        if isinstance(error, _LoadEndedEarly):
            detail = f"it did not end within {deadline_s:.0f} s"
            return _Failure(verdict=stopped_answering(evidence, after_s, detail), evidence=evidence)
        if isinstance(error, GeneratorBoundError):
            verdict = Verdict(reason=Reason.GENERATOR_BOUND, message=str(error))
            return _Failure(verdict=verdict, evidence=evidence)
        if isinstance(error, UnavailableError):
            # It was ready, so it is the server that has stopped answering, and no user's mistake.
            return _Failure(verdict=stopped_answering(evidence, after_s, str(error)), evidence=evidence)
        if error is not None:
            raise error
        assert measurement is not None
        verdict = too_many_errors(measurement, self.plan.max_error_rate, evidence)
        return _Failure(verdict=verdict, evidence=evidence, partial=measurement)


def load_deadline_s(plan: TrialPlan) -> float:
    """When a load that has not ended is given up, s.

    Twice what it should take, where a search for the highest rate takes as many probes as doubling up
    through its bracket and halving down to its resolution do.
    """
    probes = 1
    if (bracket := plan.workload.rate_bracket) is not None:
        octaves = math.log2(bracket.high / bracket.low)
        probes += math.ceil(octaves) + math.ceil(math.log2(max(octaves / math.log2(1 + bracket.resolution), 2.0)))
    return 2 * probes * (plan.load_s + plan.request_timeout_s) + _LOAD_SLACK_S

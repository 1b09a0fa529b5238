"""A load driver for tests of runners: one client in this process, a few seconds at most."""

from __future__ import annotations

import http.client
import time
import urllib.request
from collections.abc import Callable

from tuner.errors import GeneratorBoundError, UnavailableError
from tuner.launch import RequestSpec, TemplateRequest
from tuner.metric import Metric
from tuner.trial import Estimate, Measurement, Phase, Progress, TrialPlan

_REQUESTS = 20


class BriefLoad:
    """Sends some requests per window, one after another; gives up when two have timed out."""

    def drive(self, url: str, request: RequestSpec, plan: TrialPlan, watch: Callable[[Progress], None]) -> Measurement:
        assert isinstance(request, TemplateRequest)
        shapes = request.shapes
        began = time.monotonic()
        completed = failed = timed_out = 0
        errors: list[str] = []
        while completed + failed < _REQUESTS * plan.windows and timed_out < 2:
            watch(Progress(phase=Phase.LOADING, elapsed_s=time.monotonic() - began, expected_s=plan.load_s))
            try:
                posted = urllib.request.Request(url + shapes.path, data=b"{}", method=shapes.method)
                with urllib.request.urlopen(posted, timeout=plan.request_timeout_s) as answer:
                    good = shapes.expect.encode() in answer.read()
                completed, failed = completed + good, failed + (not good)
            except TimeoutError:
                timed_out += 1
            except (OSError, http.client.HTTPException) as error:
                failed += 1
                errors.append(f"{type(error).__name__}: {error}")
        sent = completed + failed + timed_out
        return Measurement(
            metrics={
                Metric.THROUGHPUT.value: Estimate.exact(completed / plan.load_s),
                Metric.ERROR_RATE.value: Estimate.exact((sent - completed) / sent),
            },
            sent=sent,
            completed=completed,
            failed=failed,
            timed_out=timed_out,
            errors=tuple(dict.fromkeys(errors))[:3],
        )


class LateLoad(BriefLoad):
    """A generator that is too slow, the first few times.

    Args:
        times: how often.
    """

    def __init__(self, times: int) -> None:
        self._left = times

    def drive(self, url: str, request: RequestSpec, plan: TrialPlan, watch: Callable[[Progress], None]) -> Measurement:
        if self._left:
            self._left -= 1
            raise GeneratorBoundError("The generator was 40 ms late at the 99th percentile. Lower the rate.")
        return super().drive(url, request, plan, watch)


class InterruptedLoad:
    """A load during which the user presses Ctrl-C."""

    def drive(self, url: str, request: RequestSpec, plan: TrialPlan, watch: Callable[[Progress], None]) -> Measurement:
        raise KeyboardInterrupt


class UnansweredLoad:
    """A driver that finds nobody at the address."""

    def drive(self, url: str, request: RequestSpec, plan: TrialPlan, watch: Callable[[Progress], None]) -> Measurement:
        raise UnavailableError(f"Nothing answers at {url}.")

"""What driver and generator say to each other survives the pipe."""

from __future__ import annotations

import math

from hypothesis import given, settings
from hypothesis import strategies as st

from runners.load.job import Advanced, Job, Measured, Refused, dump_job, dump_report, load_job, load_report
from tests.runners.load.strategies import closed_loops, open_loops, traces
from tuner.launch import CompletionRequest, KServeRequest, RequestSpec, TemplateRequest, TensorInput
from tuner.metric import MetricRef
from tuner.slo import Slo
from tuner.trial import Estimate, Measurement, Phase, Progress, RateProbe, TrialPlan, Window
from tuner.workload import Lengths, RequestShapes, TemplateShapes, TensorShapes, TokenShapes, Workload

tokens = TokenShapes(input_tokens=Lengths.constant(5), output_tokens=Lengths.constant(9), shared_prefix_tokens=2)
pairs: st.SearchStrategy[tuple[RequestSpec, RequestShapes]] = st.sampled_from(
    [
        (CompletionRequest(model_name="m", shapes=tokens, token_ids=(1, 9), headers=(("A", "b"),)), tokens),
        (
            KServeRequest(
                model_name="m",
                inputs=(TensorInput(name="x", datatype="FP32", dims=((1,), (2, 3)), labels=("", "s")),),
                outputs=("y",),
            ),
            TensorShapes(dims=(("s", (2, 3)),)),
        ),
        (KServeRequest(model_name="m", inputs=()), TensorShapes()),
        (TemplateRequest(shapes=TemplateShapes()), TemplateShapes()),
        (TemplateRequest(shapes=TemplateShapes(body="{}", streamed=True)), TemplateShapes(body="{}", streamed=True)),
    ]
)


@given(pair=pairs, arrival=st.one_of(open_loops, closed_loops, traces), seed=st.integers(0, 2**32))
@settings(max_examples=60)
def test_job_arrives_as_it_was_sent(pair: tuple[RequestSpec, RequestShapes], arrival: object, seed: int) -> None:
    request, shapes = pair
    plan = TrialPlan(
        workload=Workload(arrival=arrival, requests=shapes),  # type: ignore[arg-type]
        slos=(Slo.parse("p99.9(latency) <= 50 ms"),),
        metrics=(MetricRef.parse("p75(ttft)"),),
        seed=seed,
    )
    job = Job(url="http://127.0.0.1:1", request=request, plan=plan)
    line = dump_job(job)
    assert line.count(b"\n") == 1
    assert load_job(line) == job
    assert math.isfinite(job.deadline_s)
    assert job.deadline_s > plan.load_s + plan.request_timeout_s


def test_reports_arrive_as_they_were_sent() -> None:
    measurement = Measurement(
        metrics={"throughput": Estimate(value=1.0, low=0.5, high=math.inf)},
        windows=(Window(start_s=0.0, duration_s=1.0, metrics={"throughput": 1.0}),),
        probes=(RateProbe(rate_rps=3.0, held=True, excess=-0.5),),
        errors=("HTTP 500",),
    )
    for report in (
        Advanced(progress=Progress(phase=Phase.WARMING_UP, elapsed_s=1.0, note="10 rps")),
        Measured(measurement=measurement),
        Refused(error="UnavailableError", message="line\nbreak"),
    ):
        assert load_report(dump_report(report)) == report

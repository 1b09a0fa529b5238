"""Workloads: when requests arrive and what they ask for."""

from __future__ import annotations

import enum
from dataclasses import dataclass

from tuner.errors import UsageError


class ArrivalProcess(enum.Enum):
    """How the gaps between open-loop arrivals are distributed."""

    POISSON = "poisson"
    GAMMA = "gamma"
    CONSTANT = "constant"


@dataclass(frozen=True, slots=True, kw_only=True)
class RateBracket:
    """Where to look for the highest arrival rate that holds the SLO, in requests/s.

    Attributes:
        low, high: the search stays within; both > 0.
        resolution: stop when the bracket's ends are within this ratio of each other.
    """

    low: float
    high: float
    resolution: float = 0.05

    def __post_init__(self) -> None:
        if not 0 < self.low < self.high:
            raise UsageError(f"The rate bracket {self.low} to {self.high} rps is empty. Write 0 < low < high.")
        if not 0 < self.resolution < 1:
            raise UsageError(f"The rate resolution {self.resolution} is not between 0 and 1.")


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenLoop:
    """Requests arrive whatever the server does.

    Attributes:
        process: distribution of the gaps.
        rate_rps: mean arrival rate, or the bracket in which the highest one is searched.
        cv: coefficient of variation of the gaps; used by gamma only (1 is Poisson).
    """

    process: ArrivalProcess = ArrivalProcess.POISSON
    rate_rps: float | RateBracket
    cv: float = 1.0

    def __post_init__(self) -> None:
        if isinstance(self.rate_rps, float | int) and not self.rate_rps > 0:
            raise UsageError(f"The arrival rate is {self.rate_rps} rps. Write more than 0.")
        if not self.cv > 0:
            raise UsageError(f"The coefficient of variation is {self.cv}. Write more than 0.")


@dataclass(frozen=True, slots=True, kw_only=True)
class ClosedLoop:
    """A fixed number of clients, each sending its next request when the last is answered.

    Attributes:
        clients: how many.
        think_time_s: pause of each client between an answer and its next request.
    """

    clients: int
    think_time_s: float = 0.0

    def __post_init__(self) -> None:
        if self.clients < 1:
            raise UsageError(f"A closed loop of {self.clients} clients sends nothing. Write 1 or more.")
        if self.think_time_s < 0:
            raise UsageError(f"The think time is {self.think_time_s} s. Write 0 or more.")


@dataclass(frozen=True, slots=True, kw_only=True)
class TraceRequest:
    """One row of a trace: arrival in seconds from the first row, and token counts where it has them."""

    arrival_s: float
    input_tokens: int | None = None
    output_tokens: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class TraceReplay:
    """The user's own traffic, replayed.

    Attributes:
        source: the file it was read from.
        requests: by ascending arrival; replay starts over when the trial outlasts them.
        speed: 2 replays twice as fast.
    """

    source: str
    requests: tuple[TraceRequest, ...]
    speed: float = 1.0

    def __post_init__(self) -> None:
        if not self.requests:
            raise UsageError(f"The trace {self.source} holds no requests.")
        if not self.speed > 0:
            raise UsageError(f"The trace speed is {self.speed}. Write more than 0.")


Arrival = OpenLoop | ClosedLoop | TraceReplay


class LengthShape(enum.Enum):
    """Distributions of token counts."""

    CONSTANT = "constant"
    UNIFORM = "uniform"
    NORMAL = "normal"
    LOGNORMAL = "lognormal"


@dataclass(frozen=True, slots=True, kw_only=True)
class Lengths:
    """A distribution of token counts, clipped to `low`..`high`.

    Attributes:
        shape: constant uses `mean` alone, uniform `low` and `high`.
        mean, std: of the unclipped distribution, tokens.
        low, high: bounds, tokens.
    """

    shape: LengthShape = LengthShape.CONSTANT
    mean: float
    std: float = 0.0
    low: int = 1
    high: int

    def __post_init__(self) -> None:
        if not 1 <= self.low <= self.high:
            raise UsageError(f"Token lengths from {self.low} to {self.high} are no range. Write 1 <= low <= high.")
        if not self.mean >= 1 or self.std < 0:
            raise UsageError(f"Token lengths of mean {self.mean} and spread {self.std} make no sense.")

    @classmethod
    def constant(cls, tokens: int) -> Lengths:
        """Always the same length."""
        return cls(shape=LengthShape.CONSTANT, mean=tokens, low=tokens, high=tokens)


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorShapes:
    """Requests of a classic model: sizes of the dynamic dimensions.

    Attributes:
        dims: by name of a dynamic dimension (`sequence`) or of an input (`input_ids`, all its dynamic
            dimensions but the batch), the sizes to draw from, uniformly; one size means always that one.
        rows: how many rows (batch) one request carries.
    """

    dims: tuple[tuple[str, tuple[int, ...]], ...] = ()
    rows: int = 1

    def __post_init__(self) -> None:
        if self.rows < 1:
            raise UsageError(f"A request of {self.rows} rows asks for nothing. Write 1 or more.")
        for name, sizes in self.dims:
            if not sizes or min(sizes) < 1:
                raise UsageError(f"Dimension {name!r} has the sizes {list(sizes)}. Write sizes of 1 or more.")


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenShapes:
    """Requests of a language model.

    Attributes:
        input_tokens, output_tokens: lengths, drawn independently (a trace's own lengths go before them).
        shared_prefix_tokens: leading prompt tokens that all requests have in common.
    """

    input_tokens: Lengths
    output_tokens: Lengths
    shared_prefix_tokens: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class TemplateShapes:
    """Requests of an endpoint of any kind.

    Attributes:
        method: HTTP method.
        path: path on the server.
        headers: by name.
        body: text sent; `{request_id}` becomes the request's number, `{{` and `}}` are braces.
        streamed: the answer arrives in pieces: the first one ends TTFT.
        expect: text that a good answer contains; empty accepts any.
    """

    method: str = "POST"
    path: str = "/"
    headers: tuple[tuple[str, str], ...] = ()
    body: str = ""
    streamed: bool = False
    expect: str = ""


RequestShapes = TensorShapes | TokenShapes | TemplateShapes


@dataclass(frozen=True, slots=True, kw_only=True)
class Workload:
    """Traffic to tune for."""

    arrival: Arrival
    requests: RequestShapes

    @property
    def rate_bracket(self) -> RateBracket | None:
        """Where a trial looks for the highest arrival rate that holds the SLO; `None` where it does not."""
        rate = self.arrival.rate_rps if isinstance(self.arrival, OpenLoop) else None
        return rate if isinstance(rate, RateBracket) else None

"""Records: what became of every request of one load, as columns.

Symbols: n requests, m pieces; times in seconds from the start of the load.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from runners.load.exchange import Exchange, Fate

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Flags = npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Records:
    """Every request that was sent.

    Attributes:
        due_s: intended send times, (n,).
        dispatched_s: when the generator got to them, (n,).
        finished_s: when their fate was settled, NaN while open, (n,).
        first_s: first tokens, NaN where none came, (n,).
        fate: `Fate` values, (n,).
        counted: whether they were due inside the steady windows, (n,).
        input_tokens: (n,), 0 where unknown.
        asked_tokens: output tokens asked for, (n,), 0 where unknown.
        output_tokens: that came, (n,), -1 where unknown.
        piece_s: arrival of every token-carrying piece, requests one after the other, (m,).
        piece_owner: index of the request of each, (m,).
        streamed: whether answers come in pieces.
        errors: texts with their counts, warm-up included.
        ended_s: when the load ended; requests open then have waited until then.
    """

    due_s: Floats
    dispatched_s: Floats
    finished_s: Floats
    first_s: Floats
    fate: Ints
    counted: Flags
    input_tokens: Ints
    asked_tokens: Ints
    output_tokens: Ints
    piece_s: Floats
    piece_owner: Ints
    streamed: bool
    errors: Counter[str]
    ended_s: float

    @property
    def completed(self) -> Flags:
        """Which requests got a good answer, (n,)."""
        return np.equal(self.fate, Fate.COMPLETED)


def collect(exchanges: Sequence[Exchange], start_s: float, end_s: float) -> Records:
    """The columns of `exchanges`, whose load ran from `start_s` to `end_s` of the monotonic clock."""
    answers = [exchange.answer for exchange in exchanges]
    pieces = [answer.pieces_s or [] for answer in answers]
    lengths = np.array([len(piece) for piece in pieces], dtype=np.int64)
    nan = float("nan")
    return Records(
        due_s=np.array([exchange.due_s for exchange in exchanges], dtype=np.float64) - start_s,
        dispatched_s=np.array([exchange.dispatched_s for exchange in exchanges], dtype=np.float64) - start_s,
        finished_s=np.array(
            [nan if exchange.fate is Fate.OPEN else exchange.finished_s for exchange in exchanges], dtype=np.float64
        )
        - start_s,
        first_s=np.array([nan if answer.first_s is None else answer.first_s for answer in answers], dtype=np.float64)
        - start_s,
        fate=np.array([exchange.fate for exchange in exchanges], dtype=np.int64),
        counted=np.array([exchange.counted for exchange in exchanges], dtype=np.bool_),
        input_tokens=np.array([exchange.input_tokens for exchange in exchanges], dtype=np.int64),
        asked_tokens=np.array([exchange.asked_tokens for exchange in exchanges], dtype=np.int64),
        output_tokens=np.array(
            [-1 if answer.output_tokens is None else answer.output_tokens for answer in answers], dtype=np.int64
        ),
        piece_s=np.array([time_s for piece in pieces for time_s in piece], dtype=np.float64) - start_s,
        piece_owner=np.repeat(np.arange(len(exchanges), dtype=np.int64), lengths),
        streamed=any(answer.pieces_s is not None for answer in answers[:1]),
        errors=Counter(exchange.error for exchange in exchanges if exchange.error is not None),
        ended_s=end_s - start_s,
    )

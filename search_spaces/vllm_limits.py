"""What model, options and traffic together allow a vLLM server."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from search_spaces.huggingface import LanguageModel
from tuner.errors import UsageError
from tuner.workload import ClosedLoop, TokenShapes, TraceReplay, Workload

_UNKNOWN_CONTEXT: Final = 2048  # config/model.py, _get_and_verify_max_len


@dataclass(frozen=True, slots=True, kw_only=True)
class ServingLimits:
    """What model, options and traffic together allow.

    Attributes:
        max_model_len: the longest sequence that the server accepts, tokens.
        longest_request: prompt and answer of the longest request of the workload, tokens.
        longest_prompt: its prompt, tokens.
        clients: how many requests can be in flight; `None` in an open loop.
    """

    max_model_len: int
    longest_request: int
    longest_prompt: int
    clients: int | None

    @classmethod
    def of(cls, model: LanguageModel, max_model_len: int | None, workload: Workload) -> ServingLimits:
        """The limits; `max_model_len` is the user's.

        Raises:
            UsageError: the workload asks for no tokens, or for more than the server can accept.
        """
        context = model.context_tokens
        if max_model_len is not None and context is not None and max_model_len > context:
            raise UsageError(
                f"max_model_len is {max_model_len}, but the model was made for {context} tokens. "
                f"Write {context} or less under `engine`."
            )
        length = max_model_len or context or _UNKNOWN_CONTEXT
        shapes = workload.requests
        if not isinstance(shapes, TokenShapes):
            raise UsageError(
                "vLLM serves language models, and the workload's requests carry no tokens. "
                "Write workload.requests: {tokens: {input: 128, output: 64}}."
            )
        prompt, answer = _longest(workload, shapes)
        if prompt + answer > length:
            raise UsageError(
                f"The workload's longest request has {prompt} input and {answer} output tokens, {prompt + answer} "
                f"together, but the server accepts {length}. Shorten the requests"
                + (f", or raise max_model_len (up to {context})." if context and context > length else ".")
            )
        clients = workload.arrival.clients if isinstance(workload.arrival, ClosedLoop) else None
        return cls(max_model_len=length, longest_request=prompt + answer, longest_prompt=prompt, clients=clients)


def _longest(workload: Workload, shapes: TokenShapes) -> tuple[int, int]:
    prompts = [max(shapes.input_tokens.high, shapes.shared_prefix_tokens)]
    answers = [shapes.output_tokens.high]
    if isinstance(workload.arrival, TraceReplay):
        # A trace's own lengths go before the drawn ones.
        rows = workload.arrival.requests
        prompts = [row.input_tokens or prompts[0] for row in rows]
        answers = [row.output_tokens or answers[0] for row in rows]
        return max(zip(prompts, answers, strict=True), key=sum)
    return prompts[0], answers[0]

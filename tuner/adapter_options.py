"""Options that an adapter refuses, told as faults: one wording for every adapter that checks with pydantic."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from tuner.errors import Fault, OptionsError, did_you_mean


def options_error(adapter: str, known: Iterable[str], details: Iterable[Mapping[str, Any]]) -> OptionsError:
    """All faults of an adapter's options.

    Args:
        adapter: its name.
        known: names of its options.
        details: what `ValidationError.errors()` of pydantic returns. The message of a validator's own
            `ValueError` has the form `problem. remedy`, without a full stop at the end.
    """
    names = tuple(known)
    return OptionsError(adapter, [_fault(names, detail) for detail in details])


def _fault(known: tuple[str, ...], detail: Mapping[str, Any]) -> Fault:
    where = ".".join(map(str, detail["loc"]))
    if detail["type"] == "extra_forbidden":
        return Fault(where=where, problem="is no option.", remedy=did_you_mean(where, known))
    told = str(detail["msg"]).removeprefix("Value error, ")
    problem, _, remedy = told.partition(". ")
    seen = "" if repr(detail["input"]) in told else f" (it is {detail['input']!r})"
    return Fault(where=where, problem=f"{problem}{seen}.", remedy=f"{remedy}." if remedy else "")

"""What pydantic refuses of an adapter's options, told as faults: one wording for every adapter."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Protocol

from tuner.errors import Fault, did_you_mean


class Described(Protocol):
    """A field of a pydantic model, as far as it is needed here."""

    @property
    def description(self) -> str | None:
        """What it is for."""
        ...


def option_faults(
    fields: Mapping[str, Described],
    details: Iterable[Mapping[str, Any]],
    inner: Mapping[str, Iterable[str]] | None = None,
) -> list[Fault]:
    """A fault for every refusal, each at its place.

    Args:
        fields: of the options, by name.
        details: what `ValidationError.errors()` of pydantic returns. A validator's own `ValueError` says
            `problem. remedy`, without a full stop at the end.
        inner: by option, names of the fields in it.
    """
    return [_fault(fields, inner or {}, detail) for detail in details]


def _fault(fields: Mapping[str, Described], inner: Mapping[str, Iterable[str]], detail: Mapping[str, Any]) -> Fault:
    place = [str(part) for part in detail["loc"] if part != "[key]"]
    where = ".".join(place)
    field = fields.get(place[0]) if place else None
    description = "" if field is None else field.description or ""
    if detail["type"] == "extra_forbidden":
        known = fields if len(place) == 1 else inner.get(place[0], ())
        return Fault(where=where, problem=f"{place[-1]!r} is no option.", remedy=did_you_mean(place[-1], known))
    told = str(detail["msg"]).removeprefix("Value error, ")
    problem, _, remedy = told.partition(". ")
    seen = "" if repr(detail["input"]) in told else f" (it is {detail['input']!r})"
    return Fault(where=where, problem=f"{problem}{seen}.", remedy=f"{remedy}." if remedy else description)

"""Enumeration: all rows of a search space that its rules allow.

It goes parameter by parameter and drops what a rule forbids as soon as all the parameters of the rule are known;
a rule is called once per combination of *its own* parameters that occurs. Symbols are those of `candidates`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final

import numpy as np
import numpy.typing as npt

from tuner.errors import SpaceError
from tuner.parameter import Parameter, Value
from tuner.space import Rule, Space

Rows = npt.NDArray[np.int16]
"""Configurations, shape (n, d): per parameter the position of its value in the domain, or `INACTIVE`."""

INACTIVE: Final = -1

_BLOCK: Final = 1_000_000
"""Rows expanded at a time, which bounds the memory that a late rule would otherwise cost."""

_ALONE: Final = 100_000
"""Combinations that a rule is looked at alone with, at most."""


def valid_rows(space: Space, limit: int, generator: np.random.Generator) -> tuple[Rows, bool]:
    """The rows that are valid, or a random `limit` of them where there are more; and whether these are all.

    Raises:
        SpaceError: no configuration is valid; it names the rules that rule out most.
    """
    rows = np.zeros((1, 0), dtype=np.int16)
    placed: list[int] = []
    complete = True
    for column in _expansion_order(space):
        rules = [rule for rule in space.rules if _decided_by(space, rule, column, placed)]
        rows, cut = _expand(space, rows, placed, column, rules, limit, generator)
        complete = complete and not cut
        placed.append(column)
        if not len(rows):
            raise SpaceError(_why_empty(space, complete, generator))
    return np.ascontiguousarray(rows[:, np.argsort(placed)]), complete


def _expansion_order(space: Space) -> list[int]:
    """Columns in an order that lets rules bind early: those that rules speak of first, with their conditions."""
    number = {parameter.name: position for position, parameter in enumerate(space.parameters)}
    order: list[int] = []

    def place(name: str) -> None:
        if number[name] in order:
            return
        for condition in space[name].active_when:
            place(condition.parameter)
        order.append(number[name])

    for rule in sorted(space.rules, key=lambda rule: len(rule.over)):
        for name in rule.over:
            place(name)
    for name in space.names:
        place(name)
    return order


def _decided_by(space: Space, rule: Rule, column: int, placed: Sequence[int]) -> bool:
    """Whether `column` is the last parameter that the rule waits for."""
    names = {space.parameters[number].name for number in placed}
    last = space.parameters[column].name
    return set(rule.over) <= names | {last} and (last in rule.over or (not rule.over and not placed))


def _expand(
    space: Space,
    rows: Rows,
    placed: Sequence[int],
    column: int,
    rules: Sequence[Rule],
    limit: int,
    generator: np.random.Generator,
) -> tuple[Rows, bool]:
    """`rows` with every value of one more parameter, without what `rules` forbid; and whether some were left out."""
    parameter = space.parameters[column]
    columns = [*placed, column]
    kept: list[Rows] = []
    count, share = 0, 1.0
    block = max(1, _BLOCK // len(parameter.values))
    for start in range(0, len(rows), block):
        grown = _grown(space, parameter, rows[start : start + block], placed)
        for rule in rules:
            grown = grown[holds(space, rule, grown, columns)]
        if share < 1.0:
            grown = grown[generator.random(len(grown)) < share]
        kept.append(grown)
        count += len(grown)
        while count > 2 * limit:
            # Thinning as it goes, all that is kept by the same share, bounds the memory and stays uniform.
            thinned = np.concatenate(kept)
            kept = [thinned[generator.random(len(thinned)) < 0.5]]
            count, share = len(kept[0]), share / 2.0
    result = np.concatenate(kept)
    if count > limit:
        result = result[np.sort(generator.choice(count, size=limit, replace=False))]
    return result, share < 1.0 or count > limit


def _grown(space: Space, parameter: Parameter, rows: Rows, placed: Sequence[int]) -> Rows:
    """Every row with every value of one more parameter, or with `INACTIVE` where its conditions do not hold."""
    varies = active(space, parameter, rows, placed)
    counts = np.where(varies, len(parameter.values), 1)
    first = np.repeat(np.cumsum(counts) - counts, counts)
    values = np.where(np.repeat(varies, counts), np.arange(len(first)) - first, INACTIVE)
    return np.concatenate([np.repeat(rows, counts, axis=0), values[:, None].astype(np.int16)], axis=1)


def active(space: Space, parameter: Parameter, rows: Rows, placed: Sequence[int]) -> npt.NDArray[np.bool_]:
    """In which rows the conditions of a parameter hold.

    Args:
        space, parameter: which.
        rows: shape (n, len(placed)).
        placed: which parameters the columns are; those of the conditions are among them.
    """
    found = np.ones(len(rows), dtype=bool)
    for condition in parameter.active_when:
        other = space[condition.parameter]
        truth = np.array([*(condition.holds({other.name: value}) for value in other.values), False])
        at = placed.index(space.names.index(other.name))
        found &= truth[rows[:, at]]  # INACTIVE is -1 and so reads the last entry
    return found


def holds(space: Space, rule: Rule, rows: Rows, columns: Sequence[int]) -> npt.NDArray[np.bool_]:
    """Which rows the rule allows, calling it once per combination of its parameters that occurs."""
    names = list(dict.fromkeys(rule.over))
    parameters = [space[name] for name in names]
    at = [columns.index(space.names.index(name)) for name in names]
    if not names:
        return np.full(len(rows), rule.holds(), dtype=bool)
    combinations, inverse = _unique_rows(rows[:, at], [len(parameter.values) + 1 for parameter in parameters])
    truth = np.array([rule.holds(**_values(parameters, combination)) for combination in combinations], dtype=bool)
    return truth[inverse]


def _values(parameters: Sequence[Parameter], row: Rows) -> dict[str, Value | None]:
    return {
        parameter.name: None if level == INACTIVE else parameter.values[level]
        for parameter, level in zip(parameters, row.tolist(), strict=True)
    }


def _unique_rows(rows: Rows, sizes: Sequence[int]) -> tuple[Rows, npt.NDArray[np.int64]]:
    """Distinct rows, and for each row its position among them; `sizes` count the values per column, -1 included."""
    if math.prod(sizes) >= 2**62:
        distinct, inverse = np.unique(rows, axis=0, return_inverse=True)
        return distinct, inverse.reshape(-1)
    codes = np.zeros(len(rows), dtype=np.int64)
    for number, size in enumerate(sizes):
        codes = codes * size + rows[:, number] + 1
    _, first, inverse = np.unique(codes, return_index=True, return_inverse=True)
    return rows[first], inverse.reshape(-1)


def _why_empty(space: Space, complete: bool, generator: np.random.Generator) -> str:
    """Names the rules that rule out most, each taken alone."""
    shares: list[tuple[float, Rule]] = []
    for rule in space.rules:
        rows = _rows_over(space, rule, generator)
        shares.append((1.0 - float(holds(space, rule, rows, range(len(space.parameters))).mean()), rule))
    shares.sort(key=lambda item: -item[0])
    worst = [f"{rule.says} (rules out {share:.0%})" for share, rule in shares[:3] if share > 0]
    alone = [rule for share, rule in shares if share == 1.0]
    found = "No configuration is valid" if complete else "No valid configuration was found in a large sample"
    if alone:
        names = "; ".join(rule.says for rule in alone[:3])
        return f"{found}: nothing satisfies {names}. Widen {_over(alone[0])}."
    return f"{found}: the rules leave nothing together: {'; '.join(worst)}. Widen {_over(shares[0][1])}."


def _over(rule: Rule) -> str:
    return " or ".join(repr(name) for name in rule.over) or "the space"


def _rows_over(space: Space, rule: Rule, generator: np.random.Generator) -> Rows:
    """Every combination of a rule's parameters and their conditions, others at their default."""
    needed = set(rule.over)
    for parameter in reversed(space.parameters):
        if parameter.name in needed:
            needed |= {condition.parameter for condition in parameter.active_when}
    narrowed = Space(
        parameters=tuple(
            parameter
            if parameter.name in needed
            else Parameter(name=parameter.name, values=(parameter.default,), default=parameter.default)
            for parameter in space.parameters
        )
    )
    rows, _ = valid_rows(narrowed, _ALONE, generator)
    defaults = [parameter.index(parameter.default) for parameter in space.parameters]
    for number, parameter in enumerate(space.parameters):
        if parameter.name not in needed:
            rows[:, number] = np.where(rows[:, number] == INACTIVE, INACTIVE, defaults[number])
    return rows

"""Rules of the `command` engine: `threads * workers <= cpus`, `mode == "async" or queue >= 2 * batch`.

Python's syntax, but only names, numbers, texts, arithmetic, comparisons, `in`, `and`, `or` and `not`: a rule is
read as a tree and walked; nothing in it can be called.
"""

from __future__ import annotations

import ast
import operator
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

from tuner.errors import UsageError
from tuner.parameter import Value

Operand = Value | tuple["Operand", ...] | None

_LONGEST: Final = 500  # characters; keeps the tree shallow
_ARITHMETIC: Final[dict[type[ast.operator], Callable[[int | float, int | float], int | float]]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
}
_ORDER: Final[dict[type[ast.cmpop], Callable[[Value, Value], bool]]] = {
    ast.Lt: lambda left, right: bool(operator.lt(left, right)),
    ast.LtE: lambda left, right: bool(operator.le(left, right)),
    ast.Gt: lambda left, right: bool(operator.gt(left, right)),
    ast.GtE: lambda left, right: bool(operator.ge(left, right)),
}
_WRITE: Final = "Write a comparison of parameters, for example threads * workers <= 8."


class RuleError(UsageError):
    """A rule that cannot be understood, or makes no sense of the values."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """A rule, read.

    Attributes:
        text: as the user wrote it.
        names: what it speaks of, in order of appearance.
        tree: what it says; holds only what `parse` lets through.
    """

    text: str
    names: tuple[str, ...]
    tree: ast.expr

    @classmethod
    def parse(cls, text: str) -> Comparison:
        """The rule that `text` states.

        Raises:
            RuleError: it does not parse, or says more than a rule may, with the column.
        """
        if len(text) > _LONGEST:
            raise RuleError(f"The rule has {len(text)} characters. Split it into rules of {_LONGEST} at most.")
        try:
            tree = ast.parse(text.strip(), mode="eval").body
        except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
            column = getattr(error, "offset", None)
            place = f" at column {column}" if column else ""
            raise RuleError(f"{text!r} does not parse{place}. {_WRITE}") from error
        names: dict[str, None] = {}
        _check(tree, text, names)
        if not isinstance(tree, ast.Compare | ast.BoolOp | ast.Name) and not (
            isinstance(tree, ast.UnaryOp) and isinstance(tree.op, ast.Not)
        ):
            raise RuleError(f"{text!r} is no comparison. {_WRITE}")
        if not names:
            raise RuleError(f"{text!r} speaks of no parameter. {_WRITE}")
        return cls(text=text.strip(), names=tuple(names), tree=tree)

    def holds(self, values: Mapping[str, Value | None]) -> bool:
        """Whether the rule holds; one that divides by zero does not.

        Raises:
            RuleError: it compares or reckons with what cannot be compared or reckoned with.
        """
        try:
            return bool(_value(self.tree, values))
        except ZeroDivisionError:
            return False
        except OverflowError:
            return False
        except TypeError as error:
            shown = ", ".join(f"{name}={values[name]!r}" for name in self.names)
            raise RuleError(
                f"{self.text!r} cannot be worked out for {shown}: {error}. Compare numbers with numbers."
            ) from error


def _check(node: ast.AST, text: str, names: dict[str, None]) -> None:
    match node:
        case ast.Name(id=name):
            names[name] = None
        case ast.Constant(value=bool() | int() | float() | str()):
            pass
        case ast.BinOp(left=left, op=op, right=right) if type(op) in _ARITHMETIC:
            _check(left, text, names)
            _check(right, text, names)
        case ast.UnaryOp(op=ast.Not() | ast.USub(), operand=operand):
            _check(operand, text, names)
        case ast.BoolOp(values=parts) | ast.Tuple(elts=parts) | ast.List(elts=parts):
            for part in parts:
                _check(part, text, names)
        case ast.Compare(left=left, ops=ops, comparators=others) if not any(
            isinstance(op, ast.Is | ast.IsNot) for op in ops
        ):
            for part in (left, *others):
                _check(part, text, names)
        case _:
            column = getattr(node, "col_offset", 0) + 1
            raise RuleError(
                f"{text!r} has something at column {column} that a rule may not say. "
                "Use names, numbers, texts in quotes, + - * / // %, comparisons, in, and, or, not."
            )


def _value(node: ast.expr, values: Mapping[str, Value | None]) -> Operand:
    match node:
        case ast.Name(id=name):
            return values[name]
        case ast.Constant(value=bool() | int() | float() | str() as constant):
            return constant
        case ast.Tuple(elts=parts) | ast.List(elts=parts):
            return tuple(_value(part, values) for part in parts)
        case ast.UnaryOp(op=ast.Not(), operand=operand):
            return not _value(operand, values)
        case ast.UnaryOp(operand=operand):
            return -_number(_value(operand, values))
        case ast.BinOp(left=left, op=op, right=right):
            return _ARITHMETIC[type(op)](_number(_value(left, values)), _number(_value(right, values)))
        case ast.BoolOp(op=ast.And(), values=parts):
            return all(_value(part, values) for part in parts)
        case ast.BoolOp(values=parts):
            return any(_value(part, values) for part in parts)
        case ast.Compare(left=left, ops=ops, comparators=others):
            operands = [_value(part, values) for part in (left, *others)]
            return all(
                _compared(first, op, second) for first, op, second in zip(operands, ops, operands[1:], strict=False)
            )
        case _:
            raise AssertionError(f"{ast.dump(node)} got past the check")


def _number(value: Operand) -> int | float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"{value!r} is no number")
    return value


def _compared(first: Operand, op: ast.cmpop, second: Operand) -> bool:
    match op:
        case ast.Eq():
            return first == second
        case ast.NotEq():
            return first != second
        case ast.In() | ast.NotIn():
            if not isinstance(second, tuple):
                raise TypeError(f"{second!r} is no list of values")
            return (first in second) == isinstance(op, ast.In)
        case _:
            if isinstance(first, str) and isinstance(second, str):
                return _ORDER[type(op)](first, second)
            return _ORDER[type(op)](_number(first), _number(second))

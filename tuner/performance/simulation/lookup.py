"""Step times looked up by compiled code, and what else its loops call."""

from __future__ import annotations

from typing import Any

from tuner.performance.simulation.compiled import compiled


def _find_python(axis: Any, value: Any) -> Any:
    """Place below `value` on an ascending axis, by bisection."""
    low, high = 0, axis.shape[0] - 1
    while high - low > 1:
        middle = (low + high) // 2
        if axis[middle] <= value:
            low = middle
        else:
            high = middle
    return low


_find = compiled(_find_python)


def _line_python(axis: Any, values: Any, x: Any) -> Any:
    """Linear between points, proportional beyond the last."""
    last = axis.shape[0] - 1
    if x <= axis[0]:
        return values[0]
    if x >= axis[last]:
        return values[last] * x / axis[last]
    low = _find(axis, x)
    share = (x - axis[low]) / (axis[low + 1] - axis[low])
    return values[low] + share * (values[low + 1] - values[low])


line = compiled(_line_python)


def _plane_python(rows: Any, columns: Any, values: Any, x: Any, y: Any) -> Any:
    """Bilinear within, proportional beyond the last row and column."""
    stretch = 1.0
    if x > rows[-1]:
        stretch *= x / rows[-1]
        x = rows[-1]
    if y > columns[-1]:
        stretch *= y / columns[-1]
        y = columns[-1]
    x, y = max(x, rows[0]), max(y, columns[0])
    i, j = _find(rows, x), _find(columns, y)
    u = (x - rows[i]) / (rows[i + 1] - rows[i])
    v = (y - columns[j]) / (columns[j + 1] - columns[j])
    low = values[i, j] * (1 - v) + values[i, j + 1] * v
    high = values[i + 1, j] * (1 - v) + values[i + 1, j + 1] * v
    return stretch * (low * (1 - u) + high * u)


plane = compiled(_plane_python)


def _decode_python(table: Any, skew: Any, sequences: Any, context: Any, longest: Any) -> Any:
    """Attention of decoding sequences, by their mean and their longest context."""
    even = plane(table[0], table[1], table[2], sequences, context)
    if skew == 0.0:
        return even
    return even + skew * (plane(table[0], table[1], table[2], sequences, longest) - even)


decode_attention = compiled(_decode_python)


def _with_host_python(gpu: Any, sequences: Any, host: Any, each: Any, overlapped: Any) -> Any:
    own = host + each * sequences
    return max(gpu, own) if overlapped else gpu + own


with_host = compiled(_with_host_python)


def _answered_python(arrival: Any, due: Any, then: Any) -> Any:
    """A client has its answer: its next request, where one is left, arrives `then`. Returns how many are due."""
    if due >= arrival.shape[0]:
        return due
    arrival[due] = then
    return due + 1


answered = compiled(_answered_python)

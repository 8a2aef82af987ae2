"""A plot of time per test against the number of tests, as SVG."""

from __future__ import annotations

import math
from collections.abc import Mapping
from xml.sax.saxutils import escape

Curve = Mapping[str, Mapping[int, float]]
"""The seconds of a session for each way of running it, by the number of tests."""

_WIDTH, _HEIGHT = 640, 400
_LEFT, _RIGHT, _TOP, _BOTTOM = 64, 88, 24, 52
_FONT = 'font-family="sans-serif" font-size="13"'
_ACROSS, _UP = "tests in a session", "milliseconds a test, start included"
_COLOURS = ("#0072b2", "#e69f00", "#d55e00", "#009e73")


def svg(curve: Curve, about: str) -> str:
    """The plot of milliseconds a test, both axes logarithmic; ``about`` is a line above it."""
    lines = {
        name: {tests: 1000 * spent / tests for tests, spent in points.items()}
        for name, points in curve.items()
    }
    horizontal = _decades([tests for points in lines.values() for tests in points])
    vertical = _decades([spent for points in lines.values() for spent in points.values()])
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {_HEIGHT}" {_FONT}>',
        f'<rect width="{_WIDTH}" height="{_HEIGHT}" fill="#fff"/>',
    ]
    for power in range(horizontal[0], horizontal[1] + 1):
        x = _x(10.0**power, horizontal)
        parts += [
            f'<path d="M{x} {_TOP}V{_HEIGHT - _BOTTOM}" stroke="#ddd"/>',
            f'<text x="{x}" y="{_HEIGHT - _BOTTOM + 18}" text-anchor="middle">{10**power:,}</text>',
        ]
    for power in range(vertical[0], vertical[1] + 1):
        y = _y(10.0**power, vertical)
        parts += [
            f'<path d="M{_LEFT} {y}H{_WIDTH - _RIGHT}" stroke="#ddd"/>',
            f'<text x="{_LEFT - 8}" y="{y + 4}" text-anchor="end">{10.0**power:g}</text>',
        ]
    for colour, (name, points) in zip(_COLOURS, lines.items(), strict=False):
        places = [(_x(tests, horizontal), _y(points[tests], vertical)) for tests in sorted(points)]
        path = "L".join(f"{x} {y}" for x, y in places)
        x, y = places[-1]
        parts += [
            f'<path d="M{path}" fill="none" stroke="{colour}" stroke-width="2"/>',
            *(f'<circle cx="{x}" cy="{y}" r="3" fill="{colour}"/>' for x, y in places),
            f'<text x="{x + 8}" y="{y + 4}" fill="{colour}">{name}</text>',
        ]
    parts.append(f'<text x="{_LEFT}" y="14" fill="#666">{escape(about)}</text>')
    middle = (_TOP + _HEIGHT - _BOTTOM) // 2
    parts += [
        f'<text x="{_WIDTH // 2}" y="{_HEIGHT - 12}" text-anchor="middle">{_ACROSS}</text>',
        f'<text transform="translate(16 {middle}) rotate(-90)" text-anchor="middle">{_UP}</text>',
        "</svg>",
    ]
    return "\n".join(parts) + "\n"


def _decades(values: list[float] | list[int]) -> tuple[int, int]:
    """The powers of ten below and above all values."""
    low, high = math.floor(math.log10(min(values))), math.ceil(math.log10(max(values)))
    return low, max(high, low + 1)


def _x(value: float, powers: tuple[int, int]) -> float:
    share = (math.log10(value) - powers[0]) / (powers[1] - powers[0])
    return round(_LEFT + share * (_WIDTH - _LEFT - _RIGHT), 1)


def _y(value: float, powers: tuple[int, int]) -> float:
    share = (math.log10(value) - powers[0]) / (powers[1] - powers[0])
    return round(_HEIGHT - _BOTTOM - share * (_HEIGHT - _TOP - _BOTTOM), 1)

"""Format times, sizes, counts and rates for people."""

from __future__ import annotations

import math
from typing import Any


def to_finite_float(value: Any) -> float | None:
    """Return the value as a finite float, or None if it is not one."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    return float(value) if math.isfinite(value) else None


def format_value(value: Any, digits: int = 4) -> str:
    """Return a float with this number of significant digits, and any other value as text."""
    if isinstance(value, float) and math.isfinite(value):
        return f"{value:.0f}" if abs(value) >= 10**digits else f"{value:.{digits}g}"
    return str(value)


def format_significant(value: float) -> str:
    """Return three significant digits without an exponent: 4.21, 42.1, 421, 4210."""
    decimals = 2 if abs(value) < 9.995 else 1 if abs(value) < 99.95 else 0
    return f"{value:.{decimals}f}"


def format_duration(seconds: float) -> str:
    """Return seconds in a suitable unit: ``3.2 s``, ``4 min 12 s``, ``2 h 05 min``."""
    if not math.isfinite(seconds):
        return "unknown"
    if seconds < 9.95:
        return f"{max(0.0, seconds):.1f} s"
    whole = round(seconds)
    if whole < 100:
        return f"{whole} s"
    if whole < 600:
        return f"{whole // 60} min {whole % 60:02d} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 120 else f"{minutes // 60} h {minutes % 60:02d} min"


def format_bytes(count: float) -> str:
    """Return bytes in decimal units: ``23.1 MB``."""
    for unit, scale in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= scale:
            return f"{format_significant(count / scale)} {unit}"
    return f"{count:.0f} B"


def format_milliseconds(value: float) -> str:
    """Return milliseconds with their unit: ``4.21 ms``."""
    return f"{format_significant(value)} ms"


def format_count(value: float) -> str:
    """Return a count: ``67,349``, and in millions from one million on (``22.7 M``)."""
    if value >= 1e9:
        return f"{format_significant(value / 1e9)} G"
    return f"{format_significant(value / 1e6)} M" if value >= 1e6 else f"{value:,.0f}"


def format_rate(value: float) -> str:
    """Return a rate without its unit: ``812``, ``24.1 k``."""
    if value >= 1e6:
        return f"{format_significant(value / 1e6)} M"
    return f"{format_significant(value / 1e3)} k" if value >= 1e4 else format_significant(value)


def format_per_second(value: float) -> str:
    """Return a rate per second: ``812/s``."""
    return f"{format_rate(value)}/s"


def format_ratio(value: float) -> str:
    """Return a factor: ``3.9``, ``0.85``, ``12``."""
    return f"{value:.0f}" if value >= 9.95 else f"{value:.1f}" if value >= 0.995 else f"{value:.2f}"

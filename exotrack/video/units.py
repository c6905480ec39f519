"""Units of length and time as image containers spell them."""

from __future__ import annotations

import math

_LENGTH_UM = {
    "m": 1e6, "meter": 1e6, "cm": 1e4, "centimeter": 1e4, "mm": 1e3, "millimeter": 1e3,
    "µm": 1.0, "μm": 1.0, "um": 1.0, "\\u00b5m": 1.0, "micron": 1.0, "microns": 1.0, "micrometer": 1.0,
    "nm": 1e-3, "nanometer": 1e-3, "å": 1e-4, "angstrom": 1e-4, "pm": 1e-6, "picometer": 1e-6,
    "in": 25400.0, "inch": 25400.0,
}  # fmt: skip
_TIME_S = {
    "s": 1.0, "sec": 1.0, "second": 1.0, "seconds": 1.0, "ms": 1e-3, "msec": 1e-3, "millisecond": 1e-3,
    "µs": 1e-6, "μs": 1e-6, "us": 1e-6, "microsecond": 1e-6, "ns": 1e-9, "nanosecond": 1e-9,
    "min": 60.0, "minute": 60.0, "h": 3600.0, "hour": 3600.0,
}  # fmt: skip


def length_um(value: object, unit: object) -> float | None:
    """A length in µm; None if the unit is absent or unknown ("pixel"), or the value no positive finite number."""
    return _scaled(value, _LENGTH_UM.get(str(unit).strip().lower()))


def time_s(value: object, unit: object) -> float | None:
    """A time in s; None as for `length_um`."""
    return _scaled(value, _TIME_S.get(str(unit).strip().lower()))


def _scaled(value: object, factor: float | None) -> float | None:
    try:
        number = float(value)  # type: ignore[arg-type]  # anything that a header may hold
    except (TypeError, ValueError):
        return None
    if factor is None or not math.isfinite(number) or number <= 0:
        return None
    # Rounded to 12 digits, so that 166 nm is 0.166 µm and not 0.16600000000000001.
    return float(f"{number * factor:.12g}")

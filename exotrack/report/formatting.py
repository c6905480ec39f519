"""Numbers as a person reads them: rounded to their uncertainty, with units; times in UTC."""

from __future__ import annotations

import math
from datetime import UTC, datetime

from exotrack.tables import Estimate

MISSING = "not stated"
"""Shown wherever the result folder holds no value."""

SPACE = "\u202f"
"""Narrow no-break space: groups digits and stands between a number and its unit."""

_SUPERSCRIPT = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


def decimals(half_width: float) -> int:
    """Decimal places that an uncertainty of this size supports; negative means rounding to tens, hundreds …

    The uncertainty keeps two digits if they are below 35, else one (the rounding rule of the Particle Data Group):
    2.55 → one decimal, 0.96 → one, 4.2 → none.

    Raises
    ------
    ValueError
        If `half_width` is not positive and finite.

    Examples
    --------
    >>> decimals(2.55), decimals(0.041), decimals(4.2), decimals(120.0)
    (1, 2, 0, -1)
    """
    if not (math.isfinite(half_width) and half_width > 0):
        raise ValueError(f"an uncertainty of {half_width!r} supports no digit")
    exponent = math.floor(math.log10(half_width))
    two_digits = round(half_width / 10.0 ** (exponent - 2)) < 355
    return (1 if two_digits else 0) - exponent


def estimate(value: Estimate, unit: str = "") -> str:
    """Value with its 95 % interval, rounded to the half-width of the interval: "101.3 (98.9–104.0) nm".

    From 10⁵ and below 10⁻³ a common power of ten is taken out; the unit "%" multiplies by 100 and keeps at
    most one decimal place. Without a finite
    interval the value alone is shown, to three significant digits. A value that is NaN is "not stated".

    Examples
    --------
    >>> estimate(Estimate(101.28, 98.9, 104.0), "nm").replace(SPACE, " ")
    '101.3 (98.9–104.0) nm'
    >>> estimate(Estimate(3.214e10, 2.9e10, 3.53e10), "per mL").replace(SPACE, " ")
    '3.21 (2.90–3.53) × 10¹⁰ per mL'
    >>> estimate(Estimate(0.123, 0.108, 0.14), "%").replace(SPACE, " ")
    '12.3 (10.8–14.0) %'
    """
    middle, interval, power = _percent(value) if unit == "%" else _rounded(value)
    return with_unit(middle + (f" ({interval})" if interval else "") + power, unit) if middle else MISSING


def estimate_and_interval(value: Estimate, unit: str = "") -> tuple[str, str]:
    """The same number and interval as two texts for a narrow table whose heading states the unit.

    Examples
    --------
    >>> estimate_and_interval(Estimate(0.123, 0.108, 0.14), "%")
    ('12.3', '10.8–14.0')
    """
    middle, interval, power = _percent(value) if unit == "%" else _rounded(value)
    return (middle + power if middle else "–"), (interval + power if interval else "")


def _percent(value: Estimate) -> tuple[str, str, str]:
    """A share as per cent with at most one decimal place, however certain: nobody acts on a thousandth of it."""
    if not math.isfinite(value.value):
        return "", "", ""
    middle, lo, hi = (100.0 * part for part in value)
    half_width = (hi - lo) / 2
    if not math.isfinite(half_width):
        return fixed(middle, 1), "", ""
    places = min(decimals(half_width), 1) if half_width > 0 else 1
    return fixed(middle, places), f"{fixed(lo, places)}–{fixed(hi, places)}", ""


def _rounded(value: Estimate) -> tuple[str, str, str]:
    """Number, interval and power of ten as text; each may be empty."""
    if not math.isfinite(value.value):
        return "", "", ""
    exponent = _power_of_ten(value.value)
    middle, lo, hi = (part / 10.0**exponent for part in value)
    power = f" × 10{str(exponent).translate(_SUPERSCRIPT)}" if exponent else ""
    half_width = (hi - lo) / 2
    if not (math.isfinite(half_width) and half_width > 0):
        return significant(middle), "", power
    places = decimals(half_width)
    return fixed(middle, places), f"{fixed(lo, places)}–{fixed(hi, places)}", power


def fixed(value: float, places: int) -> str:
    """Value rounded to a number of decimal places, which may be negative; never "-0"."""
    rounded = round(value, places) + 0.0
    return f"{rounded:.{max(places, 0)}f}".replace("-", "−")


def significant(value: float, digits: int = 3) -> str:
    """Value to a number of significant digits, without an exponent between 10⁻⁴ and 10⁵.

    Examples
    --------
    >>> significant(0.16612), significant(12345.6), significant(25.0), significant(0.0)
    ('0.166', '12346', '25', '0')
    """
    if value == 0 or not math.isfinite(value):
        return f"{value:g}"
    power = _power_of_ten(value)
    mantissa = value / 10.0**power
    places = max(0, digits - 1 - math.floor(math.log10(abs(mantissa))))
    text = f"{mantissa:.{places}f}"
    text = (text.rstrip("0").rstrip(".") if "." in text else text).replace("-", "−")
    return f"{text} × 10{str(power).translate(_SUPERSCRIPT)}" if power else text


def count(value: float | None) -> str:
    """Whole number with its digits in groups of three: "12 345"; None is "not stated"."""
    return MISSING if value is None else f"{round(value):,}".replace(",", SPACE)


def with_unit(text: str, unit: str) -> str:
    """Number and unit, kept on one line."""
    return f"{text}{SPACE}{unit}" if unit else text


def size_of_file(n_bytes: float | None) -> str:
    """Bytes in decimal multiples, as disks are sold: "1.24 GB"."""
    if n_bytes is None:
        return MISSING
    for unit in ("bytes", "kB", "MB", "GB"):
        if n_bytes < 1000:
            return with_unit(significant(n_bytes), unit)
        n_bytes /= 1000
    return with_unit(significant(n_bytes), "TB")


def utc(text: str | None) -> str:
    """An ISO 8601 time in UTC to the minute; a time without an offset is taken as UTC, other text is left as it is.

    Examples
    --------
    >>> utc("2031-02-03T04:05:59.7+02:00")
    '2031-02-03 02:05 UTC'
    """
    if text is None:
        return MISSING
    moment = moment_of(text)
    return f"{moment:%Y-%m-%d %H:%M} UTC" if moment else text


def moment_of(text: str) -> datetime | None:
    """The time that an ISO 8601 text names, in UTC; None where it names none."""
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        return None
    return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)


def _power_of_ten(value: float) -> int:
    if value == 0 or 1e-3 <= abs(value) < 1e5:
        return 0
    return math.floor(math.log10(abs(value)))

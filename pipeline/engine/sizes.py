"""Sizes in bytes and ages, as a person reads and writes them."""

from __future__ import annotations

import re

UNITS = {"K": 10**3, "M": 10**6, "G": 10**9, "T": 10**12}
SIZE_PATTERN = r"(?i)(\d+(?:\.\d+)?)\s*([kmgt]?)b?"
SIZE_EXPECTED = "expected a size as 20G, 500M or a number of bytes"
AGE_PATTERN = r"(\d+(?:\.\d+)?)\s*([hdw])"
AGE_UNITS = {"h": 3600, "d": 86400, "w": 7 * 86400}


def parse_size(text: str) -> int | None:
    """Return the bytes that a text means; None where it is no size.

    Examples:
        >>> parse_size("20G"), parse_size("1.5 MB"), parse_size("700"), parse_size("much")
        (20000000000, 1500000, 700, None)
    """
    match = re.fullmatch(SIZE_PATTERN, text.strip())
    return round(float(match[1]) * UNITS.get(match[2].upper(), 1)) if match else None


def format_size(size: int) -> str:
    """Format a number of bytes.

    Examples:
        >>> [format_size(size) for size in (0, 820, 96_400, 1_300_000_000)]
        ['0 B', '820 B', '96 KB', '1.3 GB']
    """
    for unit, factor in reversed(UNITS.items()):
        if size >= factor:
            return f"{size / factor:.{0 if size >= 10 * factor else 1}f} {unit}B"
    return f"{size} B"


def parse_age(text: str) -> float | None:
    """Return the seconds that a text in hours, days or weeks means; None where it is no age.

    Examples:
        >>> parse_age("12h"), parse_age("30d"), parse_age("2w"), parse_age("old")
        (43200.0, 2592000.0, 1209600.0, None)
    """
    match = re.fullmatch(AGE_PATTERN, text.strip())
    return float(match[1]) * AGE_UNITS[match[2]] if match else None


def format_age(seconds: float) -> str:
    """Format the time that has passed since something.

    Examples:
        >>> [format_age(seconds) for seconds in (20, 600, 7_000, 400_000)]
        ['1 min', '10 min', '2 h', '5 days']
    """
    if seconds < 3600:
        return f"{max(1, round(seconds / 60))} min"
    if seconds < 2 * 86400:
        return f"{round(seconds / 3600)} h"
    return f"{round(seconds / 86400)} days"

"""Values of COCO records as tools write them: numbers as text, or with a decimal point."""

from __future__ import annotations

from typing import Any

Key = int | str
"""What a record is known by: a whole number, or text that is none."""


def parse_number(value: Any) -> float | None:
    """Return a number, which may be written as text; None for anything else.

    Args:
        value: A value of a JSON file.

    Examples:
        >>> parse_number("640"), parse_number(640), parse_number(None)
        (640.0, 640.0, None)
    """
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        return float(value)
    except ValueError:
        return None
    except OverflowError:  # a whole number of 400 digits
        return float("inf") if isinstance(value, int) and value > 0 else float("-inf")


def parse_key(value: Any) -> Key | None:
    """Return an id: whole numbers in any spelling as a number, other text as it is; None for none.

    Args:
        value: A value of a JSON file.

    Examples:
        >>> parse_key("7"), parse_key(7.0), parse_key("img_7"), parse_key(7.5)
        (7, 7, 'img_7', None)
    """
    if isinstance(value, int) and not isinstance(value, bool):
        return value if abs(value) < 1 << 62 else str(value)
    number = parse_number(value)
    if number is not None and abs(number) < 1 << 53 and number == int(number):
        return int(number)
    text = value.strip() if isinstance(value, str) else ""
    # JSON allows lone surrogates, which UTF-8 cannot encode.
    return text.encode("utf-8", "backslashreplace").decode() or None


def parse_flag(value: Any) -> bool:
    """Return whether a flag such as `iscrowd` is set, as 1, true, "1" or "true".

    Args:
        value: A value of a JSON file.
    """
    if isinstance(value, str):
        return value.strip().lower() in ("1", "1.0", "true", "yes")
    return bool(value)


def is_plain_number(value: Any) -> bool:
    """Return whether a value is a JSON number, not text and not true or false.

    Args:
        value: A value of a JSON file.
    """
    return isinstance(value, int | float) and not isinstance(value, bool)

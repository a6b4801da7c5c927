"""Checks of options that saliency methods have in common: counts, and numbers not below zero."""

from __future__ import annotations

from pipeline.errors import UserError


def check_counts(**counts: int) -> None:
    """Raise UserError where an option is below 1.

    Args:
        **counts: Values by the option's name.
    """
    for name, count in counts.items():
        if count < 1:
            raise UserError(f"saliency.{name}={count}: expected at least 1")


def check_not_negative(**values: float) -> None:
    """Raise UserError where an option is below 0.

    Args:
        **values: Values by the option's name.
    """
    for name, value in values.items():
        if not value >= 0:
            raise UserError(f"saliency.{name}={value}: expected 0 or more")

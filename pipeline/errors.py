"""How the project refuses: errors that are shown to the user as one clear message."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class UserError(Exception):
    """What a user did or has that cannot work: what was expected, what came, where, what to do.

    Shown as one clear message without a traceback; anything else that escapes is our defect.
    """


class SkippedImage(UserError):
    """One image that cannot be used: it is counted and named, and the run goes on without it."""


MANY_CHOICES = 60  # choices; a message that lists more hides what it says


def suggest_choices(name: str, choices: Iterable[str]) -> str:
    """`; did you mean ...?` where a choice is close, and the choices."""
    choices = sorted(choices)
    close = difflib.get_close_matches(name, choices, n=1)
    hint = f"did you mean {close[0]!r}? " if close else ""
    if len(choices) <= MANY_CHOICES:
        return f"{hint}choices: {', '.join(choices)}"
    like = difflib.get_close_matches(name, choices, n=8, cutoff=0.4) or choices[:8]
    return f"{hint}some of {len(choices)} choices: {', '.join(like)}"

"""The errors that are shown to the user as a clear message, without a traceback."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class UserError(Exception):
    """Input or configuration that cannot work: what was expected, what came, where, what to do.

    It is shown as a clear message without a traceback; any other exception that reaches the user is
    a defect of this project.
    """


class SkippedImage(UserError):
    """An image that cannot be used: it is counted and named, and the run goes on without it."""


MANY_CHOICES = 60  # a longer list would hide the message


def suggest_choices(name: str, choices: Iterable[str]) -> str:
    """Return "did you mean ...?" where a choice is similar to `name`, followed by the choices.

    Of more than MANY_CHOICES choices only the eight most similar are listed.

    Args:
        name: What was given.
        choices: What could have been given.
    """
    choices = sorted(choices)
    folded = {choice.casefold(): choice for choice in reversed(choices)}
    wanted = name.casefold()
    close = [folded[near] for near in difflib.get_close_matches(wanted, folded, n=1)]
    hint = f"did you mean {close[0]!r}? " if close else ""
    if len(choices) <= MANY_CHOICES:
        return f"{hint}choices: {', '.join(choices)}"
    holding = [near for near in folded if len(wanted) > 2 and wanted in near]
    similar = difflib.get_close_matches(wanted, folded, n=8, cutoff=0.4)
    near = list(dict.fromkeys([*sorted(holding, key=len), *similar]))[:8]
    like = [folded[name] for name in near] or choices[:8]
    return f"{hint}some of {len(choices)} choices: {', '.join(like)}"

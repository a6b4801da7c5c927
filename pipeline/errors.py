"""The errors that are shown to the user as a clear message, without a traceback."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping, Sequence


class UserError(Exception):
    """Input or configuration that cannot work: what was expected, what came, where, what to do.

    It is shown as a clear message without a traceback; any other exception that reaches the user is
    a defect of this project.
    """


class RefusedRun(UserError):
    """A run that a stage ended on purpose, after its result was published: exit code 1."""


class FailedJob(UserError):
    """A job of a sweep that was killed, or failed by a defect, in another process: exit code 1."""


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
    folded = _fold(choices)
    wanted = name.casefold()
    close = _find_close(wanted, folded)
    hint = f"did you mean {close!r}? " if close else ""
    if len(choices) <= MANY_CHOICES:
        return f"{hint}choices: {', '.join(choices)}"
    holding = [near for near in folded if len(wanted) > 2 and wanted in near]
    similar = difflib.get_close_matches(wanted, folded, n=8, cutoff=0.4)
    near = list(dict.fromkeys([*sorted(holding, key=len), *similar]))[:8]
    like = [folded[name] for name in near] or choices[:8]
    return f"{hint}some of {len(choices)} choices: {', '.join(like)}"


MANY_NAMES = 3  # of unknown names for which a similar one is said


def suggest_classes(names: Iterable[str], classes: Iterable[str]) -> str:
    """Return a similar class for each unknown name, where there is one, and the classes.

    Args:
        names: Unknown names of classes.
        classes: The names that are known.

    Examples:
        >>> suggest_classes(["robbin"], ["robin", "wren"])
        "is 'robbin' meant to be 'robin'? there are 2 classes: robin, wren"
    """
    classes = sorted(classes)
    folded = _fold(classes)
    near = {name: _find_close(name.casefold(), folded) for name in dict.fromkeys(names)}
    hints = [f"is {name!r} meant to be {close!r}? " for name, close in near.items() if close]
    shown = classes if len(classes) <= MANY_CHOICES else [*classes[:8], "..."]
    count = f"{len(classes)} class{'' if len(classes) == 1 else 'es'}"
    return (
        f"{''.join(hints[:MANY_NAMES])}there {'is' if len(classes) == 1 else 'are'} {count}: "
        + (", ".join(shown))
    )


def _fold(choices: Sequence[str]) -> dict[str, str]:
    """Return the first of the choices by each name without case."""
    return {choice.casefold(): choice for choice in reversed(choices)}


def _find_close(wanted: str, folded: Mapping[str, str]) -> str | None:
    """Return the choice that is most similar to a name; None where none is."""
    return next((folded[near] for near in difflib.get_close_matches(wanted, folded, n=1)), None)

"""The objective that a data set is learned with: one for sets where images have several classes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

from pipeline.engine.choices import complete_choice, instantiate
from pipeline.engine.images import is_multi_label
from pipeline.errors import UserError
from pipeline.protocols import DataSet, LearnsLabelSets, Objective
from pipeline.types import Note

DEFAULT = "pipeline.objective.cross_entropy.CrossEntropy"
FOR_SETS = "binary_cross_entropy"


def choose_objective(node: Mapping[str, Any], data: DataSet) -> Mapping[str, Any]:
    """Return the node of the objective: the given one, unless its images have several classes.

    There cross-entropy, which is the default and has one class an image, gives way to that of each
    class.

    Args:
        node: of the configuration, complete.
        data: the data set.
    """
    if node["_target_"] == DEFAULT and is_multi_label(data):
        return complete_choice("objective", FOR_SETS, {})
    return node


def build_objective(node: Mapping[str, Any], data: DataSet) -> Objective:
    """Return the objective that a data set is learned with.

    Args:
        node: of the configuration, complete.
        data: the data set.
    """
    return cast(Objective, instantiate("objective", choose_objective(node, data)))


def describe_objective(node: Mapping[str, Any], data: DataSet) -> list[Note]:
    """Return a note that another objective is used than the given one; none where it is not.

    Args:
        node: of the configuration, complete.
        data: the data set.
    """
    if choose_objective(node, data) is node:
        return []
    given = complete_choice("objective", "cross_entropy", {})
    unused = [f"objective.{name}={node[name]}" for name in node if node[name] != given.get(name)]
    ending = f"; {', '.join(unused)} has no effect" if unused else ""
    return [
        Note(
            f"train: an image may have several labels, so objective={FOR_SETS} is learned, each "
            f"class for itself, in place of cross_entropy, which has one class an image{ending}"
        )
    ]


def check_objective(node: Mapping[str, Any], data: DataSet) -> None:
    """Check that the objective can learn the images of a data set.

    Args:
        node: of the configuration, complete.
        data: the data set.

    Raises:
        UserError: images have several classes, and the objective learns one of each.
    """
    if not is_multi_label(data):
        return
    if not isinstance(build_objective(node, data), LearnsLabelSets):
        name = str(node["_target_"]).split(".")[-2]
        raise UserError(
            f"objective={name}: it learns one class of each image, and an image of this data set "
            f"may have several; give objective={FOR_SETS}, or leave objective= away"
        )

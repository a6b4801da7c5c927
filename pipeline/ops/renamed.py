"""Old names of configuration keys, stages and classes, with the names that replaced them.

A name stays here for one release after it is renamed; messages then name its successor.
"""

from __future__ import annotations

from typing import Any

KEYS = {"saliency.look_again": "saliency.second_pass_margin"}
"""Keys of the configuration: old -> new."""

STAGES = {"score": "evaluate"}
"""Stages: old -> new. `stages=[score]` is `+experiment=evaluate`, or `stages=[evaluate]`."""

CLASSES: dict[str, str] = {
    "pipeline.data.coco": "pipeline.formats.coco",
    "pipeline.data.results": "pipeline.formats.coco_results",
    "pipeline.data.wsolevaluation": "pipeline.formats.wsolevaluation",
    "pipeline.data.photo": "pipeline.formats.photo",
    "pipeline.segmenter.frame": "pipeline.ops.maps",
    "pipeline.segmenter.rle": "pipeline.ops.rle",
    "pipeline.records": "pipeline.types, pipeline.protocols and pipeline.errors",
    "pipeline.predict": "pipeline.api",
}
"""Modules that `_target_` may name: old -> new."""


def describe_renaming(table: dict[str, str], name: str) -> str:
    """Return "; renamed to NEW" if a name, or the module that it begins with, was renamed."""
    for old, new in table.items():
        if name == old or name.startswith(f"{old}."):
            return f"; renamed to {new}{name[len(old) :]}"
    return ""


def rename_keys(nodes: dict[str, Any]) -> None:
    """Bring the keys of nodes of an earlier version to their present names, in place.

    Only keys of the same part are renamed, as `saliency.old` to `saliency.new`.
    """
    for old, new in KEYS.items():
        part, _, old_key = old.partition(".")
        node = nodes.get(part)
        if isinstance(node, dict) and old_key in node:
            node[new.partition(".")[2]] = node.pop(old_key)

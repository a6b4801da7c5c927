"""JSON that annotation tools write for themselves, told apart by its fields."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

# The fields that a format's object, or the first record of its list, has.
OBJECTS = {
    "labelme's own format": {"shapes", "imagePath"},
    "a project of VIA (VGG Image Annotator)": {"_via_img_metadata"},
    "Datumaro's own format": {"items", "categories"},
    "Supervisely's own format": {"objects", "size", "tags"},
}
RECORDS = {
    "Label Studio's own format": ({"data", "annotations"}, {"data", "completions"}),
    "Label Studio's own format (JSON-MIN)": ({"image", "annotator"}, {"image", "annotation_id"}),
    "CreateML's own format": ({"image", "annotations"}, {"imagefilename", "annotation"}),
    "Scalabel's own format": ({"name", "labels"},),
}
VIA_IMAGE = {"filename", "regions"}


def name_tool(content: Any) -> str | None:
    """Return what the own format of another tool is called; None where it is none that is known.

    Args:
        content: What the JSON holds.

    Examples:
        >>> name_tool({"shapes": [], "imagePath": "a.png"})
        "labelme's own format"
    """
    first = next(iter(content), None) if isinstance(content, list) else None
    if isinstance(first, Mapping):
        names = {name for name, kinds in RECORDS.items() if any(k <= set(first) for k in kinds)}
        return min(names, default=None)
    if not isinstance(content, Mapping):
        return None
    for name, fields in OBJECTS.items():
        if fields <= set(content):
            return name
    first = next(iter(content.values()), None)
    if isinstance(first, Mapping) and set(first) >= VIA_IMAGE:
        return "annotations of VIA (VGG Image Annotator)"
    return None

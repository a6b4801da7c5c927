"""The folder test/ beside the scored one: images that get boxes and are neither learned nor scored.

test/<class>/*.jpg    labelled where train/ or val/ has a folder of the class
test/*.jpg            and folders that are no class: without label (-1)
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from pipeline.data import image_search
from pipeline.data.doubtful_files import count_doubtful
from pipeline.data.file_table import list_ids, pack
from pipeline.data.layout import Layout
from pipeline.data.left_out import SAME_NAME, LeftOut
from pipeline.data.listing import File, Listing, make_ids_unique
from pipeline.ops.text import list_some, printable, to_nfc
from pipeline.types import Note


def list_unscored(folder: Path, classes: Sequence[str], left_out: LeftOut) -> Listing:
    """List all images below a folder, with the class of their folder where it is one.

    Args:
        folder: The folder, in the root of the data set.
        classes: Names of the class folders.
        left_out: Where to count what is left out.
    """
    prefix, number = printable(folder.name), {name: n for n, name in enumerate(classes)}
    groups: dict[str, list[File]] = {}
    for file in image_search.search(folder, prefix, left_out).files:
        above, _, below = file.id.removeprefix(f"{prefix}/").partition("/")
        groups.setdefault(above if below else "", []).append(file)
    unique = image_search.drop_repeated(groups, left_out)
    labels = [number.get(name, -1) for name, files in unique.items() for _ in files]
    files, given = make_ids_unique([file for files in unique.values() for file in files])
    left_out.add_all(SAME_NAME, given)
    count_doubtful((file.id for file in files), left_out)
    return Listing(pack(files), labels, classes)


def label_unscored(folder: str, files: Sequence[File], classes: Sequence[str]) -> Listing:
    """Return images below a folder with the class of their folder where it is one.

    Args:
        folder: Its name, which the ids of the images begin with.
        files: The images.
        classes: Names of the class folders.
    """
    prefix, number = f"{folder}/", {name: n for n, name in enumerate(classes)}
    above = (id.removeprefix(prefix).partition("/")[0] for id in list_ids(files))
    return Listing(files, [number.get(to_nfc(name), -1) for name in above], classes)


def describe_unscored(layout: Layout, listing: Listing) -> list[str]:
    """Return notes on the images of the split, and on those of them without a class.

    Args:
        layout: The folders of the data set, with one that is not scored.
        listing: The images in it.
    """
    assert layout.test is not None, "there is a folder that is not scored"
    name, total = printable(layout.test), len(listing.files)
    if not total:
        return [f"{name}: no image in it"]
    without = [id for id, label in zip(listing.ids, listing.labels, strict=True) if label < 0]
    text = (
        f"{name}: {total} image{'s' * (total != 1)}, neither trained on nor scored; "
        "explain.split=all gives boxes to all images, explain.split=test to these alone"
    )
    if len(without) < total:
        instead = "" if layout.val is None else f" instead of {printable(layout.val)}"
        text += f"; data.val_folder={name} scores them{instead}"
    notes: list[str] = [Note(text, listing.ids)]
    if without:
        shown = list_some(without, "image")
        notes.append(
            Note(
                f"{name}: {shown} in no folder of a class that is trained on or scored: without "
                "label, so with explain.target=true their boxes are of the predicted class",
                without,
            )
        )
    return notes

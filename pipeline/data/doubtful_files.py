"""Images whose names say that they may be no photographs: copies in folders for them, and masks.

    cat/thumbs/1.jpg beside cat/7.jpg                          a copy, perhaps
    cat/1_mask.png beside cat/1.jpg, cat/masks/1.png ...       a mask, perhaps

They are read as all others, as the words can name classes and photographs, too. Notes count them.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Mapping

from pipeline.data.left_out import LeftOut, Reason

COPY_FOLDERS = {"thumb", "thumbs", "thumbnail", "thumbnails", "backup", "backups", "cache", "trash",
                "previews", "deleted", "recycle bin"}  # fmt: skip
CLASS_LIKE = ("thumb", "backup")  # are hardly the name of a class, as `trash` is
MASK_FOLDERS = {"mask", "masks", "segmentation", "segmentations", "groundtruth", "ground_truth",
                "gt", "annotations", "labels", "segmentationclass",
                "segmentationobject"}  # fmt: skip
IMAGE_FOLDERS = ("images", "image", "imgs", "img", "photos", "pictures", "jpegimages", "originals")
MASK_NAME = re.compile(
    r"(.+)[ _-](?:masks?|seg|segmentation|labels?|gt|groundtruth|anno(?:tation)?)(?:[ _-]?\d+)?",
    re.IGNORECASE,
)
COPIES = Reason(
    "folder", "read, although the name is one of folders with copies of images",
    "move those with copies out of the data set, or begin their names with a dot",
)  # fmt: skip
MASKS = Reason(
    "image", "read, although the name is that of a mask of another image",
    "if they are masks, move them out of the folders of images",
)  # fmt: skip

Stems = Mapping[str, Mapping[str, str]]
"""Ids of images by their folder and by their name without its ending."""


def count_doubtful(ids: Iterable[str], left_out: LeftOut) -> None:
    """Count folders that may hold copies, and images that may be masks.

    Args:
        ids: Of all images that are read.
        left_out: Where they are counted.
    """
    by_folder: dict[str, dict[str, str]] = {}
    for id in ids:
        folder, _, name = id.rpartition("/")
        by_folder.setdefault(folder, {})[os.path.splitext(name)[0]] = id
    left_out.add_all(COPIES, dict.fromkeys(_find_copies(by_folder)))
    left_out.add_all(MASKS, dict.fromkeys(_find_masks(by_folder)))


def _find_copies(by_folder: Stems) -> Iterator[str]:
    """Yield folders that are called as copies are, beside images or in place of a class."""
    for folder in by_folder:
        parts = folder.split("/")
        for n, part in enumerate(parts):
            word = part.lower().strip("_@. ")
            beside_images = "/".join(parts[:n]) in by_folder
            if word in COPY_FOLDERS and (beside_images or word.startswith(CLASS_LIKE)):
                yield "/".join(parts[: n + 1])


def _find_masks(by_folder: Stems) -> Iterator[str]:
    """Yield images that are called as a mask of an image beside them, or in the folder beside."""
    by_lower = {folder.lower(): folder for folder in by_folder}
    for folder, stems in by_folder.items():
        for stem, id in stems.items():
            image = _strip_mask(stem)
            if image != stem and image in stems:
                yield id
        for beside in _folders_of_images(folder.lower()):
            if beside in by_lower:
                images = set(by_folder[by_lower[beside]])
                yield from (id for stem, id in stems.items() if {stem, _strip_mask(stem)} & images)


def _strip_mask(stem: str) -> str:
    """Return the name of the image that a name is a mask of; the name itself if it is none."""
    match = MASK_NAME.fullmatch(stem)
    return match[1] if match else stem


def _folders_of_images(folder: str) -> Iterator[str]:
    """Yield where the images are of which a folder holds the masks, in lower case."""
    parts = folder.split("/")
    for n, part in enumerate(parts):
        if part in MASK_FOLDERS:
            before, behind = parts[:n], parts[n + 1 :]
            yield "/".join([*before, *behind])
            yield from ("/".join([*before, name, *behind]) for name in IMAGE_FOLDERS)

"""What is wrong with a data set: findings, each with its remedy, by severity.

error     to train on it would be a mistake: +experiment=check ends with exit code 1
warning   it can be trained on, but something is likely not as it is meant to be
note      worth knowing
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from pipeline.ops.near_duplicates import MIN_SIDE
from pipeline.ops.text import count_note
from pipeline.stages.check.duplicates import Duplicates
from pipeline.stages.check.images import LEARNED, CheckedImages, Measured
from pipeline.types.notes import MAX_NAMES, Note

if TYPE_CHECKING:
    from jaxtyping import Bool

Severity = Literal["error", "warning", "note"]
SEVERITIES: tuple[Severity, ...] = ("error", "warning", "note")

MAX_UNREADABLE = 0.5  # share of the images of a split; more is an error
MAX_LEAKED = 0.1  # share of the scored images that are trained on, too; more is an error
MAX_IMBALANCE = 10  # images of the largest class for each of the smallest
MIN_IMAGES = 10  # of a class to train on
MIN_COLOUR_RANGE = 12  # of 255, at 32 x 32 pixels: less is an image of one colour
MAX_ASPECT = 3.0  # longer by shorter side; more is squeezed beyond recognition


@dataclass(frozen=True)
class Finding:
    """Something that is wrong with a data set, or worth knowing.

    Attributes:
        kind: what it is, in a word that stays the same in all versions.
        severity: how bad it is.
        text: what is there, with counts and the first names.
        remedy: what to do.
        names: of the images, classes or records.
        count: how many there are; 0 where it counts nothing.
    """

    kind: str
    severity: Severity
    text: str
    remedy: str
    names: Sequence[str] = ()
    count: int = 0

    @classmethod
    def of(
        cls, kind: str, severity: Severity, names: Sequence[str], what: str, why: str, remedy: str,
        where: str = "",
    ) -> Finding:  # fmt: skip
        """Create a finding about named things.

        Args:
            kind: what it is.
            severity: how bad it is.
            names: of the things; at least a name.
            what: the singular of what is named.
            why: what is wrong with them.
            remedy: what to do.
            where: the split or file that it is about.
        """
        text = str(count_note(names, what, why, where=where))
        return cls(kind, severity, text, remedy, tuple(names[:MAX_NAMES]), len(names))

    def record(self) -> dict[str, Any]:
        """Return the finding as check.json holds it."""
        return {**vars(self), "names": list(self.names)}

    def to_note(self) -> Note:
        """Return the finding as a line of the run's notes."""
        severity = "" if self.severity == "note" else f"{self.severity}: "
        text = f"check: {severity}{self.text}; {self.remedy}"
        return Note(text, self.names, self.count)


def sort_findings(findings: Sequence[Finding]) -> list[Finding]:
    """Return findings by severity, errors first."""
    return sorted(findings, key=lambda finding: SEVERITIES.index(finding.severity))


# -- ids and labels


def check_ids(images: CheckedImages) -> list[Finding]:
    """Return what is wrong with the names of images: missing, or the same for several images."""
    findings = []
    if missing := [
        f"{images.split(n)} {images.places[n]}" for n, id in enumerate(images.ids) if not id.strip()
    ]:
        findings.append(Finding.of(
            "id_missing", "error", missing, "image", "have no name: results refer to images by "
            "name", "let ids() of the data set name each image"))  # fmt: skip
    values, counts = np.unique(np.array(images.ids, object).astype(str), return_counts=True)
    if double := values[counts > 1].tolist():
        findings.append(Finding.of(
            "id_double", "error", double, "name", "are those of several images: boxes and "
            "annotations of one are taken for the other's",
            "name each image once over all splits, for example with its folder"))  # fmt: skip
    return findings


def check_labels(
    images: CheckedImages, measured: Measured, classes: Sequence[str]
) -> list[Finding]:
    """Return what is wrong with the labels: classes that are not learned, rare ones, imbalance.

    Args:
        images: of all splits.
        measured: of each image: those that cannot be read are not learned from.
        classes: the names of the classes.
    """
    is_learned = images.is_in(*LEARNED) & measured.is_read
    findings = _check_label_values(images, len(classes))
    counts = images.count_classes(is_learned, len(classes))
    if not counts.sum():
        findings.append(Finding(
            "no_training_image", "error", "no image to train on has a class and can be read",
            "put images into train/<class>/, or repair those that cannot be read"))  # fmt: skip
        return findings
    here = images.count_classes(np.ones(len(images), bool), len(classes))
    if unlearned := [classes[n] for n in np.flatnonzero((counts == 0) & (here > 0)).tolist()]:
        findings.append(Finding.of(
            "class_without_training_image", "error", unlearned, "class",
            "have no image to train on that can be read, but images elsewhere: they can never be "
            "predicted", "add images of them to train/, or remove the class"))  # fmt: skip
    if absent := [classes[n] for n in np.flatnonzero(here == 0).tolist()]:
        findings.append(Finding.of(
            "class_without_image", "warning", absent, "class",
            f"of {len(classes)} have no image in any split: they are not learned",
            "add images of them, or unpack the rest of the data set"))  # fmt: skip
    if (counts > 0).sum() == 1 and not (is_learned & images.backgrounds).any():
        (only,) = (classes[n] for n in np.flatnonzero(counts).tolist())
        findings.append(Finding(
            "single_class", "error", f"all images to train on are of one class, {only!r}: there is "
            "nothing to tell it from", "add a class, such as images without the object "
            "(data.negatives=[NAME]); or are the class folders one level deeper?"))  # fmt: skip
    return findings + _check_balance(counts, classes)


def _check_label_values(images: CheckedImages, classes: int) -> list[Finding]:
    """Return labels that are no class, and images to train on that have none."""
    findings = []
    wrong = np.flatnonzero((images.labels < -1) | (images.labels >= classes))
    if classes and len(wrong):
        findings.append(Finding.of(
            "label_unknown", "error", [images.ids[n] for n in wrong], "image",
            f"have labels that are none of the {classes} classes, which are counted from 0",
            "give each the number of its class, or -1 for none"))  # fmt: skip
    without = np.flatnonzero(images.is_in(*LEARNED) & (images.labels == -1))
    if len(without) and images.sets is None:  # else it is learned that they show no class
        findings.append(Finding.of(
            "label_missing", "warning", [images.ids[n] for n in without], "image",
            "have no label, but are to be trained on: not learned from",
            "move them into class folders"))  # fmt: skip
    return findings


def _check_balance(counts: np.ndarray, classes: Sequence[str]) -> list[Finding]:
    """Return classes with few images to train on, and how uneven the classes are."""
    findings = []
    rare = [n for n in np.argsort(counts, kind="stable") if 0 < counts[n] < MIN_IMAGES]
    if rare:
        findings.append(Finding.of(
            "class_rare", "warning", [f"{classes[n]} ({counts[n]})" for n in rare], "class",
            f"have fewer than {MIN_IMAGES} images to train on",
            "add images of them"))  # fmt: skip
    learned = np.flatnonzero(counts)
    low, high = (learned[pick(counts[learned])] for pick in (np.argmin, np.argmax))
    ratio = counts[high] / counts[low]
    if ratio >= MAX_IMBALANCE:
        findings.append(Finding(
            "imbalance", "warning", f"the largest class, {classes[high]!r}, has {counts[high]} "
            f"images to train on, {ratio:.0f} times as many as the smallest, {classes[low]!r} "
            f"({counts[low]})", "train.balanced=true draws all classes equally often; or add "
            "images of the rare ones"))  # fmt: skip
    return findings


# -- files


def check_files(images: CheckedImages, measured: Measured, wanted: int) -> list[Finding]:
    """Return what is wrong with the images themselves.

    Args:
        images: of all splits.
        measured: of each image.
        wanted: the longer side in pixels that images are scaled to for the network.
    """
    findings = _check_readable(images, measured)
    height, width = measured.height, measured.width
    longer, shorter = np.maximum(height, width), np.minimum(height, width)
    kinds: list[tuple[str, Severity, Bool[np.ndarray, n], str, str]] = [
        ("one_colour", "warning", measured.is_read & (measured.colour_range < MIN_COLOUR_RANGE),
         "have a single colour: nothing can be seen there", "remove them"),
        ("small", "warning", measured.is_read & (2 * longer < wanted),
         f"are smaller than {wanted // 2} pixels, half of the size that images are scaled to",
         f"data.size={wanted // 2} or less, or larger images"),
        ("long", "warning", measured.is_read & (longer > MAX_ASPECT * shorter),
         f"are more than {MAX_ASPECT:g} times as long as wide, or as wide as long: squeezed "
         "to the size of the network's input", "crop them to the object's surroundings"),
        ("pages", "note", measured.is_first_of_several,
         "have several pages or frames: only the first is used",
         "save each page or frame as a file of its own to use them all"),
    ]  # fmt: skip
    for kind, severity, chosen, why, remedy in kinds:
        if chosen.any():
            names = [images.ids[n] for n in np.flatnonzero(chosen)]
            findings.append(Finding.of(kind, severity, names, "image", why, remedy))
    is_deep = measured.is_deep[measured.is_read]
    if is_deep.any() and not is_deep.all():
        few = measured.is_read & (measured.is_deep == (2 * is_deep.sum() < len(is_deep)))
        findings.append(Finding.of(
            "bits", "warning", [images.ids[n] for n in np.flatnonzero(few)], "image",
            f"have {'more than ' if is_deep.mean() < 0.5 else ''}8 bits in a channel, unlike the "
            "others: the network sees two kinds of pixels",
            "save all images with the same number of bits, by the same program"))  # fmt: skip
    return findings


def _check_readable(images: CheckedImages, measured: Measured) -> list[Finding]:
    """Return images that cannot be read; an error where they are the most of a split."""
    findings = []
    for number in np.unique(images.splits):
        here = images.splits == number
        unread = np.flatnonzero(here & ~measured.is_read)
        if not len(unread):
            continue
        reasons = [measured.reasons[n] for n in unread.tolist()]
        split, share = images.split(int(unread[0])), len(unread) / here.sum()
        findings.append(Finding.of(
            "unreadable", "error" if share > MAX_UNREADABLE else "warning", reasons, "image",
            f"of the {here.sum()} of {split} cannot be read",
            "repair or remove them: were they all copied or unpacked?"))  # fmt: skip
    return findings


# -- duplicates


def check_duplicates(
    images: CheckedImages, duplicates: Duplicates, classes: Sequence[str]
) -> list[Finding]:
    """Return what is wrong with images that are there several times.

    Args:
        images: of all splits.
        duplicates: their groups.
        classes: the names of the classes.
    """
    findings = _check_leaks(images, duplicates.exact)
    if duplicates.plain:
        findings.append(Finding.of(
            "plain", "note", [images.ids[n] for n in duplicates.plain], "image",
            f"of hardly any contrast, or with a side below {MIN_SIDE} pixels, compared with others "
            "by bytes only", "nothing, where an object can be seen on them"))  # fmt: skip
    for name, groups in (("exact", duplicates.exact), ("near", duplicates.near)):
        same = "equal files" if name == "exact" else "images that look the same"
        findings += _check_groups(images, name, groups, same, classes)
    return findings


def _check_groups(
    images: CheckedImages, name: str, groups: Sequence[Sequence[int]], same: str,
    classes: Sequence[str],
) -> list[Finding]:  # fmt: skip
    """Return groups by what is wrong with them: other labels, other splits, or neither."""
    kinds: dict[str, list[Sequence[int]]] = {
        kind: [] for kind in ("conflict", "across", "calibration", "within")
    }
    is_learned = images.is_in(*LEARNED)
    for group in groups:
        crosses = len(set(is_learned[list(group)].tolist())) > 1
        differs = len({images.classes_of(n) for n in group} - {(-1,)}) > 1
        chooses = {"calibration", "val"} <= {images.split(n) for n in group}
        kinds[
            "conflict" if differs else "across" if crosses
            else "calibration" if chooses else "within"
        ].append(group)  # fmt: skip
    findings = []
    crossing = [g for g in kinds["conflict"] if len(set(is_learned[list(g)].tolist())) > 1]
    if kinds["conflict"]:
        is_error = name == "exact" and bool(crossing)
        where = f", {len(crossing)} of them both trained on and scored" if crossing else ""
        findings.append(Finding.of(
            f"{name}_duplicates_conflict", "error" if is_error else "warning",
            [_name_group(images, group, classes) for group in kinds["conflict"]], "group",
            f"of {same} with different labels{where}: "
            f"a label {'is' if name == 'exact' else 'may be'} wrong",
            "look at them, and " + ("keep each image in one class" if images.sets is None
                                    else "give equal images the same labels")))  # fmt: skip
    if kinds["across"]:
        findings.append(Finding.of(
            f"{name}_duplicates_across", "warning",
            [_name_group(images, group) for group in kinds["across"]], "group",
            f"of {same} in train and in other splits: what is scored was learned from",
            "keep each image in one split"))  # fmt: skip
    if kinds["calibration"]:
        findings.append(Finding.of(
            f"{name}_duplicates_calibration", "warning",
            [_name_group(images, group) for group in kinds["calibration"]], "group",
            f"of {same} in calibration and in val: the threshold is chosen by boxes of images that "
            "are scored", "keep each image in one split"))  # fmt: skip
    if kinds["within"]:
        findings.append(Finding.of(
            f"{name}_duplicates_within", "warning",
            [_name_group(images, group) for group in kinds["within"]], "group",
            f"of {same}: they count several times",
            "keep one of each"))  # fmt: skip
    return findings


def _check_leaks(images: CheckedImages, groups: Sequence[Sequence[int]]) -> list[Finding]:
    """Return an error where many of the scored images are trained on, too."""
    is_learned, is_scored = images.is_in(*LEARNED), images.is_in("val")
    leaked = [n for group in groups if is_learned[list(group)].any() for n in group if is_scored[n]]
    share = len(leaked) / max(1, int(is_scored.sum()))
    if share <= MAX_LEAKED:
        return []
    return [Finding.of(
        "leak", "error", [images.ids[n] for n in leaked], "image",
        f"trained on, too, byte for byte, of the {is_scored.sum()} of val ({share:.0%}): "
        "numbers on val say nothing about new images",
        "remove them from train/, or from val/")]  # fmt: skip


def _name_group(
    images: CheckedImages, group: Sequence[int], classes: Sequence[str] | None = None
) -> str:
    """Return the names of a group of images, with their classes where these are given."""
    shown = [
        images.ids[n] if classes is None else f"{images.ids[n]} ({name_class(images, n, classes)})"
        for n in group[:4]
    ]
    return " = ".join(shown) + (f" = {len(group) - 4} more" if len(group) > 4 else "")


def name_class(images: CheckedImages, number: int, classes: Sequence[str]) -> str:
    """Return the name of the class of an image, or of its classes.

    Args:
        images: of all splits.
        number: of the image.
        classes: the names of the classes.
    """
    known = [classes[n] for n in images.classes_of(number) if 0 <= n < len(classes)]
    return ", ".join(known) if known else "no class"

"""The ranges of values that a data set's images of more than 8 bits are scaled from.

All images of a set are scaled alike, or brightness would mean nothing. The ranges are computed from
a few images of the training part, which are drawn with a fixed seed; `data.range=[low,high]` sets
them, and a checkpoint brings those that its network was trained with.
"""

from __future__ import annotations

import math
import os
import random
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, get_args

import numpy as np

from pipeline.errors import SkippedImage, UserError
from pipeline.formats import photo
from pipeline.ops.intensity import (
    PERCENTILES,
    IntensityRange,
    IntensityRanges,
    NumberKind,
    find_isolated,
    find_no_data,
    measured,
    number_kind,
    robust_range,
)
from pipeline.ops.text import count_note, list_some
from pipeline.types.notes import Note

if TYPE_CHECKING:
    from jaxtyping import Shaped

    from pipeline.data.listing import File, Listing, Splits
    from pipeline.formats.deep import DeepImage

RangeOption = Any
"""Option `data.range`: [low, high], or a pair for `integer` and for `float`; None: computed.

It is Any so that `parse_range` says what is wrong with a value, whatever it is.
"""

# Formats whose images have 8 bits in each channel, or are reduced to 8 by design. Files with
# another ending may have more, and a sample of them is looked at.
EIGHT_BIT_SUFFIXES = frozenset(
    ".jpg .jpeg .jpe .jfif .webp .gif .bmp .dib .ico .cur .avif .avifs .heic .heif".split()  # noqa: SIM905
)
MAX_LOOKED_AT = 64  # files whose header is read
MAX_DECODED = 32  # images of more than 8 bits whose values are sampled
MAX_DECODED_PIXELS = 100_000_000  # no further image is decoded once so many pixels have been
VALUES_PER_IMAGE = 1 << 16
# The pixels of val are unlike those of the training images where this much more of them is outside
# of the range, or where they cover less than this much of what those cover.
UNLIKE_OUTSIDE, UNLIKE_COVER = 0.05, 0.25


@dataclass(frozen=True)
class Sample:
    """Files that were looked at, and what their values are.

    Attributes:
        split: The part of the data set that they are of: train, or images.
        looked_at: How many headers were read.
        deep: Ids of the files with more than 8 bits.
        values: Measurements of some of these, by kind of number.
        images: How many images the values are of, by kind of number.
        no_data: Values that stand for no measurement.
        with_no_data: Ids of the images that have such values, NaN or infinity.
        saturated: Isolated values that are the greatest of their type: no part of the range.
        with_saturated: Ids of the images that have such values.
    """

    split: str
    looked_at: int
    deep: Sequence[str] = ()
    values: Mapping[NumberKind, Shaped[np.ndarray, n]] = field(default_factory=dict)
    images: Mapping[NumberKind, int] = field(default_factory=dict)
    no_data: tuple[float, ...] = ()
    with_no_data: Sequence[str] = ()
    saturated: tuple[float, ...] = ()
    with_saturated: Sequence[str] = ()


@dataclass(frozen=True)
class Intensity:
    """How the images of a data set that have more than 8 bits are scaled.

    Attributes:
        ranges: The ranges, and the values that stand for no measurement.
        learned: Whether the ranges are options, or of training images: a checkpoint keeps these.
        sample: What the ranges were computed from; None where they are options.
    """

    ranges: IntensityRanges
    learned: bool = False
    sample: Sample | None = None


def parse_range(given: RangeOption) -> dict[NumberKind, IntensityRange]:
    """Return the ranges that option `data.range` stands for.

    Args:
        given: The option.

    Raises:
        UserError: It is not two finite numbers, the lower one first, nor such pairs by kind.
    """
    if given is None:
        return {}
    kinds: tuple[NumberKind, ...] = get_args(NumberKind)
    pairs: Mapping[Any, Any] = given if isinstance(given, Mapping) else dict.fromkeys(kinds, given)
    try:
        ranges = {kind: (float(low), float(high)) for kind, (low, high) in pairs.items()}
    except (TypeError, ValueError):
        ranges = dict[Any, IntensityRange]()
    in_order = all(-math.inf < low < high < math.inf for low, high in ranges.values())
    if not ranges or not in_order or not set(ranges) <= set(kinds):
        raise UserError(
            f"data.range={given}: expected [low,high], two finite numbers, low below high; pixels "
            "of more than 8 bits are scaled from it to 0 to 255 ({integer:[low,high],"
            "float:[low,high]} sets it for images of integers and of floats)"
        )
    return {kind: ranges[kind] for kind in kinds if kind in ranges}


def parse_no_data(given: float | Sequence[float]) -> tuple[float, ...]:
    """Return the values that option `data.no_data` stands for.

    Args:
        given: The option: a number or several.

    Raises:
        UserError: A number is not finite.
    """
    values = (given,) if isinstance(given, int | float) else tuple(given)
    if not all(map(math.isfinite, values)):
        raise UserError(
            f"data.no_data={list(values)}: expected finite numbers; NaN and infinity count without"
        )
    return values


def find_intensity(splits: Splits, given: RangeOption, no_data: Sequence[float]) -> Intensity:
    """Return the ranges of a data set.

    Args:
        splits: Its listings. Files of training images are looked at; of the others where there are
            none, or where none of them has more than 8 bits. No file is looked at where ranges are
            given for all kinds of numbers.
        given: Option `data.range`.
        no_data: Option `data.no_data`.
    """
    ranges = parse_range(given)
    if len(ranges) == len(get_args(NumberKind)):
        return Intensity(IntensityRanges(ranges, tuple(no_data)), True)
    sample = _take_sample(splits, no_data)
    computed = {kind: robust_range(values, kind) for kind, values in sample.values.items()}
    values = tuple(dict.fromkeys((*no_data, *sample.no_data)))
    both = IntensityRanges({**computed, **ranges}, values)
    return Intensity(both, bool(ranges) or sample.split == "train", sample)


def describe_intensity(
    splits: Splits, intensity: Intensity, given: RangeOption, no_data: Sequence[float]
) -> list[str]:
    """Return notes on how images of more than 8 bits are scaled, and how many there are.

    Where training images have more than 8 bits, a sample of val is looked at, too. It changes
    nothing but the notes.

    Args:
        splits: The listings of the data set.
        intensity: What `find_intensity` returned for it.
        given: Option `data.range`.
        no_data: Option `data.no_data`.
    """
    sample = intensity.sample
    if sample is None:
        sample = _take_sample(splits, no_data, finds_no_data=False)
    return [
        *_describe(sample, intensity.ranges, parse_range(given)),
        *(_describe_val(splits.val, sample, intensity.ranges) if sample.split == "train" else ()),
    ]


def _take_sample(splits: Splits, no_data: Sequence[float], finds_no_data: bool = True) -> Sample:
    """Return a sample of the training part, or of the rest where that has no deep image."""
    looked_at = 0
    parts = (splits.train, splits.held_back, splits.calibration, splits.val)
    if all(not len(part.files) or part.has_only(EIGHT_BIT_SUFFIXES) for part in parts):
        return Sample("", looked_at)  # lists of a million files are not even joined
    others = splits.held_back + splits.calibration + splits.val
    for name, listing in (("train", splits.train), ("images", others)):
        files = _draw(listing)
        deep = [file for file in files if photo.has_deep_pixels(file.path)]
        looked_at += len(files)
        if deep:
            values = [_read_values(file, image, no_data) for file, image in _decode(deep)]
            sample = Sample(name, looked_at, sorted(file.id for file in deep))
            return _pool(sample, values, finds_no_data)
    return Sample("", looked_at)


def _draw(listing: Listing) -> list[File]:
    """Return files that may have more than 8 bits, of each ending some, drawn with a fixed seed."""
    groups: dict[str, list[File]] = defaultdict(list)
    if listing.has_only(EIGHT_BIT_SUFFIXES):
        return []
    for file in listing.files:
        suffix = _suffix(file)
        if suffix not in EIGHT_BIT_SUFFIXES:
            groups[suffix].append(file)
    drawn: list[File] = []
    # Those with few files first, so that what they leave is free for the others.
    by_count = sorted(groups, key=lambda suffix: (len(groups[suffix]), suffix))
    for n, suffix in enumerate(by_count):
        share = (MAX_LOOKED_AT - len(drawn)) // (len(by_count) - n)
        group = groups[suffix]
        drawn += random.Random(0).sample(group, min(len(group), share))
    return drawn


def _suffix(file: File) -> str:
    """Return the ending of a file in lower case."""
    return os.path.splitext(file.path)[1].lower()


def _decode(files: Sequence[File]) -> Iterator[tuple[File, DeepImage]]:
    """Yield some images of each ending, as many as can be decoded in little time."""
    images = pixels = 0
    for file in _mix(files):
        if images == MAX_DECODED or pixels > MAX_DECODED_PIXELS:
            return
        with suppress(SkippedImage):  # counted and named by the stages that read the image
            image = photo.read_deep(file.path, name=file.id)
            images, pixels = images + 1, pixels + image.values.size
            yield file, image


@dataclass(frozen=True)
class Part:
    """The values of an image that were drawn.

    Attributes:
        id: The image.
        kind: The kind of its numbers.
        values: Its measurements.
        extremes: Numbers at the ends of their type that may be no part of the range.
        is_complete: Whether all of its values are measurements.
    """

    id: str
    kind: NumberKind
    values: Shaped[np.ndarray, n]
    extremes: tuple[float, ...]
    is_complete: bool


def _read_values(file: File, image: DeepImage, no_data: Sequence[float]) -> Part:
    """Draw values of an image, of all channels but its alpha channel."""
    values = image.colours.ravel()
    if values.size > VALUES_PER_IMAGE:
        values = values[np.random.default_rng(0).integers(0, values.size, VALUES_PER_IMAGE)]
    valid = measured(values, (*image.no_data, *no_data))
    kind = number_kind(values)
    return Part(file.id, kind, values[valid], image.extremes, bool(valid.all()))


def _pool(sample: Sample, parts: Sequence[Part], finds_no_data: bool) -> Sample:
    """Return the sample with the values of its images, without those that are isolated."""
    by_kind: dict[NumberKind, Shaped[np.ndarray, n]] = {}
    images: dict[NumberKind, int] = {}
    isolated: list[float] = []
    for kind in dict.fromkeys(part.kind for part in parts):
        of_kind = [part for part in parts if part.kind == kind]
        values = np.concatenate([part.values for part in of_kind])
        extremes = sorted({end for part in of_kind for end in part.extremes})
        beyond = find_isolated(values, extremes) if finds_no_data else []
        by_kind[kind], images[kind] = values[measured(values, beyond)], len(of_kind)
        isolated += [value for value in beyond if value not in isolated]
    absent = find_no_data(isolated)
    saturated = tuple(value for value in isolated if value not in absent)
    incomplete = sorted(
        part.id for part in parts if not part.is_complete or not measured(part.values, absent).all()
    )
    full = sorted(part.id for part in parts if not measured(part.values, saturated).all())
    return replace(sample, values=by_kind, images=images, no_data=tuple(absent),
                   with_no_data=incomplete, saturated=saturated, with_saturated=full)  # fmt: skip


def _mix(files: Sequence[File]) -> list[File]:
    """Return files of all endings in turn."""
    groups: dict[str, int] = defaultdict(int)
    turns = []
    for n, file in enumerate(files):
        suffix = _suffix(file)
        turns.append((groups[suffix], n))
        groups[suffix] += 1
    return [files[n] for _, n in sorted(turns)]


def _describe(
    sample: Sample, ranges: IntensityRanges, given: Mapping[NumberKind, IntensityRange]
) -> list[str]:
    """Return notes on the images of a sample that have more than 8 bits.

    Args:
        sample: The sample.
        ranges: What such images are scaled from.
        given: Those ranges that were not computed from the sample.
    """
    if not sample.deep:
        if not given:
            return []
        return [
            "data: data.range (given, or of the checkpoint) is not used: none of the "
            f"{sample.looked_at} images that were looked at has more than 8 bits; images of 8 bits "
            "stay as they are"
        ]
    which = "training images" if sample.split == "train" else "images"
    looked_at = f"{sample.looked_at} {which} that were looked at"
    notes: list[str] = [
        Note(
            f"data: {len(sample.deep)} of {looked_at} have more than 8 bits: "
            f"{_describe_range(kind, sample, ranges.ranges[kind], kind in given)}",
            sample.deep,
        )
        for kind in sample.values
    ]
    if others := sample.looked_at - len(sample.deep):
        notes.append(f"data: {others} of {looked_at} have 8 bits, and stay as they are")
    if sample.with_no_data:
        values = ", ".join(["NaN", "infinity", *(f"{value:.6g}" for value in ranges.no_data)])
        images = list_some(sample.with_no_data, "image")
        text = (
            f"data: {images} of {sum(sample.images.values())} that were sampled have pixels "
            f"without a measurement ({values}, or what the file names): no part of the range, "
            "black; data.no_data=[VALUE] names further values"
        )
        notes.append(Note(text, sample.with_no_data))
    if sample.with_saturated:
        values = ",".join(f"{value:.0f}" for value in sample.saturated)
        why = (
            f"of {sum(sample.images.values())} that were sampled with pixels of {values}, the "
            "greatest value of their type and far from all others: no part of the range, and "
            "white, as saturated pixels are"
        )
        remedy = f"data.no_data=[{values}] makes them black where they stand for no measurement"
        notes.append(count_note(sample.with_saturated, "image", why, where="data", remedy=remedy))
    return notes


def _describe_range(
    kind: NumberKind, sample: Sample, between: IntensityRange, is_given: bool
) -> str:
    """Say what images of a kind of number are scaled from, and where the range is from."""
    values, numbers = sample.values[kind], "integers" if kind == "integer" else "floats"
    low, high = between
    text = f"{numbers} are scaled from {_show(between)} to 0 to 255"
    images = f"{sample.images[kind]} image{'s' * (sample.images[kind] != 1)}"
    if is_given:
        outside = 100 * _share_outside(values, between)
        return (
            f"{text}, as data.range or the checkpoint has it; {outside:.0f} % of the pixels of "
            f"{images} are outside of it, and become black or white"
        )
    source = f"the {PERCENTILES[0]} and {PERCENTILES[1]} percentiles of {images}"
    if low == 0 and high in (1.0, 255.0, 65535.0) and len(values):
        source = f"the whole scale, most of which {images} use"
    return f"{text}, {source}; data.range=[low,high] sets it"


def _describe_val(val: Listing, sample: Sample, ranges: IntensityRanges) -> list[Note]:
    """Return notes on images of val that are unlike the training images.

    Args:
        val: The images that are scored.
        sample: Of the training images, some of which have more than 8 bits.
        ranges: What such images are scaled from.
    """
    files = _draw(val)
    deep = [file for file in files if photo.has_deep_pixels(file.path)]
    fixed = [file for file in val.files if _suffix(file) in EIGHT_BIT_SUFFIXES]
    known, deep_ids = len(fixed) + len(files), {file.id for file in deep}
    notes: list[Note] = []
    if eight := sorted(file.id for file in (*fixed, *files) if file.id not in deep_ids):
        text = (
            f"data: {len(eight)} of {known} val images that were looked at have 8 bits, and stay "
            f"as they are, while {len(sample.deep)} of {sample.looked_at} training images that "
            "were looked at have more and are scaled; save them as the training images are saved"
        )
        notes.append(Note(text, eight))
    excluded = (*ranges.no_data, *sample.saturated)
    parts = [_read_values(file, image, excluded) for file, image in _decode(deep)]
    for kind in dict.fromkeys(part.kind for part in parts):
        of_kind = [part for part in parts if part.kind == kind]
        if kind in ranges.ranges:
            notes += _compare_values(kind, of_kind, sample, ranges.ranges[kind])
        else:
            why = (
                f"of {len(parts)} val images that were sampled of {kind}s, which no training image "
                "that was looked at has: each is scaled by a range of its own"
            )
            remedy = f"'data.range={{{kind}:[low,high]}}' sets a range for all"
            ids = sorted(part.id for part in of_kind)
            notes.append(count_note(ids, "image", why, where="data", remedy=remedy))
    return notes


def _compare_values(
    kind: NumberKind, parts: Sequence[Part], sample: Sample, between: IntensityRange
) -> list[Note]:
    """Return a note where the pixels of val lie elsewhere than those of the training images.

    Args:
        kind: A kind of number.
        parts: The values of images of val that are of this kind.
        sample: Of the training images.
        between: What both are scaled from.
    """
    values = np.concatenate([part.values for part in parts])
    if not len(values):
        return []
    trained = sample.values.get(kind, np.array(between))
    outside, trained_outside = (_share_outside(pixels, between) for pixels in (values, trained))
    cover, trained_cover = (_cover(pixels, between) for pixels in (values, trained))
    which = f"{len(parts)} val images that were sampled"
    if outside > trained_outside + UNLIKE_OUTSIDE:
        text = (
            f"{100 * outside:.0f} % of the pixels of {which} are outside of {_show(between)}, from "
            f"which {kind}s are scaled, and become black or white (of the training images "
            f"{100 * trained_outside:.0f} %)"
        )
    elif cover < UNLIKE_COVER * trained_cover:
        text = (
            f"the pixels of {which} cover {100 * cover:.0f} % of {_show(between)}, from which "
            f"{kind}s are scaled, and have little contrast (of the training images "
            f"{100 * trained_cover:.0f} %)"
        )
    else:
        return []
    reach = _show((float(values.min()), float(values.max())))
    remedy = (
        f"they are in {reach}; save them on the scale of the training images, or set a range for "
        "both with data.range=[low,high]"
    )
    return [Note(f"data: {text}; {remedy}", sorted(part.id for part in parts))]


def _share_outside(values: Shaped[np.ndarray, n], between: IntensityRange) -> float:
    """Return the share of values that are outside of a range."""
    low, high = between
    return float(((values < low) | (values > high)).mean()) if len(values) else 0.0


def _cover(values: Shaped[np.ndarray, n], between: IntensityRange) -> float:
    """Return the share of a range that nearly all values cover."""
    if not len(values):
        return 0.0
    low, high = np.clip(np.percentile(values.astype(np.float64), PERCENTILES), *between)
    return float(high - low) / (between[1] - between[0])


def _show(between: IntensityRange) -> str:
    """Return a range as data.range has it."""
    return f"[{between[0]:.6g}, {between[1]:.6g}]"

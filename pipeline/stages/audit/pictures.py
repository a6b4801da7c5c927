"""What the tests of stage audit look like: curves with 95 % bands, and maps side by side."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
from PIL import Image

from pipeline.ops.bootstrap import interval, middle, resampled
from pipeline.plotting import colours
from pipeline.plotting.chart import BLUE, RED, Colour, Line, Sheet, chart
from pipeline.plotting.sheet import FAINT, fitted

if TYPE_CHECKING:
    from jaxtyping import Float, UInt8

WIDTH = 1560
EDGE = 40
LABEL = 104  # of a row
CLIP = 99.0  # the percentile of a map that is the brightest


def of(test: str, arrays: Mapping[str, np.ndarray], facts: Mapping[str, Any]) -> Image.Image:
    draw: Callable[..., Image.Image] = globals()[f"_{test}"]
    return draw(arrays, facts)


def _head(sheet: Sheet, facts: Mapping[str, Any], what: str, note: str) -> None:
    sheet.text(EDGE, 28, f"{facts['method']} on {facts['network']}: {what}", 27)
    sheet.text(EDGE, 66, fitted(note, 17, WIDTH - 2 * EDGE), 17, FAINT)


def _mean_line(
    name: str, x: np.ndarray, rows: Float[np.ndarray, "n k"], colour: Colour, seed: int, **how: Any
) -> Line:
    """The mean of the images, and where it would lie for others like them."""
    drawn = resampled(rows.astype(np.float64), 1000, np.random.default_rng(seed))
    low, high = np.array([middle(column) for column in drawn.T]).T
    return Line(name, x, rows.mean(0), (low, high), colour, **how)


def _said(name: str, values: np.ndarray, seed: int) -> str:
    low, high = interval(values.astype(np.float64), seed=seed)
    return f"{name} {values.mean():.2f} ({low:.2f} to {high:.2f})"


# -- faithfulness --------------------------------------------------------------------------------


def _faithfulness(arrays: Mapping[str, np.ndarray], facts: Mapping[str, Any]) -> Image.Image:
    sheet = Sheet(WIDTH, 650)
    seed, n = facts["seed"], len(arrays["deletion"])
    drop = _said("Average drop", arrays["average_drop"], seed)
    increase = _said("increase in confidence", arrays["increase"], seed)
    _head(
        sheet,
        facts,
        "does the score hang on the pixels marked?",
        f"{n} images; means with 95 % bootstrap bands. {drop}, {increase}",
    )
    steps = arrays["deletion_curve"].shape[1]
    x = np.linspace(0, 100, steps)
    quarters = [(v, f"{v:g}") for v in (0, 25, 50, 75, 100)]
    left = (100, 162, 720, 500)
    chart(
        sheet, left,
        [
            _mean_line(_said("deletion: area", arrays["deletion"], seed) + ", low is good", x,
                       arrays["deletion_curve"], RED, seed),
            _mean_line(_said("insertion: area", arrays["insertion"], seed) + ", high is good", x,
                       arrays["insertion_curve"], BLUE, seed),
        ],
        "Insertion and deletion (Petsiuk et al. 2018)",
        "pixels changed, the most important first (%)", "probability of the class", quarters,
    )  # fmt: skip
    shares = arrays["share"][0] * 100
    right = (880, 162, 1500, 500)
    chart(
        sheet, right,
        [
            _mean_line(_said("most relevant first: mean", arrays["road_morf"], seed)
                       + ", low is good", shares, arrays["road_morf_curve"], RED, seed,
                       dots=True),
            _mean_line(_said("least relevant first: mean", arrays["road_lerf"], seed)
                       + ", high is good", shares, arrays["road_lerf_curve"], BLUE, seed,
                       dots=True),
        ],
        "ROAD (Rong et al. 2022)", "pixels removed and interpolated (%)",
        "class still predicted", quarters,
    )  # fmt: skip
    return sheet.image()


# -- sanity --------------------------------------------------------------------------------------


def _sanity(arrays: Mapping[str, np.ndarray], facts: Mapping[str, Any]) -> Image.Image:
    names, seed, n = facts["parts"], facts["seed"], len(arrays["ssim"])
    count = len(names)
    side = (WIDTH - 2 * EDGE - LABEL - 8 * (count + 1)) // (count + 2)
    image, maps = arrays["seen_image"][0], arrays["seen_maps"][0].astype(np.float32)
    tall = round(side * image.shape[0] / image.shape[1])
    sheet = Sheet(WIDTH, 720 + 2 * (tall + 12) + 20)
    _head(
        sheet, facts, "does the map hang on what was learned?",
        f"{n} images; layers made random from the head down. A map that explains the network must "
        "change: low is good. Means with 95 % bootstrap bands",
    )  # fmt: skip
    x = np.arange(count + 1)
    ticks = [(0.0, "none")] + [(float(k + 1), _broken(name)) for k, name in enumerate(names)]
    boxes = ((100, 162, 740, 500), (880, 162, 1520, 500))
    for box, measure, title in zip(
        boxes, ("ssim", "rank"), ("SSIM", "Rank correlation (Spearman)"), strict=True
    ):
        lines = [
            _mean_line(
                f"{mode}: {told}", x,
                np.concatenate([np.ones((n, 1)), arrays[measure][:, m]], 1), colour, seed,
                dots=True, dashed=m == 1,
            )
            for m, (mode, told, colour) in enumerate((
                ("cascading", "this part and all above it", RED),
                ("independent", "this part alone", BLUE),
            ))
        ]  # fmt: skip
        lowest = min(float(line.band[0].min()) for line in lines if line.band)
        low = 0.0 if lowest >= -0.02 else -0.5 if lowest > -0.5 else -1.0
        chart(sheet, box, lines, title, "part made random", "likeness to the map before", ticks,
              low)  # fmt: skip
    y = 690
    columns = ["image", "trained", *names]
    for k, name in enumerate(columns):
        where = EDGE + LABEL + k * (side + 8)
        sheet.text(where, y, fitted(name.replace("features.", "f."), 15, side), 15, FAINT)
    y += 24
    for m, mode in enumerate(("cascading", "independent")):
        sheet.text(EDGE, y + tall / 2, mode, 16, FAINT, "lm")
        sheet.paste(EDGE + LABEL, y, _sized(image, side, tall))
        for k, one in enumerate(maps[m]):
            picture = _sized(shown(one), side, tall)
            sheet.paste(EDGE + LABEL + (k + 1) * (side + 8), y, picture)
        y += tall + 12
    return sheet.image()


def _broken(name: str) -> str:
    """A long name in lines."""
    short = name.replace("features.", "f.")
    return short if len(short) < 10 else short.replace("-", "-\n", 1)


# -- input shift ---------------------------------------------------------------------------------


def _input_shift(arrays: Mapping[str, np.ndarray], facts: Mapping[str, Any]) -> Image.Image:
    rows = min(4, len(arrays["seen_image"]))
    side, gap, left = 276, 14, EDGE
    sheet = Sheet(WIDTH, 150 + rows * (side + gap) + 20)
    seed = facts["seed"]
    n = len(arrays["shift_moved"])
    _head(
        sheet,
        facts,
        "does a shift that the network does not see move the map?",
        f"{n} images; {facts['shift']:+g} added to pixels from 0 to 1, taken away in the first "
        f"bias. {_said('The map moves by', arrays['shift_moved'], seed)} of itself; rank "
        f"correlation {arrays['shift_rank'].mean():.3f}; answers differ by "
        f"{arrays['shift_answer'].max():.0e}",
    )
    titles = ("image", f"shifted by {facts['shift']:+g}, made visible", "map before", "map after",
              "difference, same scale")  # fmt: skip
    for k, title in enumerate(titles):
        sheet.text(left + k * (side + gap), 118, title, 17, FAINT)
    for row in range(rows):
        y = 146 + row * (side + gap)
        image = arrays["seen_image"][row]
        before, after = arrays["seen_before"][row], arrays["seen_after"][row]
        moved = image.astype(np.float32) + 255 * facts["shift"]
        # From its own lowest to its highest: what is below black cannot be shown otherwise.
        low = moved.min()
        grey = ((moved - low) * 0.55).clip(0, 255).astype(np.uint8)
        panels = [image, grey, shown(before), shown(after), shown(after - before, before)]
        for k, panel in enumerate(panels):
            sheet.paste(left + k * (side + gap), y, _sized(panel, side, side))
    return sheet.image()


# -- fragility -----------------------------------------------------------------------------------


def _fragility(arrays: Mapping[str, np.ndarray], facts: Mapping[str, Any]) -> Image.Image:
    every = len(arrays["image"])
    # Of some images pictures are kept: the numbers beside them are those images' own.
    places = arrays["image"].tolist()
    firsts = [places.index(position) for position in arrays["seen"].tolist()]
    rows = min(4, len(firsts))
    side, gap = 276, 14
    sheet = Sheet(WIDTH, 152 + rows * (side + 58) + 20)
    seed = facts["seed"]
    told = ", ".join(
        _said(name, arrays[values], seed)
        for name, values in (
            ("random signs", "random_top_k"),
            ("attack", "attack_top_k"),
            ("its boxes' IoU", "attack_iou"),
        )
    )
    _head(
        sheet,
        facts,
        "does a change too small to see move the map?",
        f"{every} images; every pixel by at most {facts['epsilon'] * 255:.3g} of 255, the class "
        f"predicted stays. Top {100 * facts['top']:g} % of pixels kept: {told}",
    )
    titles = ("image, its box", "map", "attacked image, its box", "map",
              "change, from -1 to +1 of the bound")  # fmt: skip
    for k, title in enumerate(titles):
        sheet.text(EDGE + k * (side + gap), 120, title, 17, FAINT)
    for row in range(rows):
        y, first = 148 + row * (side + 58), firsts[row]
        image, other = arrays["seen_image"][row], arrays["seen_attack"][row]
        change = (other.astype(np.float32) - image) / max(255 * facts["epsilon"], 1e-6)
        size = arrays["size"][first]
        panels = [
            _boxed(image, arrays["box"][first], size, side),
            _sized(shown(arrays["seen_map"][row]), side, side),
            _boxed(other, arrays["attack_box"][first], size, side),
            _sized(shown(arrays["seen_attack_map"][row]), side, side),
            _sized((change * 127 + 128).clip(0, 255).astype(np.uint8), side, side),
        ]
        for k, panel in enumerate(panels):
            sheet.paste(EDGE + k * (side + gap), y, panel)
        name = facts["classes"][int(arrays["class"][first])]
        attack, random = (
            ", ".join(f"{arrays[f'{kind}_{one}'][first]:.2f}" for one in ("top_k", "rank", "iou"))
            for kind in ("attack", "random")
        )
        told = (
            f"{name}: top pixels kept, rank correlation, IoU of the boxes {attack}; by random "
            f"signs {random}"
            + ("" if arrays["attack_kept"][first] else "; no change on the way kept the class")
        )
        sheet.text(EDGE, y + side + 10, told, 17)
    return sheet.image()


# -- pieces --------------------------------------------------------------------------------------


def shown(
    values: Float[np.ndarray, "h w"], scale_of: Float[np.ndarray, "h w"] | None = None
) -> UInt8[np.ndarray, "h w 3"]:
    """A map in colours: red and blue where it has both signs; on the scale of another if given."""
    values = np.nan_to_num(values.astype(np.float32))
    if scale_of is not None:
        most = float(np.percentile(np.abs(scale_of), CLIP)) or 1.0
        return colours.diverging((values / most).clip(-1, 1))
    if values.min() < -0.05 * max(values.max(), 1e-30):
        return colours.diverging(colours.balanced(values, CLIP))
    return colours.sequential(colours.for_class(values, CLIP))


def _sized(
    picture: UInt8[np.ndarray, "h w 3"], width: int, height: int
) -> UInt8[np.ndarray, "H W 3"]:
    shrinks = height < picture.shape[0]
    how = cv2.INTER_AREA if shrinks else cv2.INTER_CUBIC
    return np.asarray(cv2.resize(picture, (width, height), interpolation=how))


def _boxed(
    image: UInt8[np.ndarray, "h w 3"], box: np.ndarray, size: np.ndarray, side: int
) -> UInt8[np.ndarray, "H W 3"]:
    canvas = np.array(_sized(image, side, side))
    x, y = side / size[1], side / size[0]
    x0, y0, x1, y1 = (round(float(v)) for v in box * np.array([x, y, x, y]))
    if x1 > x0 and y1 > y0:
        ends = (max(x0, 1), max(y0, 1)), (min(x1, side) - 2, min(y1, side) - 2)
        cv2.rectangle(canvas, *ends, (24, 24, 24), 5)
        cv2.rectangle(canvas, *ends, (255, 64, 96), 3)
    return canvas

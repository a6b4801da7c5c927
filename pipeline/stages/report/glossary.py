"""What the words of the page mean: its glossary, in the order in which the page lists them."""

from __future__ import annotations

WORDS: tuple[tuple[str, str], ...] = (
    (
        "IoU",
        "Intersection over union of two boxes: 1 where they are equal, 0 where they do not touch.",
    ),
    (
        "GT-known Loc",
        'Share of the images whose best-scored box, of the true class ("ground truth known"), '
        "has at least this IoU with an annotated box.",
    ),
    (
        "Top-1 Loc, Top-5 Loc",
        "The same, and the classifier also has the true class first, or among its first five.",
    ),
    (
        "CorLoc",
        "Share of a class's images whose box has an IoU above 0.5, then the mean over classes.",
    ),
    (
        "ILSVRC localization error",
        "Share of the images of which none of the five classes predicted first is right and has "
        "a box with IoU 0.5. Lower is better.",
    ),
    (
        "mean IoU",
        "IoU of the best-scored box with the annotated box that it fits best, averaged over "
        "images.",
    ),
    (
        "box F1, precision/recall",
        "Every box counts: precision is the share of the predicted boxes that fit an annotated "
        "one, recall the share of the annotated ones that were found, F1 their harmonic mean. "
        "In brackets at IoU 0.5.",
    ),
    (
        "confidence",
        "The probability that a box has an IoU of at least 0.5 with an annotated one, from its "
        "map and the class's probability. AUC: how often a right box has a higher one than a "
        "wrong box; 50 is chance. Calibration error: the mean distance between confidence and "
        "share of right boxes, in groups of boxes. Surest 70 %: the share of right boxes "
        "without the least sure 30 %.",
    ),
    (
        "COCO AP",
        "Average precision as detection tools report it, by pycocotools: the mean over IoU 0.50 "
        "to 0.95, and at IoU 0.5. Of the classes that were explained, against all annotated "
        "boxes.",
    ),
    (
        "pointing game, energy-based",
        "Share of the images whose highest value lies in an annotated box or within 15 pixels "
        "of one; and the share of the map's sum that lies in the boxes.",
    ),
    (
        "PxAP, PxIoU",
        "Of pixels against masks: the area under precision over recall, and the IoU at the best "
        "threshold for all images together.",
    ),
    (
        "MaxBoxAcc, MaxBoxAccV2",
        "Share of the images localized at the best threshold for all of them together; "
        "MaxBoxAcc is GT-known Loc (oracle) at IoU 0.5. V2 takes the best of all connected "
        "components and is the mean over IoU 0.3, 0.5 and 0.7 (Choe et al., CVPR 2020 and TPAMI "
        "2022).",
    ),
    (
        "fixed, auto, validation, oracle",
        "Maps are scaled to 0 ... 1 and cut at a threshold; the first of these in the table is "
        "the one that the boxes are cut at. Fixed: one that was set beforehand. Auto: by a "
        "rule, from each map alone. Validation: the best for other images than those it is used "
        "on. Oracle: the best for the very images that are scored, which nobody can know "
        "beforehand; it is optimistic, and compares maps rather than boxes.",
    ),
    (
        "60.8 @0.46",
        "60.8 percent, reached at the threshold 0.46. For the best centre box it is the share "
        "of the image's sides.",
    ),
    (
        "full image",
        "A box of the whole image, always: what a method must beat to be of use.",
    ),
    (
        "best centre box",
        "The best of 20 centred boxes, 5 % to 100 % of the image's sides, chosen on the scored "
        "images: an oracle too.",
    ),
    (
        "centred pyramid",
        "A map that falls evenly from the centre to the edges of every image, measured like any "
        "other map.",
    ),
    (
        "95 %",
        "Percentile bootstrap over the images. Where all images agree: Wilson's bound, as a "
        "bootstrap would have no width.",
    ),
)

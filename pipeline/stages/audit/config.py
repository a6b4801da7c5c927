"""Options of stage audit."""

from __future__ import annotations

from dataclasses import dataclass

from pipeline.engine.options import option


@dataclass
class AuditOptions:
    """Which tests of maps are made, on how many images."""

    tests: list[str] = option(
        [
            "faithfulness",
            "region_flipping",
            "infidelity",
            "composite",
            "sanity",
            "input_shift",
            "max_sensitivity",
            "fragility",
        ],
        "faithfulness | region_flipping | infidelity | composite | sanity | input_shift | "
        "max_sensitivity | fragility",
        group="audit",
        item="test",
        required=True,
    )
    images: int = option(32, "chosen evenly from the split", low=1, high=1_000_000)
    few: int = option(
        8,
        "of these, for sanity, max_sensitivity and fragility, which take tens of passes an image",
        low=1,
        high=1_000_000,
    )
    steps: int = option(
        10,
        "of insertion, deletion and region_flipping: each changes as many pixels",
        low=1,
        high=100_000,
    )
    samples: int = option(
        20,
        "squares that infidelity removes of each image, draws of noise of max_sensitivity",
        low=2,
        high=1_000_000,
    )
    layers: int = option(
        8, "parts of the network that are made random, the head one of them", low=2, high=1000
    )
    shift: float = option(
        -1.0,
        "added to the pixels, which are from 0 to 1, for the input shift",
        low=-10,
        high=10,
    )
    epsilon: float = option(
        8 / 255, "how far fragility may change a pixel from 0 to 1", low=0, high=1
    )
    attack_steps: int = option(10, "of fragility", low=1, high=10_000)

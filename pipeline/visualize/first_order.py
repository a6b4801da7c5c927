"""View `first_order`: how well the gradient predicts the change of the class score.

    S_c(I) ~ w^T (I - I_0) + b        w = dS_c / dI at I_0

Simonyan, Vedaldi and Zisserman 2013, section 3.1; pipeline/visualize/linearity.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import torch
from torch import Tensor

from pipeline.ops.hashing import hash_of
from pipeline.ops.precision import disable_autocast
from pipeline.ops.text import printable
from pipeline.plotting import grids
from pipeline.types import ViewResult, ViewSubject
from pipeline.visualize.linearity import Linearity, measure_linearity
from pipeline.visualize.photos import read_photos

if TYPE_CHECKING:
    from jaxtyping import Float, Int

# Root mean squares, in grey levels of 255, at which score and line are compared.
DISTANCES = (1 / 32, 1 / 16, 0.125, 0.25, 0.5, 1.0, 2.0, 4.0, 8.0)


@dataclass(frozen=True, kw_only=True)
class FirstOrder:
    """Compare the score of the predicted class with the line that its gradient gives."""

    few: int = 4  # images
    directions: int = 4  # random directions

    reads_data: ClassVar[bool] = True
    reads_maps: ClassVar[bool] = False

    def __call__(self, subject: ViewSubject) -> ViewResult:
        """Draw and list how well the line predicts the score around a few images, in float32."""
        positions, pixels = read_photos(subject, self.few)
        classes, linearity = self._measure(subject, positions, subject.trained.tensor(pixels))
        ids = subject.data.ids(subject.split)
        images = [printable(ids[position]) for position in positions]
        names = [printable(subject.trained.classes[n]) for n in classes.tolist()]
        curves = {
            name: values.double().cpu().numpy()
            for name, values in (
                ("score", linearity.score),
                ("line", linearity.line),
                ("error_along", linearity.error_along),
                ("error_random", linearity.error_random),
            )
        }
        facts = {
            "note": f"{len(positions)} images, the class predicted; {self.directions} "
            "random directions each (Simonyan et al. 2013, section 3.1)",
            "first": f"{names[0]}, {images[0]}",
        }
        arrays = {"distances": np.array(DISTANCES), **curves}
        records = [
            {
                "image": image,
                "class": name,
                **{key: curve[n].tolist() for key, curve in curves.items()},
            }
            for n, (image, name) in enumerate(zip(images, names, strict=True))
        ]
        return ViewResult(
            sheets={"": grids.draw_first_order(subject.network_name, facts, arrays)},
            numbers={"distances": list(DISTANCES), "images": records},
        )

    def _measure(
        self, subject: ViewSubject, positions: Sequence[int], images: Float[Tensor, "b 3 H W"]
    ) -> tuple[Int[Tensor, "b"], Linearity]:
        """Return the predicted classes, and how well lines predict their scores."""
        network = subject.trained.network
        # The mean over channels: a distance is a single number in the network's units.
        unit = 255 * float(np.mean(subject.trained.std))
        seeds = [int(hash_of([subject.seed, p]), 16) % 2**63 for p in positions]
        with disable_autocast(images):
            with torch.no_grad():
                classes = network(images).logits.argmax(1)
            linearity = measure_linearity(
                lambda given: network(given).logits.gather(1, classes[:, None])[:, 0],
                images,
                [distance / unit for distance in DISTANCES],
                self.directions,
                seeds,
            )
        return classes, linearity

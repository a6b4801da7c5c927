"""What a segmenter must have."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy as np
    from jaxtyping import Float32

    from pipeline.types import Boxes, Example, SaliencyMap


class Segmenter(Protocol):
    """A choice of `segmenter=`: turns a map into scored boxes, and masks where it has them."""

    @property
    def needs_image(self) -> int:
        """The longer side in pixels at which the image is read; 0: it is not needed."""

    @property
    def threshold_info(self) -> Mapping[str, Any]:
        """The threshold as metrics.json names it: {"kind": ThresholdKind, "value": float}."""

    def __call__(self, saliency: SaliencyMap, example: Example | None) -> Boxes:
        """Segment a map.

        Args:
            saliency: the map, at its method's resolution.
            example: its image, `needs_image` pixels on the longer side; None where that is 0.

        Returns:
            Boxes in pixels of the original image, best score first.
        """

    def with_threshold(self, value: float) -> Segmenter:
        """Return the same segmenter with a number for its threshold.

        Args:
            value: a fraction of the map's range, from 0 to 1.
        """


@runtime_checkable
class RefiningSegmenter(Segmenter, Protocol):
    """A segmenter that refines a map by its image before it applies the threshold."""

    def refined(
        self, saliency: SaliencyMap, example: Example | None
    ) -> tuple[Float32[np.ndarray, "H W"], str | None]:
        """Refine a map by its image.

        Args:
            saliency: the map, at its method's resolution.
            example: its image, `needs_image` pixels on the longer side.

        Returns:
            The refined map in [0, 1]; and the reason where the map was left as it was, else None.
        """

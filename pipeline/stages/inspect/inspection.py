"""What every view of stage inspect is given: one network, its run, and what several views want."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pipeline.engine import checkpoint, runtime, shards
from pipeline.engine.progress import show_progress
from pipeline.engine.run import Run, network_name
from pipeline.errors import SkippedImage, UserError
from pipeline.ops.sampling import spread_evenly

if TYPE_CHECKING:
    from torch import Tensor

    from pipeline.stages.inspect.feature_maps import Strongest


@dataclass
class Inspection:
    """One network, looked into; a view writes its files into `folder`."""

    run: Run
    trained: checkpoint.Checkpoint
    folder: Path
    strongest_found: Strongest | None = None

    def option(self, name: str) -> Any:
        return self.run.config["inspect"][name]

    @property
    def network_name(self) -> str:
        return network_name(self.run)

    @property
    def layer(self) -> str:
        return str(self.option("layer"))

    # -- images one by one

    def few(self) -> list[int]:
        """Positions of a few images, evenly over the split."""
        return spread_evenly(len(self.run.data.ids(self.run.split)), self.option("few"))

    def photos(self) -> tuple[list[int], np.ndarray]:
        """These images at the network's size; those that cannot be read are left out."""
        run = self.run
        found = [(p, shards.read_image(run, run.split, p, run.size)) for p in self.few()]
        good = [(p, e.image) for p, e in found if not isinstance(e, SkippedImage)]
        if not good:
            raise self.unreadable()
        return [p for p, _ in good], np.stack([image for _, image in good])

    def unreadable(self) -> UserError:
        return UserError(f"inspect: no image of {self.run.split} could be read")

    # -- feature maps

    def channels(self) -> list[int]:
        """The feature maps that were asked for, or the strongest of the layer."""
        if self.option("channels"):
            return self.given_channels()
        found = self.strongest().maps(self.option("maps"))
        if not found:
            raise UserError(
                f"inspect.layer={self.layer}: no feature map is above 0 anywhere; "
                "inspect.channels=[...] names some"
            )
        return found

    def given_channels(self) -> list[int]:
        """Those that were asked for, each once. Raises UserError for one that is not there."""
        given = self.option("channels")
        count = self._count() if given else 0
        for channel in given:
            if channel >= count:
                raise UserError(
                    f"inspect.channels: {channel} is not there; layer {self.layer!r} "
                    f"has {count} feature maps, 0 to {count - 1}"
                )
        return list(dict.fromkeys(given))

    def _count(self) -> int:
        import torch

        image = torch.zeros(1, 3, *self.run.size, device=self.run.device)
        with float32(image), torch.no_grad():
            maps = self.trained.network(image, at=(self.layer,)).activations[self.layer]
        return int(maps.shape[1])

    def strongest(self) -> Strongest:
        """Of all feature maps of the layer, over the images; looked for once."""
        if self.strongest_found is not None:
            return self.strongest_found
        from pipeline.stages.inspect import feature_maps

        run, layer = self.run, self.layer

        def work(batch: shards.PositionedExamples) -> shards.Arrays:
            images = self.trained.tensor(shards.stack_pixels(batch))
            with float32(images):
                found = feature_maps.peaks(
                    self.trained.network, images, [p for p, _ in batch], layer
                )
            return {"value": found.value, "image": found.image, "place": found.place}

        positions = spread_evenly(len(run.data.ids(run.split)), self.option("images"))
        pieces = list(runtime.split_into_batches(positions, shards.inference_batch_size(run)))
        best: Strongest | None = None
        with show_progress("inspect: strongest", len(positions)) as advance:
            flow = shards.network_flow(run, run.split, work)
            for piece, (arrays, _) in zip(pieces, flow(iter(pieces)), strict=True):
                if arrays:
                    one = feature_maps.Strongest(**arrays)
                    best = one if best is None else best.joined(one)
                advance(len(piece))
        if best is None:
            raise self.unreadable()
        # Of a single batch the strongest are not sorted out yet.
        none = (best.value[:, :0], best.image[:, :0], best.place[:, :0])
        self.strongest_found = best.joined(feature_maps.Strongest(*none))
        return self.strongest_found


def float32(images: Tensor) -> Any:
    """Within, nothing is computed in less, whatever the run's precision is."""
    import torch

    return torch.autocast(images.device.type, enabled=False)

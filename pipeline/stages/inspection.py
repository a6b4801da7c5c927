"""What every view of stage inspect is given: one network, its run, and what several views want."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pipeline import checkpoint, runtime, shards
from pipeline.records import Problem, SetAside
from pipeline.run import Run
from pipeline.stages.picture import chosen, network_of

if TYPE_CHECKING:
    from torch import Tensor

    from pipeline.stages.inspect_features import Strongest


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
        return network_of(self.run)

    @property
    def layer(self) -> str:
        return str(self.option("layer"))

    # -- images one by one

    def few(self) -> list[int]:
        """Positions of a few images, evenly over the split."""
        return chosen(len(self.run.data.ids(self.run.split)), self.option("few"))

    def photos(self) -> tuple[list[int], np.ndarray]:
        """These images at the network's size; those that cannot be read are left out."""
        run = self.run
        found = [(p, shards.read_image(run, run.split, p, run.size)) for p in self.few()]
        good = [(p, e.image) for p, e in found if not isinstance(e, SetAside)]
        if not good:
            raise self.unreadable()
        return [p for p, _ in good], np.stack([image for _, image in good])

    def unreadable(self) -> Problem:
        return Problem(f"inspect: no image of {self.run.split} could be read")

    # -- feature maps

    def channels(self) -> list[int]:
        """The feature maps that were asked for, or the strongest of the layer."""
        if self.option("channels"):
            return self.given_channels()
        found = self.strongest().maps(self.option("maps"))
        if not found:
            raise Problem(
                f"inspect.layer={self.layer}: no feature map is above 0 anywhere; "
                "inspect.channels=[...] names some"
            )
        return found

    def given_channels(self) -> list[int]:
        """Those that were asked for, each once. Raises Problem for one that is not there."""
        given = self.option("channels")
        count = self._count() if given else 0
        for channel in given:
            if channel >= count:
                raise Problem(
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
        from pipeline.stages import inspect_features

        run, layer = self.run, self.layer

        def work(batch: shards.Labelled) -> shards.Arrays:
            images = self.trained.tensor(shards.pixels(batch))
            with float32(images):
                found = inspect_features.peaks(self.trained.network, images, [p for p, _ in batch], layer)
            return {"value": found.value, "image": found.image, "place": found.place}

        positions = chosen(len(run.data.ids(run.split)), self.option("images"))
        pieces = list(runtime.batches(positions, shards.batch_of(run)))
        best: Strongest | None = None
        with runtime.progress("inspect: strongest", len(positions)) as advance:
            flow = shards.through_network(run, run.split, work)
            for piece, (arrays, _) in zip(pieces, flow(iter(pieces)), strict=True):
                if arrays:
                    one = inspect_features.Strongest(**arrays)
                    best = one if best is None else best.joined(one)
                advance(len(piece))
        if best is None:
            raise self.unreadable()
        # Of a single batch the strongest are not sorted out yet.
        self.strongest_found = best.joined(inspect_features.Strongest(best.value[:, :0], best.image[:, :0],
                                                       best.place[:, :0]))  # fmt: skip
        return self.strongest_found


def float32(images: Tensor) -> Any:
    """Within, nothing is computed in less, whatever the run's precision is."""
    import torch

    return torch.autocast(images.device.type, enabled=False)

"""CAM, at a pace at which workers can be killed meanwhile, and with images that kill them."""

from __future__ import annotations

import os
import signal
import time
from dataclasses import dataclass

from torch import Tensor

from pipeline.protocols import Network
from pipeline.saliency.cam import CAM
from pipeline.types import ClassSelector, Explanation


@dataclass(frozen=True)
class SlowCam(CAM):
    """CAM that waits in each batch; an image of one colour ends the process, or raises."""

    seconds: float = 0.0
    at_plain: str = ""  # kill | raise | memory

    def __call__(self, network: Network, images: Tensor, choose: ClassSelector) -> Explanation:
        """Compute the maps of CAM."""
        time.sleep(self.seconds)
        if self.at_plain and bool((images.amax((2, 3)) == images.amin((2, 3))).all(1).any()):
            if self.at_plain == "raise":
                raise ValueError("an image of one colour")
            if self.at_plain == "memory" and len(images) > 1:
                raise MemoryError("too many images at once")
            if self.at_plain == "kill":
                os.kill(os.getpid(), signal.SIGKILL)
        return super().__call__(network, images, choose)

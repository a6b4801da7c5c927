"""What the maps of a run were computed with, and what their network learned from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from pipeline.formats.files import read_json, write_json
from pipeline.types import Supervision

FILE = "computed.json"
TAUGHT = "taught.json"  # hashes of the images in which boxes of a person taught the network
SHOWN = ("label2box", "torch", "torchvision", "numpy")  # whose versions the table names


@dataclass(frozen=True)
class Computed:
    """What something was computed with.

    Attributes:
        precision: of the network; None: others computed it, and it is not known.
        device: cpu, cuda or mps; None: not known.
        versions: of this project and of libraries, by name.
        supervision: what the network learned from; None: others trained it, and it is not known.
        backend: what computed what needs no gradients, as `onnxruntime`; None: not known.
    """

    precision: str | None = None
    device: str | None = None
    versions: Mapping[str, str] = field(default_factory=dict)
    supervision: Supervision | None = None
    backend: str | None = None

    @classmethod
    def read(cls, folder: Path) -> Computed:
        """Read what stage explain wrote beside its maps.

        Args:
            folder: the result of stage explain.
        """
        return cls(**read_json(folder / FILE))

    def write(self, folder: Path) -> None:
        """Write it beside maps.

        Args:
            folder: the result of stage explain.
        """
        write_json(folder / FILE, self.record(), indent=1)

    def record(self) -> dict[str, Any]:
        """Return what computed.json and audit.json hold, and each record of metrics.json gets."""
        return asdict(self)

    def describe(self) -> str:
        """Return the line that stands below a table."""
        versions = ", ".join(f"{name} {self.versions[name]}" for name in SHOWN
                             if name in self.versions)  # fmt: skip
        if self.precision is None:
            return f"precision and device not known (made elsewhere); scored with {versions}"
        learned = "; supervision: boxes" if self.supervision == "boxes" else ""
        backend = "" if self.backend in (None, "torch") else f" by {self.backend}"
        return f"{self.precision} on {self.device}{backend}; {versions}{learned}"


def write_taught(folder: Path, content: Sequence[str]) -> None:
    """Write in which images boxes of a person taught the network, beside maps.

    Args:
        folder: the result of stage explain.
        content: hashes of the images' files.
    """
    write_json(folder / TAUGHT, list(content))


def load_taught(folder: Path) -> frozenset[str]:
    """Return hashes of the images in which boxes of a person taught the network.

    Args:
        folder: the result of stage explain.
    """
    path = folder / TAUGHT
    return frozenset(read_json(path)) if path.is_file() else frozenset()

"""A network whose work without gradients is computed by a compiled backend, float32 on the CPU.

    no gradients     images -> logits and activations             all of it is compiled
    gradients        images -> steps before the earliest named layer, compiled -> torch

The second needs a body that is a chain up to that layer (nn.Sequential within nn.Sequential, or the
body's own output); where it is none, where gradients reach the images, and within a mode that gives
operations rules, torch computes everything. What is compiled is compared with torch before it is
used: a difference, or whatever the backend raises, and torch computes everything, which is noted.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from pipeline.model.backends import Backend, Session, open_session
from pipeline.model.chain import Answer, Cut, Features, Part, cut_chain
from pipeline.model.onnx_file import export_onnx
from pipeline.model.recording import INPUT
from pipeline.types import NetworkOutput

if TYPE_CHECKING:
    from jaxtyping import Float

    from pipeline.model.classifier import Classifier

MAX_DIFFERENCE = 1e-4  # of an output or a CAM, relative to its largest magnitude
MAX_GRAPHS = 12  # sizes and sets of layers that are compiled; torch computes further ones
Keep = Callable[[str, Callable[[], bytes]], bytes]
"""From a description of a file and a function that makes it to its content, perhaps kept."""


def keep_nothing(what: str, make: Callable[[], bytes]) -> bytes:
    """Return the content of a file that is made anew each time.

    Args:
        what: describes the file.
        make: returns its content.
    """
    return make()


@dataclass(frozen=True)
class Graph:
    """A part of a network that a session computes.

    Attributes:
        session: from images to its outputs.
        names: of its outputs.
    """

    session: Session
    names: tuple[str, ...]

    def run(self, images: Float[Tensor, "b c H W"]) -> dict[str, Tensor]:
        """Compute the outputs by name, of a batch `images`."""
        outputs = self.session(images.detach().contiguous().numpy())
        return {
            name: torch.from_numpy(values) for name, values in zip(self.names, outputs, strict=True)
        }


class Compiled:
    """What a backend computes of a network; shared by all threads.

    Args:
        backend: onnxruntime or openvino.
        callers: threads that run the network at the same time.
        keep: keeps files; see `Keep`.

    Attributes:
        refusals: why torch computes something, a line each.
        is_used: whether the backend has computed anything.
    """

    def __init__(self, backend: Backend, callers: int = 1, keep: Keep = keep_nothing) -> None:
        self.backend = backend
        self.refusals: list[str] = []
        self.is_used = False
        self._callers = callers
        self._keep = keep
        self._lock = threading.RLock()
        self._graphs: dict[Any, Graph | None] = {}
        self._cuts: dict[tuple[str, ...], Cut | None] = {}

    def __reduce__(self) -> tuple[Any, ...]:
        """Let a copy of the network have none: its weights may change."""
        return type(None), ()

    def hand_over(self) -> tuple[bool, list[str]]:
        """Return whether a worker's backend has computed anything, and its refusals."""
        return self.is_used, [*self.refusals]

    def take(self, done: tuple[bool, Sequence[str]]) -> None:
        """Note what `hand_over` has returned in a worker."""
        is_used, refusals = done
        self.is_used = self.is_used or is_used
        for line in refusals:
            self._note_refusal(line)

    def answer(
        self, network: Classifier, images: Float[Tensor, "b 3 H W"], at: Sequence[str]
    ) -> NetworkOutput | None:
        """Compute what the network's `forward` does; None where torch must.

        Args:
            network: in eval mode, its weights frozen.
            images: as of `forward`.
            at: as of `forward`.
        """
        if INPUT in at or not self._applies_to(network, images):
            return None
        if torch.is_grad_enabled():
            return self._answer_with_graph(network, images, at) if at else None
        graph = self._graph(Answer(network, tuple(at)), network, images, tuple(at))
        if graph is None:
            return None
        outputs = graph.run(images)
        return NetworkOutput(outputs["logits"], {name: outputs[f"at {name}"] for name in at})

    def features(
        self, network: Classifier, images: Float[Tensor, "b 3 H W"]
    ) -> Float[Tensor, "b K h w"] | None:
        """Compute what `network.features` does of `images`; None where torch must."""
        if torch.is_grad_enabled() or not self._applies_to(network, images):
            return None
        graph = self._graph(Features(network), network, images, "features")
        return None if graph is None else graph.run(images)["features"]

    def _answer_with_graph(
        self, network: Classifier, images: Float[Tensor, "b 3 H W"], at: Sequence[str]
    ) -> NetworkOutput | None:
        """Compute the steps before the earliest named layer here, and the others by torch."""
        names = tuple(network.list_layers(at))
        if INPUT in names:
            return None
        with self._lock:
            if names not in self._cuts:
                self._cuts[names] = cut_chain(network, names)
                if self._cuts[names] is None:
                    self._refuse(
                        f"what runs before {', '.join(names)} is no chain of modules "
                        "(nn.Sequential): with gradients torch computes it"
                    )
        cut = self._cuts[names]
        if cut is None:
            return None
        graph = self._graph(cut.before, network, images, cut.count)
        if graph is None:
            return None
        maps = graph.run(images)["maps"]
        if maps.ndim == 4:
            maps = maps.contiguous(memory_format=torch.channels_last)
        return network.run_in_torch(images, at, cut.behind(maps))

    def _applies_to(self, network: Classifier, images: Tensor) -> bool:
        """Return whether the backend computes what torch would compute here."""
        return (
            type(images) is Tensor
            and images.device.type == "cpu"
            and images.dtype == torch.float32
            and len(images) > 0
            and not network.training
            and not torch.is_autocast_enabled("cpu")
            and torch._C._len_torch_function_stack() == 0
            and torch._C._len_torch_dispatch_stack() == 0
            and torch._C._get_tracing_state() is None
        )

    def _graph(self, part: Part, network: Classifier, images: Tensor, key: Any) -> Graph | None:
        """Return the graph of a part of the network; None where the backend refused it."""
        threads = torch.get_num_threads()
        size = tuple(images.shape[1:])
        key = (key, size, threads)
        if key not in self._graphs:
            with self._lock:
                if key not in self._graphs:
                    self._graphs[key] = self._compile(part, network, size, threads)
        graph = self._graphs[key]
        self.is_used = self.is_used or graph is not None
        return graph

    def _compile(
        self, part: Part, network: Classifier, size: tuple[int, ...], threads: int
    ) -> Graph | None:
        """Compile a part of the network and compare it with torch; None where it is refused."""
        if len(self._graphs) >= MAX_GRAPHS:
            self._refuse(f"more than {MAX_GRAPHS} sizes and sets of layers: torch computes others")
            return None
        part.training = False
        try:
            with torch.no_grad():
                return self._compile_or_raise(part, network, size, threads)
        except Exception as error:  # whatever an exporter or a backend raises for what it cannot do
            lines = str(error).strip().splitlines()
            reason = f"{type(error).__name__}: {lines[0][:120] if lines else ''}"
            self._refuse(f"the network is computed by torch ({reason})")
            return None

    def _compile_or_raise(
        self, part: Part, network: Classifier, size: tuple[int, ...], threads: int
    ) -> Graph:
        probe = draw_probe(size)
        expected = part.by_name(probe)
        names = tuple(expected)
        what = f"{type(part).__name__} {' '.join(names)} {part.extra_repr()} {size}"
        content = self._keep(what, lambda: export_onnx(part, probe, names))
        graph = Graph(open_session(self.backend, content, threads, self._callers), names)
        for images in (probe, *(probe[n : n + 1] for n in range(len(probe)))):
            found = graph.run(images)
            compare(_add_cams(network, found), _add_cams(network, part.by_name(images)))
        return graph

    def _refuse(self, why: str) -> None:
        self._note_refusal(f"runtime.backend={self.backend}: {why}")

    def _note_refusal(self, line: str) -> None:
        if line not in self.refusals:
            self.refusals.append(line)


class Mismatch(Exception):
    """A backend computes something else than torch."""


def compare(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    """Check that each output of a backend is torch's.

    Args:
        found: by name, of the backend.
        expected: by name, of torch.

    Raises:
        Mismatch: a shape or a value differs.
    """
    for name, values in expected.items():
        if found[name].shape != values.shape:
            raise Mismatch(f"{name} has another shape than torch's")
        gap = float((found[name] - values).abs().max() / values.abs().max().clamp(min=1e-30))
        if not gap <= MAX_DIFFERENCE:
            raise Mismatch(f"{name} differs from torch's by {gap:.1g} of its maximum")


def draw_probe(size: tuple[int, ...]) -> Float[Tensor, "4 c H W"]:
    """Draw the images that a backend is compared with torch on, the same each time.

    They are noise, coarse patterns, a dark image and a bright one.

    Args:
        size: channels, height and width.
    """
    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(1, *size, generator=generator)
    coarse = torch.randn(1, size[0], 5, 5, generator=generator)
    pattern = nn.functional.interpolate(coarse, size[1:], mode="bicubic")
    return torch.cat((noise, pattern, -2 + 0.1 * noise, 2 + 0.5 * pattern))


def _add_cams(network: Classifier, outputs: dict[str, Tensor]) -> dict[str, Tensor]:
    """Add the CAMs of all classes, whose largest magnitude may be far below that of the maps."""
    from pipeline.model.classifier import LAST, HasClassWeights

    maps = outputs.get(f"at {LAST}")
    if maps is None or not isinstance(network.head, HasClassWeights) or maps.ndim != 4:
        return outputs
    weights = network.class_weights.detach()
    if weights.shape[1] != maps.shape[1]:
        return outputs
    cams = torch.einsum("ck,bkhw->bchw", weights, maps)
    return {**outputs, "cam": cams}

"""Which backend computes what needs no gradients, and networks that are compiled for some work.

`runtime.backend` is no part of any cache key: a backend's answers are torch's to 1e-4, or it is not
used (pipeline/model/compiled.py). What computed a result is recorded in it.

    outputs/compiled/<key>/network.onnx        key = weights, network, layers, size and versions
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.engine import ranks, terminal
from pipeline.engine.runtime import Precision, describe_bf16_gain, has_unused_gpu
from pipeline.errors import UserError
from pipeline.formats import results_folder
from pipeline.formats.files import atomic_write, read_json, write_json
from pipeline.model.backends import BACKENDS, Backend, installed_version, is_installed
from pipeline.ops.hashing import hash_of

if TYPE_CHECKING:
    import torch

    from pipeline.engine.compute import Compute
    from pipeline.model.classifier import Classifier
    from pipeline.model.compiled import Compiled
    from pipeline.types import Size

WANTED = ("auto", *BACKENDS)
PREFERRED: tuple[Backend, ...] = (
    "onnxruntime",
    "openvino",
)  # the faster first: docs/performance.md
MIN_PIXELS = 256 * 224 * 224  # of all forward passes of some work, from which compiling pays
FOLDER, FILE, USED = "compiled", "network.onnx", "backends.json"


@dataclass(frozen=True)
class BackendChoice:
    """The backend of a run.

    Attributes:
        name: torch, onnxruntime or openvino.
        is_named: whether the user named it: then also small work is compiled.
        outputs: the folder of outputs, where compiled networks are kept; None: they are not kept.
    """

    name: Backend = "torch"
    is_named: bool = False
    outputs: Path | None = None

    @classmethod
    def of(
        cls, options: Mapping[str, Any], where: torch.device, precision: Precision, outputs: Path
    ) -> BackendChoice:
        """Return the backend that options name; see `select_backend`.

        Args:
            options: `runtime` of the configuration.
            where: the device.
            precision: that networks run in.
            outputs: the folder of outputs.
        """
        wanted, deterministic = options["backend"], options["deterministic"]
        name = select_backend(wanted, where, precision, deterministic)
        return cls(name, wanted != "auto", outputs)


def select_backend(
    wanted: str, where: torch.device, precision: Precision, deterministic: bool
) -> Backend:
    """Return the backend that computes what needs no gradients.

    Args:
        wanted: torch, onnxruntime, openvino or auto: the first of the others that is installed, and
            torch where none is, or where they do not compute what is asked for.
        where: the device.
        precision: that networks run in.
        deterministic: whether torch may only use deterministic algorithms.

    Raises:
        UserError: the named backend is not installed, or does not compute what is asked for.
    """
    conflicts = [
        (where.type != "cpu", f"runtime.device={where.type}"),
        (precision != "float32", f"precision={precision}"),
        (deterministic, "runtime.deterministic=true"),
    ]
    others = next((option for is_other, option in conflicts if is_other), None)
    if wanted == "auto":
        return next((name for name in PREFERRED if others is None and is_installed(name)), "torch")
    for backend in BACKENDS:
        if wanted != backend:
            continue
        if backend != "torch" and others is not None:
            raise UserError(
                f"runtime.backend={wanted}: it computes float32 on a CPU, without torch's promises "
                f"on determinism; leave {others} away, or use runtime.backend=auto"
            )
        if not is_installed(backend):
            raise UserError(
                f"runtime.backend={wanted}: not installed; pip install 'label2box[{wanted}]', or "
                "use runtime.backend=auto"
            )
        return backend
    raise UserError(f"runtime.backend={wanted}: no such backend; choices: {', '.join(WANTED)}")


@contextmanager
def compiled(
    networks: Sequence[Classifier], compute: Compute, passes: float, size: Size, folder: Path
) -> Iterator[list[Compiled]]:
    """Let a backend compute what networks compute without gradients, for the time of a block.

    Args:
        networks: in eval mode; their weights stay as they are within the block.
        compute: how anything is computed, the backend included.
        passes: how many forward passes of an image the work needs.
        size: height and width of the images.
        folder: of the result, in which it is recorded what computed it.

    Yields:
        What the backend computes of each network; empty where torch computes everything.
    """
    choice = compute.backend
    is_worth_it = choice.is_named or passes * size[0] * size[1] >= MIN_PIXELS
    if choice.name == "torch" or not is_worth_it:
        with _record_used(folder, []):
            yield []
        return
    from pipeline.model.compiled import Compiled

    callers, before = max(1, compute.workers), [network.compiled for network in networks]
    active = [Compiled(choice.name, callers, _Keeper(each, choice).keep) for each in networks]
    try:
        for network, backend in zip(networks, active, strict=True):
            network.compiled = backend
        with _record_used(folder, active):
            yield active
    finally:
        for network, earlier in zip(networks, before, strict=True):
            network.compiled = earlier
    for line in list_refusals(active):
        terminal.print_line(line)


def list_refusals(active: Sequence[Compiled]) -> list[str]:
    """Return why torch computed what a backend could have computed, each line once.

    Args:
        active: what the backend computed of networks.
    """
    return list(dict.fromkeys(line for each in active for line in each.refusals))


def read_used(folder: Path) -> str:
    """Return the backends that computed a result, as `onnxruntime` or `onnxruntime, torch`.

    Args:
        folder: of the result.
    """
    return ", ".join(read_json(folder / USED))


@contextmanager
def _record_used(folder: Path, active: Sequence[Compiled]) -> Iterator[None]:
    """Add the backend of a block to those that computed a result.

    A killed run may go on with another backend, so what is expected is written first.
    """
    if ranks.current_world().rank > 0:  # rank 0 writes what is no shard
        yield
        return
    path = folder / USED
    before = set(read_json(path)) if path.is_file() else set()
    write_json(path, sorted(before | ({each.backend for each in active} or {"torch"})))
    yield
    used = {each.backend for each in active if each.is_used} if active else {"torch"}
    used |= {"torch" for each in active if each.refusals}
    write_json(path, sorted(before | used) or ["torch"])


@dataclass
class _Keeper:
    """Keeps the compiled files of a network in the folder of outputs."""

    network: Classifier
    choice: BackendChoice
    _fingerprint: str = ""

    def keep(self, what: str, make: Callable[[], bytes]) -> bytes:
        """Return the content of a file; it is made and kept where it is not there."""
        outputs = self.choice.outputs
        if outputs is None:
            return make()
        key = self._describe(what)
        folder = outputs / FOLDER / hash_of(key)
        with suppress(OSError):
            content = (folder / FILE).read_bytes()
            if hashlib.sha256(content).hexdigest() == read_json(folder / "DONE")["sha256"]:
                os.utime(folder / "DONE")  # it counts as used now
                return content
        content = make()
        _write(folder, key, content)
        return content

    def _describe(self, what: str) -> dict[str, Any]:
        from pipeline.engine.store import list_versions

        self._fingerprint = self._fingerprint or fingerprint(self.network)
        names = ("label2box", "torch")
        versions = {name: list_versions()[name] for name in names}
        versions[self.choice.name] = installed_version(self.choice.name)
        return {"stage": FOLDER, "what": what, "network": self._fingerprint, "versions": versions}


def _write(folder: Path, key: dict[str, Any], content: bytes) -> None:
    """Write a compiled file. Of two processes that do so at the same time, both write the same."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write_json(folder / "cache_key.json", key, indent=1)
        with atomic_write(folder / FILE) as temporary:
            temporary.write_bytes(content)
        results_folder.mark(folder)
        done = {"sha256": hashlib.sha256(content).hexdigest(), "files": {FILE: len(content)}}
        write_json(folder / "DONE", done, indent=1)
    except OSError as error:  # a full disk: it is compiled again next time
        terminal.print_line(f"runtime.backend: {folder} could not be written ({error.strerror})")


def fingerprint(network: Classifier) -> str:
    """Return a hash of the weights and the modules of a network.

    Args:
        network: on the CPU.
    """
    digest = hashlib.sha256(repr(network).encode())
    for name, values in network.state_dict().items():
        digest.update(f"{name} {values.dtype} {tuple(values.shape)}".encode())
        digest.update(values.detach().contiguous().view(-1).numpy().tobytes())
    return digest.hexdigest()[:32]


def describe_runtime(
    compute: Compute, precision: str, backend: str, stages: Sequence[str]
) -> str | None:
    """Return a line on what a run uses, and what would be faster; None where no network runs.

    Args:
        compute: device, precision, backend and threads.
        precision: what was asked for.
        backend: what was asked for.
        stages: of the run.
    """
    if not {"train", "explain"} & set(stages):
        return None
    name = compute.backend.name
    version = "" if name == "torch" else f" {installed_version(name)}"
    workers = "1 worker" if compute.workers == 1 else f"{compute.workers} workers"
    faster = []
    if compute.is_cpu and has_unused_gpu():
        faster.append("a GPU is here that this torch cannot use: its driver, or torch with CUDA")
    is_possible = compute.is_cpu and compute.precision == "float32"
    if (
        backend == "auto"
        and name == "torch"
        and is_possible
        and not any(map(is_installed, PREFERRED))
    ):
        faster.append("pip install 'label2box[onnxruntime]'")
    if gain := describe_bf16_gain(precision, compute.device):
        faster.append(gain if name == "torch" else f"for large networks {gain}")
    line = f"{'runtime':<10} {compute.device}, {compute.precision}, {name}{version}, {workers}"
    return f"{line}; faster: {'; '.join(faster)}" if faster else line

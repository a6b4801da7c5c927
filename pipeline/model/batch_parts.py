"""Training passes of a network in parts of the batch, each computed by a thread of its own.

    dL/dw = sum_p (dL/ds_p) (ds_p/dw)        s_p: logits of part p, s = cat_p s_p

Operations that torch spreads over its threads wait for the slowest thread at each layer. Here each
thread computes a part of the batch, forward and backward, with a single thread of torch, and waits
for the others at batch norms alone (part_norm.py). The loss is computed from the logits of the
whole batch, so that the network learns what it would learn from the whole batch, but for rounding.

How many parts a batch has follows from its size, not from the machine: the same command trains the
same weights on one core and on many. Gradients are added in the order of the parts.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, Self

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from pipeline.errors import UserError
from pipeline.model.part_exchange import ExchangeEnded, PartExchange
from pipeline.model.part_norm import PartNorm, list_other_norms, replace_norms
from pipeline.types import NetworkOutput, Size

if TYPE_CHECKING:
    from jaxtyping import Float

    from pipeline.model.classifier import Classifier
    from pipeline.protocols import Objective

MAX_PARTS = 8  # each part holds gradients of all weights until they are added
MIN_PIXELS = 32 * 64 * 64  # of a part, below which waiting at batch norms costs too much,
MIN_PIXELS_OF_TWO = 16 * 64 * 64  # and of each of two parts, which wait for one other alone
MIN_IMAGES = 2  # of a part
TOLERANCE = 1e-3  # of the largest of loss and logits, between whole and parts

# From the network of a part and its images to tensors with a row for each image.
PartFunction = Callable[[Any, "Tensor"], Sequence["Tensor"]]


def count_parts(images: int, size: Size) -> int:
    """Return in how many parts a batch is computed.

    Args:
        images: of the batch.
        size: height and width of an image in pixels.
    """
    pixels = images * size[0] * size[1]
    most = max(min(2, pixels // MIN_PIXELS_OF_TWO), pixels // MIN_PIXELS)
    return max(1, min(MAX_PARTS, images // MIN_IMAGES, most))


class SplitNetwork:
    """A network whose training passes are computed in parts of the batch.

    In all else it is the network: what it has is the network's, and what cannot be split is
    computed by it: passes without gradients or to the images, batches of a single part, and passes
    while hooks are registered on its modules.

    Args:
        network: shares its parameters and buffers with the networks of the parts.
        parts: the largest number of parts.
        cores: how many parts are computed at a time.
        count: returns in how many parts a batch of so many images of a size is computed.

    Attributes:
        was_hooked: whether a pass was not split as hooks had been registered.
    """

    def __init__(
        self,
        network: Classifier,
        parts: int,
        cores: int,
        count: Callable[[int, Size], int] = count_parts,
    ) -> None:
        self.network, self.cores, self.count = network, cores, count
        self.was_hooked = False
        shared = {id(tensor): tensor for tensor in (*network.parameters(), *network.buffers())}
        self._replicas = [copy.deepcopy(network, dict(shared)) for _ in range(parts)]
        for part, replica in enumerate(self._replicas):
            replace_norms(replica, part)
        self._modules = [list(replica.modules()) for replica in self._replicas]
        self._hooks = _count_hooks(network)
        self._pool = ThreadPoolExecutor(
            parts,
            "label2box-part",
            initializer=torch.set_num_threads,
            initargs=(max(1, cores // parts),),
        )

    def __getattr__(self, name: str) -> Any:
        return getattr(self.network, name)

    def __call__(self, images: Float[Tensor, "b 3 H W"], at: Sequence[str] = ()) -> NetworkOutput:
        """Compute logits, and the activations of the layers in `at`, as the network does.

        Args:
            images: float, standardised by the network's mean and deviation.
            at: names of layers and branches; with any the pass is not split.
        """
        if at:
            return self.network(images, at)  # type: ignore[no-any-return]
        (logits,) = self.run_parts(lambda network, part: (network(part).logits,), images)
        return NetworkOutput(logits)

    def run_parts(
        self, function: PartFunction, images: Float[Tensor, "b 3 H W"]
    ) -> Sequence[Tensor]:
        """Compute tensors with a row for each image, part by part, and concatenate them.

        Args:
            function: from the network of a part and its images to the tensors.
            images: of the batch.
        """
        network = self.network
        count = self.count(len(images), (images.shape[2], images.shape[3]))
        count = min(count, len(self._replicas))
        is_hooked = _count_hooks(network) != self._hooks
        self.was_hooked |= is_hooked
        if count == 1 or is_hooked or images.requires_grad or not torch.is_grad_enabled():
            return function(network, images)
        parameters = [tensor for tensor in network.parameters() if tensor.requires_grad]
        passes = _Passes(self, count, function, parameters)
        tensors: Sequence[Tensor] = _RunParts.apply(passes, images, *parameters)
        return tensors

    def __enter__(self) -> Self:
        """Return this network; its threads end with the context."""
        return self

    def __exit__(self, *_: object) -> None:
        """End the threads."""
        self._pool.shutdown()

    def prepare(self, exchange: PartExchange, count: int) -> list[nn.Module]:
        """Return the networks of the parts of a batch, in the network's present modes.

        Args:
            exchange: where they meet.
            count: how many they are.
        """
        modes = [module.training for module in self.network.modules()]
        for modules in self._modules[:count]:
            for module, mode in zip(modules, modes, strict=True):
                module.training = mode
                if isinstance(module, PartNorm):
                    module.exchange = exchange
        return [*self._replicas[:count]]

    def compute(
        self, exchange: PartExchange, work: Callable[[int], Sequence[Tensor | None]]
    ) -> list[Sequence[Tensor | None]]:
        """Compute something for each part in its thread; return the results in order.

        Args:
            exchange: where the parts meet.
            work: is called with the number of each part.

        Raises:
            Exception: the first that a part raises.
        """

        def compute_part(part: int) -> Sequence[Tensor | None]:
            with exchange.computing():
                return work(part)

        futures = [self._pool.submit(compute_part, part) for part in range(exchange.parts)]
        return _collect(futures)


def _collect(futures: Sequence[Future[Sequence[Tensor | None]]]) -> list[Sequence[Tensor | None]]:
    """Wait for all parts; return their results, or raise what the first that failed raised."""
    errors = [error for future in futures if (error := future.exception()) is not None]
    for error in errors:
        if not isinstance(error, ExchangeEnded):
            raise error
    return [future.result() for future in futures]


class _Passes:
    """The forward and the backward passes of all parts of a batch.

    Args:
        split: computes them.
        count: how many parts there are.
        function: from the network of a part and its images to tensors.
        parameters: whose gradients are computed.
    """

    def __init__(
        self, split: SplitNetwork, count: int, function: PartFunction, parameters: Sequence[Tensor]
    ) -> None:
        self.split, self.function, self.parameters = split, function, parameters
        self.exchange = PartExchange(count, split.cores)
        self.rows: list[Sequence[Tensor]] = []  # of each part, with their graphs
        self.sizes: list[int] = []

    def forward(self, images: Tensor) -> list[Tensor]:
        """Compute the tensors of all parts, and keep their graphs."""
        parts = images.tensor_split(self.exchange.parts)
        self.sizes = [len(part) for part in parts]
        replicas = self.split.prepare(self.exchange, len(parts))
        # Modes of torch are those of a thread.
        is_cast, dtype = torch.is_autocast_enabled("cpu"), torch.get_autocast_dtype("cpu")

        def compute(part: int) -> Sequence[Tensor]:
            # Without cache: torch would share weights cast in one thread with the other threads.
            cast = torch.autocast("cpu", dtype, enabled=is_cast, cache_enabled=False)
            with torch.enable_grad(), cast:
                return self.function(replicas[part], parts[part])

        self.rows = [
            [tensor for tensor in tensors if tensor is not None]
            for tensors in self.split.compute(self.exchange, compute)
        ]
        columns = zip(*self.rows, strict=True)
        return [torch.cat([tensor.detach() for tensor in column]) for column in columns]

    def backward(self, gradients: Sequence[Tensor | None]) -> list[Tensor | None]:
        """Compute the gradients of the parameters, added in the order of the parts."""
        split = [None if g is None else torch.split(g, self.sizes) for g in gradients]

        def compute(part: int) -> Sequence[Tensor | None]:
            pairs = [
                (tensor, given[part])
                for tensor, given in zip(self.rows[part], split, strict=True)
                if given is not None and tensor.requires_grad
            ]
            if not pairs:
                return [None] * len(self.parameters)
            tensors, given = zip(*pairs, strict=True)
            return torch.autograd.grad(tensors, self.parameters, given, allow_unused=True)

        sums: list[Tensor | None] = [None] * len(self.parameters)
        for part in self.split.compute(self.exchange, compute):
            for n, gradient in enumerate(part):
                before = sums[n]
                if before is None:
                    sums[n] = gradient
                elif gradient is not None:
                    sums[n] = before + gradient  # a layer may return the same tensor twice
        self.rows = []
        return sums


class _RunParts(torch.autograd.Function):
    """The tensors of all parts, as a function of the parameters."""

    @staticmethod
    def forward(context: Any, passes: _Passes, images: Tensor, *parameters: Tensor) -> Any:
        context.passes = passes
        context.set_materialize_grads(False)
        return tuple(passes.forward(images))

    @staticmethod
    @once_differentiable
    def backward(context: Any, *gradients: Tensor | None) -> Any:
        return (None, None, *context.passes.backward(gradients))


def _count_hooks(network: nn.Module) -> int:
    """Return how many hooks the modules of a network have."""
    return sum(
        len(m._forward_hooks) + len(m._forward_pre_hooks) + len(m._backward_hooks)
        for m in network.modules()
    )


# -- whether a training can be split -------------------------------------------------------------


def explain_whole(
    network: Classifier, objective: Objective, size: Size, labels: Tensor
) -> str | None:
    """Return why the batches of a training are not split; None where they can be.

    A copy of the network, in its present modes, computes the loss of a few images of noise, in
    parts and as a whole: both must be equal. And the network must draw no random numbers, whose
    order threads would change; those of the objective are drawn for the whole batch.

    Args:
        network: in training mode.
        objective: computes the loss.
        size: height and width of the images.
        labels: of a few images; they are at least 2.
    """
    if others := list_other_norms(network):
        return f"{others[0]} computes the statistics of each part alone"
    try:
        network = copy.deepcopy(network)
    except Exception as error:  # of anybody's module
        return f"the network cannot be copied: {error}"
    images = torch.randn(len(labels), 3, *size, generator=torch.Generator().manual_seed(0))
    images = images.to(memory_format=torch.channels_last)
    before = torch.get_rng_state()
    try:
        with torch.no_grad():
            network(images)
        if not torch.equal(before, torch.get_rng_state()):
            return "the network draws random numbers in each pass, as dropout does"
        return _compare_losses(network, objective, images, labels)
    finally:
        torch.set_rng_state(before)


def _compare_losses(
    network: Classifier, objective: Objective, images: Tensor, labels: Tensor
) -> str | None:
    """Return why a loss is not computed in parts, or is another in parts; None if it is equal."""
    # Each has a copy: an objective may read the running statistics, which a pass changes.
    split = SplitNetwork(copy.deepcopy(network), 2, 1, lambda images, size: 2)
    seed = torch.get_rng_state()
    losses = []
    try:
        with split:
            for callee in (network, split):
                torch.set_rng_state(seed)
                loss, logits = objective(callee, images, labels)
                losses.append(torch.cat([loss.detach().view(1), logits.detach().view(-1)]))
    except UserError:
        raise
    except Exception as error:  # of anybody's module or objective
        return f"{type(error).__name__} where parts are computed side by side: {error}"
    if split.was_hooked:
        return "the objective registers hooks on modules of the network"
    whole, parts = losses
    if not (parts - whole).abs().max() <= TOLERANCE * whole.abs().max():
        return "what the network answers for an image depends on the other images"
    return None

"""Parts of a network that are compiled: all of it, its body, or the steps before a layer.

A body is a chain where it is made of nn.Sequential: its steps are the modules in it, at any depth.
The steps before the earliest of some layers are all that runs before it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

if TYPE_CHECKING:
    from jaxtyping import Float

    from pipeline.model.classifier import Classifier
    from pipeline.model.recording import Recording


class Part(nn.Module):
    """A part of a network, from images to a tuple of outputs.

    Args:
        modules: what it is made of, in eval mode.
    """

    def __init__(self, *modules: nn.Module) -> None:
        super().__init__()
        self.parts = nn.ModuleList(modules)

    def by_name(self, images: Float[Tensor, "b c H W"]) -> dict[str, Tensor]:
        """Compute the outputs by name.

        Args:
            images: as the network reads them.

        Raises:
            NotImplementedError: A subclass computes them.
        """
        raise NotImplementedError

    def forward(self, images: Float[Tensor, "b c H W"]) -> tuple[Tensor, ...]:
        """Compute the outputs of `images` in their order."""
        return tuple(self.by_name(images).values())


class Answer(Part):
    """Logits, and the activations of layers and branches.

    Args:
        network: whose forward pass it is.
        at: names of the layers and branches.
    """

    def __init__(self, network: Classifier, at: tuple[str, ...]) -> None:
        super().__init__(network)
        self._network = (network,)
        self._at = at

    def by_name(self, images: Float[Tensor, "b c H W"]) -> dict[str, Tensor]:
        """Compute the logits of `images`, and what each name names."""
        answer = self._network[0].run_in_torch(images, self._at)
        named = {f"at {name}": answer.activations[name] for name in self._at}
        return {"logits": answer.logits, **named}


class Features(Part):
    """What the body of a network gives.

    Args:
        network: whose body it is.
    """

    def __init__(self, network: Classifier) -> None:
        super().__init__(network)
        self._network = (network,)

    def by_name(self, images: Float[Tensor, "b c H W"]) -> dict[str, Tensor]:
        """Compute the feature maps of `images`."""
        return {"features": self._network[0].features_in_torch(images)}


class Before(Part):
    """The first steps of a body."""

    def by_name(self, images: Float[Tensor, "b c H W"]) -> dict[str, Tensor]:
        """Compute what the last of the steps gives of `images`."""
        for step in self.parts:
            images = step(images)
        return {"maps": images}


@dataclass(frozen=True)
class Cut:
    """A body that is cut between two of its steps.

    Attributes:
        count: of the steps before the cut.
        before: these steps.
        steps: those behind it.
        ended: names of the layers whose output each step gives, the first those of the step before
            the cut, and the layers.
    """

    count: int
    before: Before
    steps: Sequence[nn.Module]
    ended: Sequence[Mapping[str, nn.Module]]

    def behind(self, maps: Any) -> Behind:
        """Return what is left of the body where the steps before the cut have run.

        Args:
            maps: what they gave.
        """
        return Behind(self, maps)


@dataclass(frozen=True)
class Behind:
    """The steps behind a cut, which record the layers whose output one of them gives.

    Args:
        cut: where the body is cut.
        maps: what the steps before it gave.
    """

    cut: Cut
    maps: Any

    @property
    def recorded(self) -> frozenset[str]:
        """Names of the layers whose output a step gives."""
        return frozenset(name for layers in self.cut.ended for name in layers)

    def __call__(self, recording: Recording) -> Any:
        """Run the steps, and return what the body gives.

        Args:
            recording: of the layers; the others are recorded by its hooks.
        """
        output = self.maps
        for n, layers in enumerate(self.cut.ended):
            if n > 0:
                output = self.cut.steps[n - 1](output)
            for name, layer in layers.items():
                output = recording.keep(name, layer, output)
        return output


def cut_chain(network: Classifier, names: Sequence[str]) -> Cut | None:
    """Cut a body before the earliest of some layers; None where nothing is known to run before it.

    Args:
        network: whose body it is.
        names: of layers.

    Raises:
        UserError: there is no such layer.
    """
    layers = {name: network.find_layer(name) for name in names}
    steps: list[tuple[str, nn.Module]] = []
    ends: dict[str, int] = {}
    _list_steps(network.body, "", steps, ends)
    runs = [module for step in {id(step): step for _, step in steps}.values()
            for module in step.modules()]  # fmt: skip
    is_repeated = len({id(step) for _, step in steps}) < len(steps) or len(
        {id(module) for module in runs}
    ) < len(runs)
    if is_repeated:
        return None
    ended: list[dict[str, nn.Module]] = [{} for _ in range(len(steps) + 1)]
    count = len(steps)
    for name, layer in layers.items():
        path = network.resolve_path(name)
        if path in ends:
            ended[ends[path]][name] = layer
            count = min(count, ends[path])
        else:
            inside = [n for n, (step, _) in enumerate(steps) if path.startswith(f"{step}.")]
            count = min([count, *inside]) if inside else 0
    if count == 0:
        return None
    modules = [step for _, step in steps]
    return Cut(count, Before(*modules[:count]), modules[count:], ended[count:])


def _list_steps(
    module: nn.Module, path: str, steps: list[tuple[str, nn.Module]], ends: dict[str, int]
) -> None:
    """List the steps of a chain with their paths, and after how many each path has ended."""
    is_chain = (
        type(module).forward is nn.Sequential.forward
        and "forward" not in vars(module)
        and not (module._forward_hooks or module._forward_pre_hooks)
        and len(module) > 0  # type: ignore[arg-type]
    )
    if is_chain:
        for name, child in module._modules.items():
            assert child is not None
            _list_steps(child, f"{path}.{name}" if path else name, steps, ends)
    else:
        steps.append((path, module))
    ends[path] = len(steps)

"""Saliency maps per second, compared with a bare forward pass and with other implementations.

resnet50 with random weights (speed does not depend on the weights), 224x224, batch 16, all cores of
the process; Score-CAM, LIME and KernelSHAP (64 samples of 49 cells) on a single image. DeepLIFT,
LRP and excitation backprop run on vgg16, four images: captum's DeepLIFT and LRP refuse a network
that uses a module twice, as resnet50 does each ReLU. The peers run as their users run them:
float32, contiguous. Ours runs as in the project: channels_last, bf16 where a method allows it. A
record whose name ends in _float32 has ours in float32 beside the same peer. Rounds alternate in the
same process; a ratio is the median of the ratios of the rounds.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from copy import deepcopy
from statistics import median
from typing import Any

import torch
from torch import Tensor, nn

from pipeline.engine.choices import instantiate, read_choice
from pipeline.model.classifier import Classifier
from pipeline.model.torchvision import Torchvision
from pipeline.saliency.superpixels import build_grid
from scripts.measure.records import Record
from scripts.measure.timing import Work, measure_seconds

ROUNDS = 5
SLOW = {"scorecam": 1, "occlusion": 3, "lime": 3, "kernel_shap": 3}  # rounds, without warm-up
BATCH = 16
SAMPLES = 64
COALITIONS = {"samples": SAMPLES, "segments": 49, "superpixels": "grid", "batch": BATCH}
WITH_GRADIENTS = ("Saliency", "GuidedBackprop")  # of captum's classes that are compared
OPTIONS: dict[str, dict[str, Any]] = {
    "occlusion": {"window": 56, "stride": 28},
    "lime": COALITIONS,
    "kernel_shap": COALITIONS,
}


def run(*names: str) -> list[Record]:
    """Return a record for each pair whose name begins with a given name; without names, for all.

    Args:
        names: The beginnings of names; `rounds=N` instead of 5.
    """
    given = [name.removeprefix("rounds=") for name in names if name.startswith("rounds=")]
    names = tuple(name for name in names if not name.startswith("rounds="))
    most = int(given[0]) if given else ROUNDS
    bench = Bench()
    records = []
    for name, (ours, theirs, peer, count) in bench.pairs().items():
        if names and not any(name.startswith(prefix) for prefix in names):
            continue
        records.append(_record(name, ours, theirs, peer, count, most))
    return records


class Bench:
    """The same network twice: torchvision's module for the peers, a Classifier for ours.

    Args:
        device: Where both compute.
        batch: Images in a batch.
        side: Of the images, in pixels.
        network: A network of torchvision with a head `fc`.
    """

    def __init__(
        self,
        device: torch.device | str = "cpu",
        batch: int = BATCH,
        side: int = 224,
        network: str = "resnet50",
    ) -> None:
        import torchvision

        torch.manual_seed(0)
        self.device, self.batch = torch.device(device), batch
        self.theirs = getattr(torchvision.models, network)(weights=None).eval()
        builder = Torchvision(network, None)
        body, head = builder.own(1000)
        self.ours = Classifier(body, head, [str(n) for n in range(1000)], below=builder.below)
        source = dict(self.theirs.state_dict())
        state = {
            name: source["fc." + name[12:] if name.startswith("head.linear.") else name[5:]]
            for name in self.ours.state_dict()
        }
        self.ours.load_state_dict({name: values.clone() for name, values in state.items()})
        self.ours.requires_grad_(False).eval()
        self.ours.to(self.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.theirs.to(self.device)
        self.images = torch.randn(batch, 3, side, side).to(self.device)
        self.last = self.images.contiguous(memory_format=torch.channels_last)
        self.classes = list(range(batch))

    def autocast(self, bf16: bool) -> torch.autocast:
        """Return a context in which torch computes in bfloat16, if so wanted."""
        return torch.autocast(self.device.type, torch.bfloat16, enabled=bf16)

    def method(self, name: str, bf16: bool, count: int | None = None, **arguments: Any) -> Work:
        """Return the work of a method of this project."""
        method = instantiate("saliency", {**read_choice("saliency", name), **arguments})
        classes = torch.tensor(self.classes[:count], device=self.device)[:, None]
        images = self.last[:count]

        def work() -> object:
            with self.autocast(bf16):
                return method(self.ours, images, lambda logits: classes)

        return work

    def forward(self, bf16: bool) -> Work:
        """Return the work of a forward pass without gradients."""

        def work() -> object:
            with torch.inference_mode(), self.autocast(bf16):
                return self.ours(self.last)

        return work

    def torchcam(self, kind: str) -> Work:
        """Return the work of a class of torchcam."""
        from torchcam import methods

        def work() -> object:
            given = {"fc_layer": "fc"} if kind == "CAM" else {}
            with getattr(methods, kind)(self.theirs, target_layer="layer4", **given) as extractor:
                scores = self.theirs(self.images)
                return extractor(self.classes, scores)

        return work

    def grad_cam(self, kind: str, count: int | None = None) -> Work:
        """Return the work of a class of pytorch-grad-cam."""
        import pytorch_grad_cam
        from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

        targets = [ClassifierOutputTarget(n) for n in self.classes[:count]]

        def work() -> object:
            with getattr(pytorch_grad_cam, kind)(self.theirs, [self.theirs.layer4]) as cam:
                if hasattr(cam, "batch_size"):
                    cam.batch_size = BATCH
                return cam(input_tensor=self.images[:count], targets=targets)

        return work

    def captum(self, kind: str, count: int | None = None, **arguments: Any) -> Work:
        """Return the work of a class of captum.attr."""
        from captum import attr

        def work() -> object:
            images = self.images[:count].clone().requires_grad_(kind in WITH_GRADIENTS)
            method = getattr(attr, kind)(self.theirs)
            return method.attribute(images, target=self.classes[:count], **arguments)

        return work

    def propagation_pairs(self) -> dict[str, tuple[Work, Work, str, int]]:
        """Return the pairs of methods that change backward rules, on vgg16, float32."""
        import torchvision
        from captum.attr import LRP, DeepLift
        from captum.attr._utils import lrp_rules

        from pipeline.api.wrapping import as_network

        theirs = torchvision.models.vgg16(weights=None, init_weights=False).eval()
        ours = as_network(deepcopy(theirs).to(memory_format=torch.channels_last))
        for module in theirs.modules():
            if isinstance(module, nn.ReLU):
                module.inplace = False  # captum needs what a ReLU read
        images, last, classes = self.images[:4], self.last[:4], self.classes[:4]

        def explain(name: str, **arguments: Any) -> Work:
            method = instantiate("saliency", {**read_choice("saliency", name), **arguments})
            return lambda: method(ours, last, lambda logits: torch.tensor(classes)[:, None])

        def deeplift() -> object:
            return DeepLift(theirs).attribute(images.clone(), target=classes)

        def lrp(rule: Callable[[], Any]) -> Work:
            def work() -> object:
                for module in theirs.modules():
                    if isinstance(module, nn.Conv2d | nn.Linear):
                        module.rule = rule()
                return LRP(theirs).attribute(images.clone().requires_grad_(), target=classes)

            return work

        return {
            "deeplift_vs_captum": (explain("deeplift"), deeplift, "captum DeepLift", 4),
            "lrp_epsilon_vs_captum": (
                explain("lrp", rule="epsilon"), lrp(lrp_rules.EpsilonRule), "captum LRP", 4),
            "lrp_gamma_vs_captum": (
                explain("lrp", rule="gamma"), lrp(lrp_rules.GammaRule), "captum LRP", 4),
            "excitation_backprop_vs_captum": (
                explain("excitation_backprop", layer="input"), lrp(lrp_rules.Alpha1_Beta0_Rule),
                "captum LRP, alpha 1 beta 0", 4),
        }  # fmt: skip

    def pairs(self) -> dict[str, tuple[Work, Work, str, int]]:
        """Return name -> ours, theirs, the name of the peer, and images per call."""
        shap = {"baselines": torch.randn(5, 3, 224, 224), "n_samples": 5}
        window = {"sliding_window_shapes": (3, 56, 56), "strides": (3, 28, 28), "baselines": 0}
        cells = torch.from_numpy(build_grid((224, 224), 49))[None, None]
        coalitions = {"feature_mask": cells, "n_samples": SAMPLES, "perturbations_per_eval": BATCH}
        cams = {
            "cam_vs_forward": ("cam", self.forward(True), "the bare forward pass, bf16", BATCH),
            "cam_vs_torchcam": ("cam", self.torchcam("CAM"), "torchcam CAM", BATCH),
            "gradcam_vs_torchcam": ("gradcam", self.torchcam("GradCAM"), "torchcam GradCAM", BATCH),
            "gradcam_vs_pytorch_grad_cam": (
                "gradcam", self.grad_cam("GradCAM"), "pytorch-grad-cam GradCAM", BATCH),
            "gradient_vs_captum": ("gradient", self.captum("Saliency"), "captum Saliency", BATCH),
            "guided_backprop_vs_captum": (
                "guided_backprop", self.captum("GuidedBackprop"), "captum GuidedBackprop", BATCH),
            "scorecam_vs_pytorch_grad_cam": (
                "scorecam", self.grad_cam("ScoreCAM", 1), "pytorch-grad-cam ScoreCAM", 1),
            "occlusion_vs_captum": (
                "occlusion", self.captum("Occlusion", 4, **window), "captum Occlusion", 4),
            "lime_vs_captum": ("lime", self.captum("Lime", 1, **coalitions), "captum Lime", 1),
            "kernel_shap_vs_captum": (
                "kernel_shap", self.captum("KernelShap", 1, **coalitions), "captum KernelShap", 1),
        }  # fmt: skip
        pairs: dict[str, tuple[Work, Work, str, int]] = {}
        for name, (method, theirs, peer, count) in cams.items():
            arguments = OPTIONS.get(method, {})
            same = self.forward(False) if name == "cam_vs_forward" else theirs
            ours = self.method(method, True, count, **arguments)
            in_float32 = self.method(method, False, count, **arguments)
            if method in ("gradient", "guided_backprop"):
                # Our gradient methods always compute in float32; _bf16 is what bf16 would gain.
                pairs[name] = in_float32, theirs, f"{peer}, both float32", count
                pairs[f"{name}_bf16"] = self.in_bf16(method), theirs, peer, count
            else:
                pairs[name] = ours, theirs, peer, count
                note = f"{peer.replace('bf16', 'float32')}, both float32"
                pairs[f"{name}_float32"] = in_float32, same, note, count
        pairs["gradient_shap_vs_captum"] = (
            self.method("gradient_shap", False, 4, samples=5),
            self.captum("GradientShap", 4, **shap),
            "captum GradientShap, both float32",
            4,
        )
        for batch in (8, 32):
            pairs[f"occlusion_batch{batch}_vs_captum"] = (
                self.method("occlusion", False, 4, batch=batch, **OPTIONS["occlusion"]),
                self.captum("Occlusion", 4, perturbations_per_eval=batch // 4, **window),
                f"captum Occlusion, both float32, {batch} copies in a pass",
                4,
            )
        path = {"n_steps": 8, "method": "gausslegendre", "internal_batch_size": BATCH}
        pairs["integrated_gradients_vs_captum"] = (
            self.method("integrated_gradients", False, 4, steps=8),
            self.captum("IntegratedGradients", 4, **path),
            "captum IntegratedGradients, both float32",
            4,
        )
        pairs["smoothgrad_vs_captum"] = (
            self.method("smoothgrad", False, 4, samples=8),
            self.noise_tunnel(4, 8),
            "captum NoiseTunnel of Saliency, both float32",
            4,
        )
        return pairs | self.propagation_pairs() | self.attention_pairs()

    def noise_tunnel(self, count: int, samples: int) -> Work:
        """Return the work of captum's SmoothGrad."""
        from captum import attr

        method = attr.NoiseTunnel(attr.Saliency(self.theirs))
        arguments = {"nt_type": "smoothgrad", "nt_samples": samples, "stdevs": 0.15}
        arguments |= {"nt_samples_batch_size": BATCH // count, "target": self.classes[:count]}
        return lambda: method.attribute(self.images[:count].clone().requires_grad_(), **arguments)

    def attention_pairs(self) -> dict[str, tuple[Work, Work, str, int]]:
        """Return attention rollout of timm's ViT beside what people write: hooks and products.

        No peer that pip installs has rollout. timm's fused attention, which gives no weights, is
        off for the hooks.
        """
        import timm

        from pipeline.api.wrapping import as_network

        theirs = timm.create_model("vit_small_patch16_224", pretrained=False).eval()
        ours = as_network(deepcopy(theirs))
        images, classes = self.images[:4], torch.tensor(self.classes[:4])[:, None]
        method = instantiate("saliency", read_choice("saliency", "attention_rollout"))
        for block in theirs.blocks:
            block.attn.fused_attn = False

        @torch.no_grad()
        def roll_out() -> object:
            seen: list[Tensor] = []
            hooks = [
                block.attn.attn_drop.register_forward_hook(
                    lambda module, given, weights: seen.append(weights)
                )
                for block in theirs.blocks
            ]
            theirs(images)
            for hook in hooks:
                hook.remove()
            identity = torch.eye(seen[0].shape[-1])
            rolled = identity
            for weights in seen:
                mixed = weights.mean(1) + identity
                rolled = (mixed / mixed.sum(-1, keepdim=True)) @ rolled
            return rolled[:, 0, 1:]

        work: Work = lambda: method(ours, images, lambda logits: classes)  # noqa: E731
        return {"attention_rollout_vs_hooks": (work, roll_out, "hooks, both float32", 4)}

    def in_bf16(self, method: str) -> Work:
        """Return the work of a gradient method that is forced to compute in bfloat16."""
        from unittest.mock import patch

        plain = self.method(method, True)

        @contextmanager
        def lower(images: Tensor, graph: bool = True) -> Iterator[None]:
            with torch.set_grad_enabled(graph):
                yield

        def work() -> object:
            with patch("pipeline.saliency.gradients.full_precision", lower):
                return plain()

        return work


def _record(name: str, ours: Work, theirs: Work, peer: str, count: int, most: int) -> Record:
    """Measure a pair in turns, in at most `most` rounds; slow methods in fewer."""
    slow = next((n for prefix, n in SLOW.items() if name.startswith(prefix)), None)
    count_rounds, device = min(slow or most, most), torch.device("cpu")
    if slow is None:
        ours(), theirs()  # warm-up
    rounds = [
        (measure_seconds(ours, device), measure_seconds(theirs, device))
        for _ in range(count_rounds)
    ]
    ratios = [t / o for o, t in rounds]
    return Record(name, count / median(o for o, _ in rounds), count / median(t for _, t in rounds),
                  median(ratios), "images/s", f"{peer}, torch {torch.__version__}",
                  min(ratios), max(ratios))  # fmt: skip

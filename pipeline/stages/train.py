"""Train: images and labels -> a checkpoint. Never a box: not for learning, not for choosing.

Three recipes, by what there is to start from:

    own       the pretrained network knows every class by name: its own head, nothing is trained
    head      pretrained, backbone frozen: a new head learns by SGD on cached features, in seconds
    finetune  pretrained, train.freeze=none: everything learns
    scratch   no weights: everything learns, from random

The best epoch is chosen by classification accuracy on a part of train held back by hash.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pipeline import checkpoint, runtime, shards, show, store
from pipeline.records import Answer, Example, Problem, SetAside, Size, Split
from pipeline.run import Run

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from pipeline.model.classifier import Classifier

# What a knob is where the configuration leaves it to the recipe.
RECIPES: dict[str, dict[str, Any]] = {
    "own": {},
    "head": {"epochs": 30, "batch": 64, "optimizer": "sgd", "lr": 0.01, "weight_decay": 5e-4,
             "warmup": 1, "crop": 1.0},
    "finetune": {"epochs": 6, "batch": 32, "optimizer": "sgd", "lr": 0.003, "weight_decay": 1e-4,
                 "warmup": 1, "crop": 0.3},
    "scratch": {"epochs": 16, "batch": 64, "optimizer": "sgd", "lr": 0.1, "weight_decay": 5e-4,
                "warmup": 1, "crop": 0.6},
}  # fmt: skip
SET_ASIDE = "set_aside.json"  # the reasons why training images could not be used
SAVE_SECONDS = 5.0  # of training at most are lost when a run is killed, or
SAVE_SHARE = 0.05  # of its time goes into saving where that takes long
CACHE_BYTES = 2 << 30  # decoded training images kept in memory, where they fit


def made_of(run: Run) -> dict[str, Any]:
    model = run.model()
    node = {name: value for name, value in run.config["model"].items() if name != "weights"}
    weights: str | None = getattr(model, "weights", None)
    if weight_file := getattr(model, "weight_file", None):
        weights = store.file_fingerprint(weight_file)
    return {
        "source": run.sources("train", "data", "model", "objective"),
        "model": node,
        "weights": weights,
        "objective": run.config["objective"],
        "train": run.config["train"],
        "data": [run.data.fingerprint("train"), run.data.fingerprint("held_back")],
        "classes": run.data.classes,
        "size": run.data.size,
        "precision": run.precision,
        "seed": run.config["seed"],
    }


def check(run: Run) -> None:
    """Raises Problem where the pretrained head is wanted of a network that is not pretrained."""
    if run.config["train"]["head"] == "own" and not getattr(run.model(), "pretrained", False):
        raise Problem(
            f"train.head=own: model={run.config['model'].get('name', 'small')} has no weights; "
            "choose a pretrained network (model=mobilenet_v2, model.weights=imagenet or a file), "
            "or give a trained one, as in checkpoint=outputs/latest"
        )


@dataclass(frozen=True)
class Settings:
    recipe: str
    epochs: int
    batch: int
    optimizer: str
    lr: float
    weight_decay: float
    momentum: float
    warmup: float
    crop: float
    flip: bool
    seed: int


def make(run: Run, folder: Path) -> None:
    import torch

    torch.manual_seed(run.config["seed"])
    model = run.model()
    network, recipe = _start(run, model)
    settings = _settings(run, recipe)
    history: list[dict[str, Any]] = []
    started = time.time()
    if recipe == "own":
        show.line(f"train: all {len(network.classes)} classes are among the pretrained network's "
                  "own; nothing to train (train.head=new trains a head)")  # fmt: skip
    elif settings.epochs > 0:
        learn = _learn_head if recipe == "head" else _learn_all
        history = learn(run, folder, network, model, settings)
    best = max(history, key=lambda epoch: epoch["held_back_top1"], default=None)
    checkpoint.save(
        folder,
        network,
        run.config["model"],
        {
            "size": list(run.data.size),
            "mean": list(model.mean),
            "std": list(model.std),
            "recipe": recipe,
            "settings": {} if recipe == "own" else settings.__dict__,
            "objective": run.config["objective"],
            "precision": run.precision,
            "best": best,
            "seconds": round(time.time() - started, 1),
        },
    )
    store.write_json(folder / "history.json", history, indent=1)
    store.write_json(folder / SET_ASIDE, run.shared.pop("set_aside", []), indent=1)
    (folder / "state.pt").unlink(missing_ok=True)


def _start(run: Run, model: Any) -> tuple[Classifier, str]:
    """The network before training, and which recipe it wants."""
    from pipeline.model.classifier import HEADS, Classifier, MeanLinear
    from pipeline.model.torchvision import select_classes

    classes = run.data.classes
    wanted, freeze = run.config["train"]["head"], run.config["train"]["freeze"]
    if not getattr(model, "pretrained", False):
        if freeze == "backbone":
            raise Problem(
                "train.freeze=backbone: random weights would stay so; give model.weights="
            )
        body, channels = model.body()
        new = MeanLinear(channels, len(classes))
        return Classifier(body, new, classes, model.last, model.below), "scratch"
    body, own, known = model.load()
    if own is not None and wanted != "new":
        rows = _own_rows(classes, known, wanted == "own")
        # A head that is no GAP head is kept only where it is asked for: CAM cannot read it.
        if rows is not None and (wanted == "own" or isinstance(own, tuple(HEADS.values()))):
            head = own if rows == list(range(len(known))) else select_classes(own, rows)
            network = Classifier(body, head, classes or known, model.last, model.below)
            return network, "finetune" if freeze == "none" else "own"
    elif wanted == "own":
        raise Problem("train.head=own: the file's classes are not ImageNet's; train.head=new")
    channels = model.body()[1]
    network = Classifier(body, MeanLinear(channels, len(classes)), classes, model.last, model.below)
    return network, "finetune" if freeze == "none" else "head"


def _own_rows(classes: tuple[str, ...], known: tuple[str, ...], must: bool) -> list[int] | None:
    """The rows of a pretrained head that know the data's classes; all, where the data has none.

    None where it does not know them all by name; Problem where it `must`.
    """
    from pipeline.model.torchvision import rows_by_name

    rows = rows_by_name(classes, known) if classes else list(range(len(known)))
    if rows is not None:
        return rows
    unknown = [name for name in classes if rows_by_name([name], known) is None]
    if must:
        raise Problem(
            f"train.head=own: the pretrained network's head does not know {unknown[:3]}; "
            "name the classes as it does (classes.txt), or train.head=new"
        )
    # Nearly all known is a name written otherwise; a few known is another set of classes.
    if 2 * len(unknown) <= len(classes):
        show.line(
            f"train: the pretrained network knows {len(classes) - len(unknown)} of {len(classes)} "
            f"classes by name, but not {', '.join(unknown[:5])}: a new head is trained for all"
        )
    return None


def _settings(run: Run, recipe: str) -> Settings:
    knobs = run.config["train"]
    own = RECIPES[recipe] or RECIPES["head"]
    chosen = {name: own[name] if knobs[name] is None else knobs[name] for name in own}
    return Settings(recipe=recipe, momentum=knobs["momentum"], flip=knobs["flip"],
                    seed=run.config["seed"], **chosen)  # fmt: skip


def _optimizer(parameters: Any, settings: Settings) -> torch.optim.Optimizer:
    import torch

    if settings.optimizer == "adamw":
        return torch.optim.AdamW(parameters, settings.lr, weight_decay=settings.weight_decay)
    return torch.optim.SGD(parameters, settings.lr, momentum=settings.momentum,
                           weight_decay=settings.weight_decay, nesterov=True)  # fmt: skip


def rate(step: int, steps: int, warmup: int) -> float:
    """The learning rate's factor: linear warm-up, then half a cosine down to 0."""
    if step < warmup:
        return (step + 1) / warmup
    done = (step - warmup) / max(1, steps - warmup)
    return 0.5 * (1 + float(np.cos(np.pi * min(1.0, done))))


# -- a new head on frozen features ---------------------------------------------------------------


def _learn_head(
    run: Run, folder: Path, network: Classifier, model: Any, settings: Settings
) -> list[dict[str, Any]]:
    """Multinomial regression by SGD on pooled features, all in memory."""
    import torch

    features, labels = _pooled_features(run, folder, network, model, "train")
    held, held_labels = _pooled_features(run, folder, network, model, "held_back")
    _check_enough(labels, network.classes)
    # Where the features are: an accelerator has nothing to win on a matrix this small.
    head, objective = network.head.cpu(), run.objective()
    generator = torch.Generator().manual_seed(settings.seed)
    with torch.no_grad():
        head.class_weights.normal_(0, 0.01, generator=generator)
        head.bias.zero_()
    optimizer = _optimizer(head.parameters(), settings)
    per_epoch = -(-len(labels) // settings.batch)
    steps, warmup = settings.epochs * per_epoch, int(settings.warmup * per_epoch)
    history: list[dict[str, Any]] = []
    best, best_top1 = {k: v.clone() for k, v in head.state_dict().items()}, -1.0

    def answer(pooled: Tensor) -> Answer:
        return Answer(head(pooled[:, :, None, None]))

    with runtime.progress("train", steps, unit="steps") as advance:
        for epoch in range(settings.epochs):
            order = torch.randperm(len(labels), generator=generator)
            losses = []
            for n, batch in enumerate(torch.split(order, settings.batch)):
                for group in optimizer.param_groups:
                    group["lr"] = settings.lr * rate(epoch * per_epoch + n, steps, warmup)
                loss, _ = objective(answer, features[batch], labels[batch])
                optimizer.zero_grad(set_to_none=True)
                loss.backward()
                optimizer.step()
                losses.append(float(loss.detach()))
                advance(1)
            with torch.no_grad():
                top1 = accuracy(answer(held).logits, held_labels) if len(held) else 0.0
            history.append(_epoch(epoch, losses, top1))
            if top1 >= best_top1:
                best, best_top1 = {k: v.clone() for k, v in head.state_dict().items()}, top1
    head.load_state_dict(best)
    return history


def _pooled_features(
    run: Run, folder: Path, network: Classifier, model: Any, split: Split
) -> tuple[Tensor, Tensor]:
    """mean_ij f_k(i, j) of every image of a split [n, K], from shards that outlive a killed run."""
    import torch

    from pipeline.stages.features import pooled

    made = {
        "source": run.sources("features", "data", "model"),
        "model": {k: v for k, v in run.config["model"].items() if k != "weights"},
        "weights": run.made_of("train")["weights"],
        "data": run.data.fingerprint(split),
        "size": run.data.size,
        "precision": run.precision,
    }
    where, _ = store.Store(run.outputs).obtain(
        "features", made, lambda f: pooled(run, f, network, model.mean, model.std, split)
    )
    found = [store.read_arrays(path) for path in shards.written(where)]
    _set_aside(run, [why for _, notes in found for _, why in notes["set_aside"]], split)
    arrays = [one for one, _ in found if one]
    if not arrays:
        return torch.zeros(0, 1), torch.zeros(0, dtype=torch.long)
    features = np.concatenate([a["features"] for a in arrays]).astype(np.float32)
    labels = np.concatenate([a["labels"] for a in arrays])
    return torch.from_numpy(features), torch.from_numpy(labels)


def _set_aside(run: Run, reasons: list[str], split: str) -> None:
    """Name what could not be learned from, here and in the report."""
    run.shared.setdefault("set_aside", []).extend(reasons)
    if reasons:
        shown = "".join(f"\n    {why}" for why in reasons[:5])
        more = f"\n    ... and {len(reasons) - 5} more" if len(reasons) > 5 else ""
        show.line(f"train: {len(reasons)} images of {split} were set aside:{shown}{more}")


def _check_enough(labels: Tensor, classes: tuple[str, ...]) -> None:
    if len(labels) == 0:
        raise Problem(
            "train: no image to learn from: train/ is missing or empty, or every image was set "
            "aside; without train/ only classes that the pretrained network knows by name work "
            "(classes.txt gives folders their names)"
        )
    if len(classes) < 2:
        raise Problem(
            f"train: one class, {classes[0]!r}, and nothing to tell it from; expected "
            "train/<class>/<image> with at least two classes"
        )
    missing = [name for n, name in enumerate(classes) if not bool((labels == n).any())]
    if missing:
        show.line(f"train: no image of {', '.join(missing[:5])}: such a class cannot be learned")


# -- the whole network ---------------------------------------------------------------------------


def _learn_all(
    run: Run, folder: Path, network: Classifier, model: Any, settings: Settings
) -> list[dict[str, Any]]:
    import torch
    from lightning_fabric import Fabric

    device = run.device
    logging.getLogger("lightning.fabric").setLevel(logging.WARNING)  # it announces the precision
    logging.getLogger("lightning_fabric").setLevel(logging.WARNING)
    fabric = Fabric(
        accelerator=device.type,
        devices=[device.index or 0] if device.type == "cuda" else 1,
        precision="bf16-mixed" if run.precision == "bf16" else "32-true",
    )
    images, held_back = TrainingImages(run, settings), HeldBackImages(run)
    _check_enough(torch.as_tensor(images.labels), network.classes)
    network.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    learner, optimizer = fabric.setup(_outputs(network), _optimizer(network.parameters(), settings))
    objective = run.objective()
    per_epoch = len(images) // settings.batch or 1  # a last short batch would upset batch norm
    steps, warmup = settings.epochs * per_epoch, int(settings.warmup * per_epoch)
    state = _State.resume(folder, network, optimizer)
    due = time.monotonic() + SAVE_SECONDS

    def save() -> float:
        """Write the state; the time of the next."""
        began = time.monotonic()
        state.save(folder, network, optimizer)
        now = time.monotonic()
        return now + max(SAVE_SECONDS, (now - began) / SAVE_SHARE)

    show.line(f"train: {settings.recipe}, {settings.epochs} epochs of {len(images)} images")
    with runtime.progress("train", steps, state.step, unit="steps") as advance:
        while state.step < steps:
            epoch, first = divmod(state.step, per_epoch)
            network.train()
            for batch, labels in images.batches(epoch, first, per_epoch):
                # Whatever a step draws depends on the step alone, so a resumed one draws the same.
                torch.manual_seed(_seed_of(settings.seed, state.step))
                for group in optimizer.param_groups:
                    group["lr"] = settings.lr * rate(state.step, steps, warmup)
                inputs = checkpoint.to_tensor(batch, model.mean, model.std, device)
                loss, _ = objective(
                    lambda x: Answer(*learner(x)), inputs, torch.as_tensor(labels, device=device)
                )
                optimizer.zero_grad(set_to_none=True)
                fabric.backward(loss)
                optimizer.step()
                state.step += 1
                state.losses.append(float(loss.detach()))
                advance(1)
                # Not where the epoch ends: there it is judged first, then saved.
                if time.monotonic() > due and state.step % per_epoch:
                    due = save()
            top1 = held_back.top1(network, model)
            state.history.append(_epoch(epoch, state.losses, top1))
            state.losses = []
            if top1 >= state.best_top1:
                state.best_top1 = top1
                state.best = {k: v.detach().clone() for k, v in network.state_dict().items()}
            due = save()
    network.load_state_dict(state.best)
    return state.history


@dataclass
class _State:
    """What a killed training goes on from, to the same weights."""

    step: int
    history: list[dict[str, Any]]
    losses: list[float]
    best: dict[str, Tensor]
    best_top1: float

    @classmethod
    def resume(cls, folder: Path, network: Any, optimizer: Any) -> _State:
        import torch

        path = folder / "state.pt"
        if not path.is_file():
            return cls(0, [], [], {}, -1.0)
        try:
            kept = torch.load(path, map_location="cpu", weights_only=True)
        except Exception as error:  # pickle's, zip's and torch's own kinds
            raise Problem(
                f"{path}: not a training state that loads safely ({type(error).__name__}); "
                "delete it, and training begins anew"
            ) from None
        network.load_state_dict(kept.pop("network"))
        optimizer.load_state_dict(kept.pop("optimizer"))
        show.line(f"train: going on from step {kept['step']}")
        return cls(**kept)

    def save(self, folder: Path, network: Any, optimizer: Any) -> None:
        import torch

        with store.whole_file(folder / "state.pt") as temporary:
            torch.save(
                {**self.__dict__, "network": network.state_dict(),
                 "optimizer": optimizer.state_dict()}, temporary)  # fmt: skip


def _outputs(network: Classifier) -> torch.nn.Module:
    """The network with its answer as a plain tuple, which Fabric can walk through."""
    import torch

    class Outputs(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.network = network

        def forward(self, images: Tensor, at: tuple[str, ...] = ()) -> tuple[Tensor, Any]:
            answer = self.network(images, at)
            return answer.logits, dict(answer.activations)

    return Outputs()


def _seed_of(seed: int, step: int) -> int:
    return int(np.random.SeedSequence((seed, step)).generate_state(1)[0])


def _epoch(epoch: int, losses: list[float], top1: float) -> dict[str, Any]:
    loss = float(np.mean(losses)) if losses else float("nan")
    if not np.isfinite(loss):
        raise Problem(f"train: the loss is {loss} in epoch {epoch + 1}; try a smaller train.lr")
    return {"epoch": epoch + 1, "loss": round(loss, 5), "held_back_top1": round(top1, 5)}


def accuracy(logits: Tensor, labels: Tensor) -> float:
    return float((logits.argmax(1) == labels).float().mean())


class TrainingImages:
    """Train, decoded once where memory allows, cropped and flipped anew in every epoch."""

    def __init__(self, run: Run, settings: Settings) -> None:
        self.run, self.settings = run, settings
        self.size = run.data.size
        # A crop wants more pixels than it hands on.
        margin = 8 / 7 if settings.crop < 1 else 1.0
        self.stored: Size = (round(self.size[0] * margin), round(self.size[1] * margin))
        count = len(run.data.ids("train"))
        self.kept: dict[int, np.ndarray] | None = (
            {} if count * self.stored[0] * self.stored[1] * 3 <= CACHE_BYTES else None
        )
        self.broken: dict[int, str] = {}  # of those that are read anew in every epoch
        positions, labels = [], []
        wanted = run.data.labels("train")
        if self.kept is not None:
            aside = []
            with runtime.progress("read", count) as advance:
                for n, example in enumerate(runtime.stream(self._read, range(count), run.workers)):
                    advance(1)
                    if isinstance(example, Example):
                        self.kept[n] = example.image
                        positions.append(n)
                        labels.append(example.label)
                    else:
                        aside.append(str(example))
            _set_aside(run, aside, "train")
        else:
            positions, labels = list(range(count)), wanted.tolist()
        self.positions, self.labels = np.array(positions, int), np.array(labels, np.int64)

    def __len__(self) -> int:
        return len(self.positions)

    def _read(self, position: int) -> Example | SetAside:
        return shards.read_image(self.run, "train", position, self.stored)

    def batches(
        self, epoch: int, first: int, count: int
    ) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Batches `first` to `count` of an epoch: uint8 [b, H, W, 3] and labels [b]."""
        order = np.random.default_rng((self.settings.seed, epoch)).permutation(len(self))
        chosen = [(epoch, int(n)) for n in order[first * self.settings.batch :]]
        made = runtime.stream(self._augmented, chosen, self.run.workers, 4 * self.settings.batch)
        for n, batch in enumerate(runtime.batches(made, self.settings.batch)):
            if first + n >= count:
                return
            yield np.stack([image for image, _ in batch]), np.array([label for _, label in batch])

    def _augmented(self, item: tuple[int, int]) -> tuple[np.ndarray, int]:
        import torch
        from torchvision.transforms.v2 import functional

        epoch, n = item
        position, label = int(self.positions[n]), int(self.labels[n])
        if self.kept is not None:
            image = self.kept[position]
        else:
            example = self._read(position)
            # An image that broke since training began: a grey one keeps batches and order whole.
            if isinstance(example, SetAside):
                self.broken[position] = str(example)
                if len(self.broken) == len(self):
                    raise Problem(f"train: no image could be read; {example}")
                image = np.full((*self.stored, 3), 127, np.uint8)
            else:
                image = example.image
        random = np.random.default_rng((self.settings.seed, epoch, position))
        top, left, height, width = crop_of(random, self.stored, self.settings.crop)
        pixels = torch.from_numpy(image).permute(2, 0, 1)
        pixels = functional.resized_crop(
            pixels, top, left, height, width, list(self.size), antialias=True
        )
        if self.settings.flip and random.random() < 0.5:
            pixels = functional.horizontal_flip(pixels)
        return pixels.permute(1, 2, 0).numpy(), label


def crop_of(random: np.random.Generator, size: Size, smallest: float) -> tuple[int, int, int, int]:
    """Top, left, height and width of a crop: a share of the area from `smallest` to 1, an aspect
    from 3/4 to 4/3 of the image's own (Szegedy et al. 2015)."""
    if smallest >= 1:
        return 0, 0, *size
    area = random.uniform(smallest, 1)
    aspect = np.exp(random.uniform(np.log(3 / 4), np.log(4 / 3)))
    height = min(size[0], max(1, round(size[0] * float(np.sqrt(area / aspect)))))
    width = min(size[1], max(1, round(size[1] * float(np.sqrt(area * aspect)))))
    top = int(random.integers(0, size[0] - height + 1))
    left = int(random.integers(0, size[1] - width + 1))
    return top, left, height, width


class HeldBackImages:
    """What judges an epoch, decoded once where memory allows."""

    def __init__(self, run: Run) -> None:
        self.run = run
        self.count = len(run.data.ids("held_back"))
        height, width = run.data.size
        self.fits = self.count * height * width * 3 <= CACHE_BYTES
        self.kept: list[Example] | None = None

    def _examples(self) -> Iterator[Example]:
        found = runtime.stream(
            lambda position: shards.read_image(self.run, "held_back", position, self.run.size),
            range(self.count),
            self.run.workers,
        )
        return (example for example in found if isinstance(example, Example))

    def top1(self, network: Classifier, model: Any) -> float:
        """Classification accuracy: what the best epoch is chosen by."""
        import torch

        if self.fits and self.kept is None:
            self.kept = list(self._examples())
        network.eval()
        right = total = 0
        device, size = self.run.device, shards.batch_of(self.run)
        with torch.inference_mode(), runtime.autocast(device, self.run.precision):
            for batch in runtime.batches(self.kept or self._examples(), size):
                pixels = np.stack([example.image for example in batch])
                inputs = checkpoint.to_tensor(pixels, model.mean, model.std, device)
                predicted = network(inputs).logits.argmax(1).cpu().numpy()
                right += int((predicted == np.array([e.label for e in batch])).sum())
                total += len(batch)
        return right / total if total else 0.0

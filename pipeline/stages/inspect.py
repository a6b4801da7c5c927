"""Inspect: what a network looks for, as pictures. Six views, each a sheet and its numbers.

    classes.png      images that the network calls a class (pipeline/inspect/ascent.py)
    channels.png     images that excite one feature map, made in the same way
    features.png     the nine images of the data that excite it most (inspect_features.py)
    first_order.png  how far the class score is what its gradient says (inspect/first_order.py)
    filters.png      the weights of the first convolution
    top5.png         the five most probable classes of some images, and a map for each
    <view>.json      the numbers of each; <view>_rise.png the logit's way up
    classes/<name>.png, channels/<number>.png       each image alone, at the network's own size

Everything is computed in float32, in batches, and leaves the network as it was.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pipeline import checkpoint, runtime, shards, store
from pipeline.data.photo import printable
from pipeline.records import Problem, SetAside, near
from pipeline.run import Run
from pipeline.stages import colours, explain, inspect_pictures
from pipeline.stages.inspect_pictures import Cell, grid, mosaic, save, sized
from pipeline.stages.picture import network_of, percent
from pipeline.stages.sheet import Row, contact

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor

    from pipeline.stages.inspect_features import Strongest

PANEL = 224  # the side of a picture on a sheet, PATCH of one of nine, FILTER of a filter
PATCH, FILTER = 104, 72
FEW_CLASSES = 9
# Root mean squares, in grey levels of 255, at which the first-order view is tried.
DISTANCES = (1 / 32, 1 / 16, 0.125, 0.25, 0.5, 1.0, 2.0, 4.0, 8.0)
# What of the objective is left to the style: (penalty, variation, jitter's share of the side, blur)
STYLES = {"plain": (1e-3, 0.0, 0.0, 0.0), "pretty": (1e-4, 1e-4, 1 / 16, 0.8)}


def made_of(run: Run) -> dict[str, Any]:
    options = run.config["inspect"]
    on_data, maps = reads_data(run), "top5" in options["views"]
    families = [*(["data"] if on_data else []), *(["saliency"] if maps else [])]
    return {
        "source": run.sources("inspect", *families),
        "checkpoint": checkpoint.fingerprint(run.checkpoint),
        "inspect": options,
        "seed": run.config["seed"],
        "size": run.size,
        "data": [run.split, run.data.fingerprint(run.split)] if on_data else None,
        "maps": _maps_of(run) if maps else None,
    }


def _maps_of(run: Run) -> list[Any]:
    """What the maps are made of: those of the five most probable classes, whatever explain.target
    says."""
    views = [run.config["explain"][name] for name in ("flips", "scales")]
    return [run.methods[run.method], views, _fitted_on(run), run.precision]


def _fitted_on(run: Run) -> str:
    return run.data.fingerprint("train" if len(run.data.ids("train")) else run.split)


def reads_data(run: Run) -> bool:
    views = set(run.config["inspect"]["views"])
    chooses = "channels" in views and not run.config["inspect"]["channels"]
    return chooses or bool(views & {"features", "first_order", "top5"})


def check(run: Run) -> None:
    """Raises Problem for a class that the network does not know, and for what plain has not."""
    options = run.config["inspect"]
    if options["style"] == "plain":
        given = [name for name in ("jitter", "blur", "variation") if options[name] is not None]
        if given:
            raise Problem(
                f"inspect.{given[0]}={options[given[0]]}: plain is the paper's L2 form alone; "
                "inspect.style=pretty has jitter, blur and variation"
            )
    if any(channel < 0 for channel in options["channels"]):
        raise Problem(f"inspect.channels={options['channels']}: feature maps are counted from 0")
    if reads_data(run) and not len(run.data.ids(run.split)):
        raise Problem(f"inspect: the split {run.split} has no image; see data.* and explain.split")
    _wanted(run, names_of(run))


def names_of(run: Run) -> Sequence[str]:
    """The classes; where no image is read, a checkpoint need not fit any data set."""
    if run.config["checkpoint"] is not None and not reads_data(run):
        return [str(name) for name in checkpoint.read_card(run.classifier)["classes"]]
    return run.classes


def _wanted(run: Run, names: Sequence[str]) -> list[int]:
    """Numbers of the classes to make images of, each once."""
    given = [str(name) for name in run.config["inspect"]["classes"]]
    for name in given:
        if name not in names:
            raise Problem(f"inspect.classes: no such class {name!r}; {near(name, names)}")
    if given:
        return [list(names).index(name) for name in dict.fromkeys(given)]
    count = min(FEW_CLASSES, len(names))
    return [n * len(names) // count for n in range(count)]


def make(run: Run, folder: Path) -> None:
    inspection = Inspection(run, checkpoint.load(run.checkpoint, run.device), folder)
    notes: list[str] = []
    for view in run.config["inspect"]["views"]:
        notes += getattr(inspection, view)()
    store.write_json(folder / "notes.json", notes, indent=1)


@dataclass
class Inspection:
    """One network, looked into; each view writes its files and tells what it could not show."""

    run: Run
    trained: checkpoint.Checkpoint
    folder: Path
    strongest_found: Strongest | None = None

    def _option(self, name: str) -> Any:
        return self.run.config["inspect"][name]

    @property
    def network_name(self) -> str:
        return network_of(self.run)

    # -- gradient ascent

    def classes(self) -> list[str]:
        import torch

        names = self.trained.classes
        wanted = _wanted(self.run, names)
        network = self.trained.network

        def climb(images: Tensor, which: Sequence[int]) -> tuple[Tensor, Tensor]:
            column = torch.tensor(which, device=images.device)[:, None]
            with torch.enable_grad():
                answer = network(images, at=("input",))
                score = answer.logits.gather(1, column)[:, 0]
                (slope,) = torch.autograd.grad(score.sum(), answer.activations["input"])
            return score.detach(), slope

        def told(image: Tensor, which: int) -> dict[str, Any]:
            with torch.no_grad():
                shares = network(image[None]).logits.float().softmax(1)[0]
            return {"probability": float(shares[which])}

        titles = [printable(names[n]) for n in wanted]
        return self._climbed("classes", "logit", wanted, titles, climb, told)

    def channels(self) -> list[str]:
        import torch

        layer, network = self._option("layer"), self.trained.network
        wanted = self._channels()

        def climb(images: Tensor, which: Sequence[int]) -> tuple[Tensor, Tensor]:
            with torch.enable_grad():
                found = network(images, at=("input", layer)).activations
                score = found[layer].mean((2, 3))[torch.arange(len(which)), list(which)]
                (slope,) = torch.autograd.grad(score.sum(), found["input"])
            return score.detach(), slope

        titles = [f"feature map {n}" for n in wanted]
        return self._climbed("channels", "mean activation", wanted, titles, climb, None)

    def _climbed(
        self,
        view: str,
        what: str,
        wanted: Sequence[int],
        titles: Sequence[str],
        climb: Callable[[Tensor, Sequence[int]], tuple[Tensor, Tensor]],
        told: Callable[[Tensor, int], dict[str, Any]] | None,
    ) -> list[str]:
        import torch

        from pipeline.stages.picture import folders_of

        ascent, style = self._ascent(), self._option("style")
        trained, device = self.trained, self.run.device
        mean, std = (torch.tensor(one, device=device) for one in (trained.mean, trained.std))
        bounds = None if style == "plain" else ((0 - mean) / std, (1 - mean) / std)
        cells, records, curves, asleep = [], [], {}, []
        files = folders_of(titles) if view == "classes" else [str(n) for n in wanted]
        pairs = list(zip(wanted, titles, files, strict=True))
        with runtime.progress(f"inspect: {view}", len(pairs)) as advance:
            for some in runtime.batches(pairs, min(shards.batch_of(self.run), 32)):
                numbers = [number for number, _, _ in some]
                start = torch.stack([self._start(view, number) for number in numbers])
                start = start.contiguous(memory_format=torch.channels_last)
                with _float32(start):
                    found = ascent(
                        lambda images, of=numbers: climb(images, of),
                        start,
                        self.run.config["seed"],
                        bounds,
                    )
                    for n, (number, title, file) in enumerate(some):
                        record = {
                            "name": title,
                            "number": number,
                            "first": float(found.score[n, 0]),
                            "last": float(found.score[n, -1]),
                            **(told(found.images[n], number) if told else {}),
                            "score": found.score[n].tolist(),
                            "objective": found.objective[n].tolist(),
                        }
                        records.append(record)
                        curves[title] = found.score[n].double().cpu().numpy()
                        moved = bool((found.images[n] != start[n]).any())
                        asleep += [] if moved else [title]
                        image = found.images[n].permute(1, 2, 0).float().cpu().numpy()
                        picture = inspect_pictures.made_visible(
                            image, trained.mean, trained.std, bounds is None
                        )
                        save(self.folder / view / f"{file}.png", picture)
                        share = record.get("probability")
                        note = f"{record['first']:z.1f} to {record['last']:z.1f}"
                        note += "" if share is None else f"; p {percent(float(str(share)))}"
                        shown = note if moved else "no gradient where it starts"
                        cells.append(Cell(_fit(picture, PANEL), title, f"{what} {shown}"))
                advance(len(some))
        layer = "" if view == "classes" else f", layer {self._option('layer')}"
        formula = f"argmax {what} - {ascent.penalty:g} |I|^2"
        if style == "pretty":
            formula += f" - {ascent.variation:g} TV, jitter {ascent.jitter}, blur {ascent.blur:g}"
        else:
            formula += " (Simonyan et al. 2013, equation 1)"
        formula += "; contrast stretched"
        heading = "images that it calls a class" if view == "classes" else "what excites it"
        title = f"{self.network_name}{layer}: {heading}"
        save(self.folder / f"{view}.png", grid(title, [formula], cells, _across(len(cells))))
        save(
            self.folder / f"{view}_rise.png",
            inspect_pictures.rise(title, formula, what, curves),
        )
        parts = {n: getattr(ascent, n) for n in ("steps", "rate", "penalty", "variation",
                                                 "jitter", "blur")}  # fmt: skip
        kept = {"ascent": parts, "style": style, "images": records}
        store.write_json(self.folder / f"{view}.json", kept, indent=1)
        return [
            f"{view}: nothing in the mean image moves {one}; inspect.noise=1 starts elsewhere"
            for one in asleep
        ]

    def _ascent(self) -> Any:
        from pipeline.inspect.ascent import Ascent

        penalty, variation, share, blur = STYLES[self._option("style")]
        styled = {
            "penalty": penalty,
            "variation": variation,
            "jitter": round(share * min(self.run.size)),
            "blur": blur,
        }
        given = {name: self._option(name) for name in styled if self._option(name) is not None}
        return Ascent(self._option("steps"), self._option("rate"), **{**styled, **given})

    def _start(self, view: str, number: int) -> Float[Tensor, "3 H W"]:
        """The mean image, with noise that is this image's own, whatever it is computed with."""
        import torch

        height, width = self.run.size
        noise = self._option("noise")
        if not noise:
            return torch.zeros(3, height, width, device=self.run.device)
        seed = int(store.hash_of([self.run.config["seed"], view, number]), 16) % 2**63
        drawn = torch.randn(3, height, width, generator=torch.Generator().manual_seed(seed))
        start: Tensor = noise * drawn.to(self.run.device)
        return start

    # -- feature maps and the data

    def features(self) -> list[str]:
        import torch

        from pipeline.stages import inspect_features as f

        run, layer, network = self.run, self._option("layer"), self.trained.network
        strongest, rows, records, notes = self._strongest(), [], [], []
        height, width = run.size
        image = torch.zeros(1, 3, height, width, device=run.device)
        with _float32(image):
            fields = f.Fields.of(network, image, layer)
        refused, shut, every = "", 0, 0
        channels = self._channels()
        with runtime.progress("inspect: features", len(channels), unit="maps") as advance:
            for channel in channels:
                positions = strongest.image[channel].tolist()
                places = strongest.place[channel].tolist()
                pixels = np.stack(
                    [run.data.example(run.split, p, at=run.size).image for p in positions]
                )
                seen = [fields.at(place) for place in places]
                patches = [f.cut(one, at) for one, at in zip(pixels, seen, strict=True)]
                panels = [mosaic(patches, 3, PATCH)]
                images = self.trained.tensor(pixels)
                where = torch.tensor(places, device=images.device)
                for name, rule in f.RULES.items():
                    if refused:
                        continue
                    try:
                        with _float32(images):
                            back = f.projected(network, images, layer, channel, where, rule)
                    except Problem as problem:
                        refused = str(problem)
                        continue
                    empty = (back == 0).flatten(1).all(1)
                    shut += int(empty.sum()) if name == "guided backprop" else 0
                    shown = [
                        f.cut(colours.in_colour(one, 99.5), at)
                        for one, at in zip(
                            back.permute(0, 2, 3, 1).cpu().numpy(), seen, strict=True
                        )
                    ]
                    panels.append(mosaic(shown, 3, PATCH))
                every += len(positions)
                values = strongest.value[channel].tolist()
                note = f"{values[0]:.2f} to {values[-1]:.2f}"
                rows.append(Row(f"feature map {channel}", note, panels))
                ids = run.data.ids(run.split)
                records.append(
                    {
                        "map": channel,
                        "strongest": [
                            {
                                "image": printable(ids[p]),
                                "value": v,
                                "row": place // fields.features.shape[3],
                                "column": place % fields.features.shape[3],
                                "box": [at[1].start, at[0].start, at[1].stop, at[0].stop],
                            }
                            for p, v, place, at in zip(positions, values, places, seen, strict=True)
                        ],
                    }
                )
                advance(1)
        tall, wide = fields.size
        images_seen = min(self._option("images"), len(run.data.ids(run.split)))
        columns = ["image patches", *f.RULES][: min(len(row.panels) for row in rows)]
        beyond = ": more than the image" if tall > height and wide > width else ""
        sheet = contact(
            f"{self.network_name}, layer {layer}: what its feature maps look for",
            f"strongest of {images_seen} images; receptive field {tall} x {wide} pixels{beyond}",
            columns,
            [Row(row.name, row.note, row.panels[: len(columns)]) for row in rows],
            3 * (PATCH + 3) - 3,
            [],
            len(columns),
        )
        save(self.folder / "features.png", sheet)
        kept = {"layer": layer, "images": images_seen, "receptive_field": [tall, wide]}
        store.write_json(self.folder / "features.json", {**kept, "maps": records}, indent=1)
        if refused:
            notes.append(f"features: patches alone; {refused}")
        if shut:
            notes.append(
                f"features: {shut} of {every} of guided "
                "backprop are empty: no open way back, or an activation at the ceiling of a ReLU6"
            )
        return notes

    def _channels(self) -> list[int]:
        given = self._option("channels")
        if not given:
            found = self._strongest().maps(self._option("maps"))
            if not found:
                raise Problem(
                    f"inspect.layer={self._option('layer')}: no feature map is above 0 anywhere; "
                    "inspect.channels=[...] names some"
                )
            return found
        count = self._count()
        for channel in given:
            if channel >= count:
                raise Problem(
                    f"inspect.channels: {channel} is not there; layer {self._option('layer')!r} "
                    f"has {count} feature maps, 0 to {count - 1}"
                )
        return list(dict.fromkeys(given))

    def _count(self) -> int:
        import torch

        layer = self._option("layer")
        image = torch.zeros(1, 3, *self.run.size, device=self.run.device)
        with _float32(image), torch.no_grad():
            maps = self.trained.network(image, at=(layer,)).activations[layer]
        return int(maps.shape[1])

    def _strongest(self) -> Strongest:
        """Of all feature maps of the layer, over the images."""
        if self.strongest_found is not None:
            return self.strongest_found
        from pipeline.stages import inspect_features as f

        run, layer = self.run, self._option("layer")

        def work(batch: shards.Labelled) -> shards.Arrays:
            images = self.trained.tensor(shards.pixels(batch))
            with _float32(images):
                found = f.peaks(self.trained.network, images, [p for p, _ in batch], layer)
            return {"value": found.value, "image": found.image, "place": found.place}

        positions = _even(len(run.data.ids(run.split)), self._option("images"))
        pieces = list(runtime.batches(positions, shards.batch_of(run)))
        best: Strongest | None = None
        with runtime.progress("inspect: strongest", len(positions)) as advance:
            flow = shards.through_network(run, run.split, work)
            for piece, (arrays, _) in zip(pieces, flow(iter(pieces)), strict=True):
                if arrays:
                    one = f.Strongest(**arrays)
                    best = one if best is None else best.joined(one)
                advance(len(piece))
        if best is None:
            raise Problem(f"inspect: no image of {run.split} could be read")
        # Of a single batch the strongest are not sorted out yet.
        self.strongest_found = best.joined(f.Strongest(best.value[:, :0], best.image[:, :0],
                                                       best.place[:, :0]))  # fmt: skip
        return self.strongest_found

    # -- images one by one

    def _photos(self) -> tuple[list[int], np.ndarray]:
        """A few images, evenly over the split; those that cannot be read are left out."""
        run = self.run
        found = [
            (position, shards.read_image(run, run.split, position, run.size))
            for position in _even(len(run.data.ids(run.split)), self._option("few"))
        ]
        good = [(p, e.image) for p, e in found if not isinstance(e, SetAside)]
        if not good:
            raise Problem(f"inspect: no image of {run.split} could be read")
        return [p for p, _ in good], np.stack([image for _, image in good])

    def first_order(self) -> list[str]:
        import torch

        from pipeline.inspect.first_order import first_order

        positions, pixels = self._photos()
        network, images = self.trained.network, self.trained.tensor(pixels)
        # One number stands for the three channels: the units are the network's own.
        unit = 255 * float(np.mean(self.trained.std))
        with _float32(images):
            with torch.no_grad():
                classes = network(images).logits.argmax(1)
            seeds = [
                int(store.hash_of([self.run.config["seed"], p]), 16) % 2**63 for p in positions
            ]
            found = first_order(
                lambda some: network(some).logits.gather(1, classes[:, None])[:, 0],
                images,
                [r / unit for r in DISTANCES],
                self._option("directions"),
                seeds,
            )
        names = [printable(self.trained.classes[n]) for n in classes.tolist()]
        ids = self.run.data.ids(self.run.split)
        arrays = {
            "distances": np.array(DISTANCES),
            **{
                name: getattr(found, name).double().cpu().numpy()
                for name in ("score", "line", "error_along", "error_random")
            },
        }
        facts = {
            "note": f"{len(positions)} images, the class predicted; {self._option('directions')} "
            "random directions each (Simonyan et al. 2013, section 3.1)",
            "first": f"{names[0]}, {printable(ids[positions[0]])}",
        }
        picture = inspect_pictures.first_order(self.network_name, facts, arrays)
        save(self.folder / "first_order.png", picture)
        records = [
            {
                "image": printable(ids[position]),
                "class": names[n],
                **{name: arrays[name][n].tolist() for name in arrays if name != "distances"},
            }
            for n, position in enumerate(positions)
        ]
        kept = {"distances": list(DISTANCES), "images": records}
        store.write_json(self.folder / "first_order.json", kept, indent=1)
        return []

    def top5(self) -> list[str]:
        import torch

        positions, pixels = self._photos()
        method = explain.ready(self.run, self.trained)
        images = self.trained.tensor(pixels)
        count = min(5, len(self.trained.classes))
        with runtime.autocast(self.run.device, self.run.precision):
            made = method(
                self.trained.network, images, lambda logits: logits.topk(count, dim=1).indices
            )
        with torch.no_grad():
            shares = made.logits.float().softmax(1).gather(1, made.classes).cpu().numpy()
        maps = made.maps.detach().float().cpu().numpy()
        labels = self.run.data.labels(self.run.split)
        ids = self.run.data.ids(self.run.split)
        cells, records = [], []
        for n, position in enumerate(positions):
            small = _fit(pixels[n], PANEL)
            label = int(labels[position]) if self.run.data.classes else -1
            known = printable(self.trained.classes[label]) if label >= 0 else ""
            cells.append(Cell(small, printable(ids[position]), known))
            told = []
            for k, which in enumerate(made.classes[n].tolist()):
                frame = small.shape[0], small.shape[1]
                unit = colours.for_class(colours.at_frame(maps[n, k], frame), 99.0)
                name, share = printable(self.trained.classes[which]), float(shares[n, k])
                cells.append(Cell(colours.laid_over(small, unit), name, percent(share)))
                told.append({"class": name, "probability": share})
            records.append({"image": printable(ids[position]), "label": known, "top": told})
        title = f"{self.network_name}: the {count} most probable classes"
        notes = [f"where it looks for each: {self.run.method}, each map to its own maximum"]
        save(self.folder / "top5.png", grid(title, notes, cells, count + 1))
        kept = {"method": self.run.method, "images": records}
        store.write_json(self.folder / "top5.json", kept, indent=1)
        return []

    # -- weights

    def filters(self) -> list[str]:
        from torch import nn

        reading_colours = (
            (name, module)
            for name, module in self.trained.network.body.named_modules()
            if isinstance(module, nn.Conv2d) and module.weight.shape[1] == 3
        )
        name, module = next(reading_colours, ("", None))
        if module is None:
            return ["filters: no convolution of this network reads red, green and blue"]
        weights = module.weight.detach().float().permute(0, 2, 3, 1).cpu().numpy()
        height, width = (int(n) for n in weights.shape[1:3])
        times = max(FILTER // max(height, width), 1)
        cells = [
            Cell(sized(_weights(one), times * height, times * width, smooth=False), str(n))
            for n, one in enumerate(weights)
        ]
        title = f"{self.network_name}: the {len(weights)} filters of {name}, {height} x {width}"
        notes = ["mid-grey is 0; each scaled to its own largest weight"]
        save(self.folder / "filters.png", grid(title, notes, cells, 12))
        store.write_json(
            self.folder / "filters.json",
            {"layer": name, "largest": np.abs(weights).max((1, 2, 3)).tolist()},
            indent=1,
        )
        return []


def _weights(one: np.ndarray) -> np.ndarray:
    """Red, green and blue about mid-grey, to the largest weight."""
    most = float(np.abs(one).max()) or 1.0
    return np.asarray(np.rint((0.5 + 0.5 * one / most) * 255).astype(np.uint8))


def _fit(picture: np.ndarray, side: int) -> np.ndarray:
    scale = side / max(picture.shape[:2])
    height, width = (max(1, round(n * scale)) for n in picture.shape[:2])
    return sized(picture, height, width, smooth=max(picture.shape[:2]) > 96)


def _across(count: int) -> int:
    """Columns of a sheet: one row of few, else about as wide as high, five at most."""
    return count if count <= 4 else min(5, int(np.ceil(np.sqrt(count))))


def _even(count: int, wanted: int) -> list[int]:
    few = min(count, wanted)
    return [n * count // few for n in range(few)]


def _float32(images: Tensor) -> Any:
    import torch

    return torch.autocast(images.device.type, enabled=False)

"""A training image is localized by a head that did not learn from it; others by the head of all."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import cast

import numpy as np
import pytest
import torch

from pipeline.data.folder import Folder
from pipeline.engine import checkpoint
from pipeline.engine.folds import FoldedNetworks, branch_name, fold_of
from pipeline.engine.images import SplitImages
from pipeline.engine.runtime import select_device
from pipeline.protocols import DataSet
from pipeline.types import Example
from tests.conftest import Cli

RUN = ("+experiment=annotate", "data=folder", "model=small", "train.epochs=1", "data.size=32",
       "saliency@refine.teacher=cam", "refine.steps=2", "refine.batch=8", "annotate.sheet=0",
       "refine.object_class=false", "stages=[train,refine,explain,localize,rank,annotate]",
       "annotate.folds=2")  # fmt: skip


def test_folds_follow_the_content_of_images(
    cli: Cli, folder_of_images: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = (*RUN, f"data.root={folder_of_images}")
    assert cli(*run) == 0
    folder = Path("outputs/latest/stages/refine").resolve()
    trained = checkpoint.load(folder, select_device("cpu"))
    content = trained.card["folds"]["content"]
    assert 2 <= len(content) <= 24
    heads = [trained.network.branches[name] for name in ("foreground", *map(branch_name, range(2)))]
    weights = [torch.cat([each.flatten() for each in head.parameters()]) for head in heads]
    assert not any(torch.equal(weights[a], weights[b]) for a, b in ((0, 1), (0, 2), (1, 2)))
    assert not list(folder.glob("state*"))

    image = np.zeros((64, 64, 3), np.uint8)
    hashes = [*content, "f" * 16]
    images = SplitImages(cast(DataSet, Folder(str(folder_of_images))), "train")
    networks = replace(FoldedNetworks.of(trained, images), hash_image=hashes.__getitem__)
    batch = [(n, Example(str(n), image, 0, (64, 64))) for n in range(len(hashes))]
    for network, part in networks.split(batch):
        folds = {None if n == len(content) else fold_of(hashes[n], 2) for n, _ in part}
        assert len(folds) == 1
        (fold,) = folds
        name = "foreground" if fold is None else branch_name(fold)
        assert network.network.branches["foreground"] is trained.network.branches[name]

    first = json.loads(Path("outputs/latest/predictions.json").read_text(encoding="utf-8"))
    path = folder_of_images / "train" / "red" / "0.png"
    path.rename(folder_of_images / "train" / "red" / "renamed.png")
    capsys.readouterr()
    assert cli(*run) == 0  # the earlier network and its folds, from a checkpoint
    assert "is used again" in capsys.readouterr().out
    again = json.loads(Path("outputs/latest/predictions.json").read_text(encoding="utf-8"))
    assert sorted(map(str, boxes_of(first))) == sorted(map(str, boxes_of(again)))
    assert cli(*run, "outputs=afresh", f"checkpoint={folder}", "stages=[explain,localize]") == 0
    afresh = json.loads(Path("afresh/latest/predictions.json").read_text(encoding="utf-8"))
    assert sorted(map(str, boxes_of(afresh))) == sorted(map(str, boxes_of(first)))


def boxes_of(predictions: dict[str, list[dict[str, list[float]]]]) -> list[list[float]]:
    return [record["bbox"] for record in predictions["annotations"]]

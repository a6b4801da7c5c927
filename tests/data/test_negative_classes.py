"""negative_classes: data.negatives names classes without an object."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.data.folder import Folder
from pipeline.errors import UserError


@pytest.fixture
def root(tmp_path: Path, paint) -> Path:
    for name in ("n01", "n02", "Café"):
        for n in range(3):
            paint(tmp_path / f"data/{name}/{n}.png")
    (tmp_path / "data/classes.txt").write_text("n02 empty road\n")
    return tmp_path / "data"


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ((), ()),
        (["empty road"], ("empty road",)),
        (["n02"], ("empty road",)),
        ("n02", ("empty road",)),
        (["n02", "Cafe\N{COMBINING ACUTE ACCENT}"], ("Café", "empty road")),
    ],
)
def test_a_class_is_named_by_name_or_folder(root, given, expected):
    data = Folder(str(root), negatives=given)
    assert set(data.negative_classes()) == set(expected)
    assert data.classes == Folder(str(root)).classes
    assert data.fingerprint("train") == Folder(str(root)).fingerprint("train")


def test_what_cannot_be_is_refused(root):
    with pytest.raises(UserError, match=r"data\.negatives=emty road: .*did you mean 'empty road'"):
        Folder(str(root), negatives=["emty road"]).negative_classes()
    with pytest.raises(UserError, match="nothing is localized"):
        Folder(str(root), negatives=["n01", "n02", "Café"]).negative_classes()

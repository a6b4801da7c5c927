"""runtime.deterministic: the same boxes twice, and torch's own switch behind it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from pipeline.engine import runtime
from pipeline.errors import UserError
from tests.conftest import TINY, Cli


@pytest.fixture(autouse=True)
def as_it_was() -> Iterator[None]:
    yield
    torch.use_deterministic_algorithms(False)


def test_the_same_boxes_twice(cli: Cli, tmp_path: Path) -> None:
    run = ("+experiment=cam", *TINY, "stages=[train,explain,localize]")
    for outputs in ("once", "again"):
        assert cli(*run, "runtime.deterministic=true", f"outputs={outputs}") == 0
        assert torch.are_deterministic_algorithms_enabled()
    once, again = ((tmp_path / name / "latest/boxes.json") for name in ("once", "again"))
    assert once.read_bytes() == again.read_bytes()
    assert cli(*run, "outputs=once", "runtime.workers=1") == 0
    assert not torch.are_deterministic_algorithms_enabled(), "one run of a sweep at a time"


def test_what_has_no_such_algorithm_is_refused_with_the_remedy() -> None:
    said = "upsample_bilinear2d does not have a deterministic implementation. You can turn it off"
    with (
        pytest.raises(
            UserError, match=r"runtime.deterministic=true: upsample.*implementation; use"
        ),
        runtime.explain_nondeterminism(),
    ):
        raise RuntimeError(said)
    with (
        pytest.raises(RuntimeError, match="other"),
        runtime.explain_nondeterminism(),
    ):
        raise RuntimeError("other")

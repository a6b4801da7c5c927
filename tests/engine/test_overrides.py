"""overrides: values that Hydra's grammar cannot read are paths where such files exist."""

from __future__ import annotations

from pathlib import Path

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser

from pipeline.engine.overrides import prepare_overrides
from pipeline.errors import UserError


@pytest.mark.parametrize("name", ["photos [2024]/*.jpg", "photos [2024]/it's (1).jpg"])
def test_paths_that_exist_need_no_second_quotes(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="quoted twice"):
        prepare_overrides([f"images={name}"])
    Path("photos [2024]").mkdir()
    (override,) = prepare_overrides([f"images={name}"])
    assert OverridesParser.create().parse_override(override).value() == name

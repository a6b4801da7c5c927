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


@pytest.mark.parametrize(
    ("given", "value"),
    [
        ("data.val_folder=Café", "Café"),
        ("data.val_folder=Straße 5", "Straße 5"),
        ("data.val_folder='Café'", "Café"),
        ("explain.target=[猫,top2, Thé vert]", ["猫", "top2", "Thé vert"]),
        ("model.classes=['a,b',Ångström]", ["a,b", "Ångström"]),
    ],
)
def test_letters_beyond_ascii_need_no_second_quotes(given: str, value: object) -> None:
    (override,) = prepare_overrides([given])
    parsed = OverridesParser.create().parse_override(override).value()
    assert list(map(str, parsed)) == value if isinstance(value, list) else parsed == value


def test_values_that_quotes_do_not_repair_are_still_refused() -> None:
    with pytest.raises(UserError, match="Café") as error:
        prepare_overrides(["data.val_folder=Café (noir"])
    assert "cannot read the value 'Café (noir'" in str(error.value)

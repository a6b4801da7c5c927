"""The page of a view model, as text: what is inlined, escaped, allowed."""

from __future__ import annotations

import base64
import hashlib
import html
import json
import re
from typing import Any

import pytest

from pipeline.stages.report.rendering import FILES, SCRIPTS, render, to_json
from tests.report_fixture import CLASSES, HOSTILE, make_view_model

FORBIDDEN = ("innerHTML", "insertAdjacentHTML", "document.write", "eval(", "fetch(", "@import",
             "url(", "XMLHttpRequest")  # fmt: skip
SCRIPT = re.compile(r"<script>(.*?)</script>", re.DOTALL)


@pytest.fixture(scope="module")
def model() -> dict[str, Any]:
    return make_view_model(count=8, methods=("cam", "layercam"))


@pytest.fixture(scope="module")
def page(model: dict[str, Any]) -> str:
    return render(model)


def test_the_model_is_in_the_page(page: str, model: dict[str, Any]) -> None:
    found = re.search(r'<script type="application/json" id="view-model">(.*?)</script>', page, re.S)
    assert found is not None
    assert json.loads(found[1]) == json.loads(json.dumps(model))
    assert not re.search("[<>\u2028\u2029]", found[1])


def test_only_its_own_scripts_may_run(page: str) -> None:
    policy = re.search(r'Content-Security-Policy" content="([^"]*)"', page)
    assert policy is not None
    allowed = set(re.findall(r"'sha256-([^']*)'", html.unescape(policy[1])))
    scripts = SCRIPT.findall(page)
    hashes = {base64.b64encode(hashlib.sha256(each.encode()).digest()).decode() for each in scripts}
    assert len(scripts) == len(SCRIPTS)
    assert hashes == allowed
    assert "default-src 'none'" in html.unescape(policy[1])
    assert "unsafe-inline" not in html.unescape(policy[1]).split("script-src")[1].split(";")[0]


def test_no_file_asks_for_another_and_no_data_becomes_code() -> None:
    for path in FILES:
        text = path.read_text(encoding="utf-8")
        for word in FORBIDDEN:
            assert word not in text, (path.name, word)
        if path.suffix in (".js", ".css"):
            assert "</" not in text.replace("</script", "</"), path.name


def test_what_names_hold_is_text(model: dict[str, Any]) -> None:
    hostile = "<script>window.hostile = 3</script>"
    page = render({
        **model, "title": hostile, "facts": [hostile], "essentials": hostile,
        "words": [[hostile, hostile]],
        "notes": [{"text": hostile, "names": [hostile], "more": 1}],
    })  # fmt: skip
    assert hostile not in page
    assert page.count(html.escape(hostile)) >= 6
    for name in (HOSTILE[0], CLASSES[2]):
        assert name not in page


def test_json_stands_in_a_script_element() -> None:
    for text in ("</script>", "<!--", "\u2028\u2029", "a & b", "כלב"):
        written = to_json({"name": text})
        assert "<" not in written
        assert json.loads(written) == {"name": text}
    with pytest.raises(ValueError):
        to_json({"iou": float("nan")})


def test_a_model_of_few_parts_is_a_page() -> None:
    model = make_view_model(count=0, is_labelled=False)
    model.update(images=[], notes=[], words=[], stages=[], comparison=None)
    page = render(model)
    assert 'id="images"' not in page
    assert "These images have no labels" in page

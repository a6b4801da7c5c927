"""CITATION.cff and the issue forms have the fields that their readers require."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from tests.conftest import ROOT

TEMPLATES = ROOT / ".github/ISSUE_TEMPLATE"
FORMS = sorted(TEMPLATES.glob("*_*.yml"))
FIELD_TYPES = {"markdown", "textarea", "input", "dropdown", "checkboxes"}


def test_citation_has_the_required_fields() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert citation["cff-version"] == "1.2.0"
    assert citation["type"] == "software"
    assert all(citation[key] for key in ("message", "title", "license", "version"))
    assert citation["authors"]
    assert all(set(author) <= {"name", "email", "website"} for author in citation["authors"])


@pytest.mark.parametrize("form", FORMS, ids=lambda form: form.stem)
def test_issue_forms_are_complete(form: Path) -> None:
    content = yaml.safe_load(form.read_text(encoding="utf-8"))
    assert all(content[key] for key in ("name", "description", "body"))
    fields = [field for field in content["body"] if field["type"] != "markdown"]
    assert {field["type"] for field in content["body"]} <= FIELD_TYPES
    assert all(field["attributes"]["label"] for field in fields)
    names = [field["id"] for field in fields]
    assert len(set(names)) == len(names)
    assert any(field.get("validations", {}).get("required") for field in fields)


def test_blank_issues_are_off() -> None:
    config = yaml.safe_load((TEMPLATES / "config.yml").read_text(encoding="utf-8"))
    assert config["blank_issues_enabled"] is False
    assert {form.stem for form in FORMS} == {"bug_report", "feature_request"}

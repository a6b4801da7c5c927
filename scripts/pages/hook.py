"""A hook of mkdocs that adds files outside docs/ to the site.

A link to a source file works in the repository; in the site it leads to a page that shows the file.
CONTRIBUTING.md and other pages at the root become pages of the site, and the API reference is
made from the docstrings. No link leads to another host.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mkdocs.structure.files import File

from scripts.pages.reference import reference_pages

if TYPE_CHECKING:
    from mkdocs.config.defaults import MkDocsConfig
    from mkdocs.structure.files import Files

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
PAGES = ("CONTRIBUTING.md", "CHANGELOG.md", "RELEASING.md", "SECURITY.md")
LINK = re.compile(r"(?<=\]\()(?P<path>[^)#:\s]+)(?P<anchor>#[^)\s]*)?(?=\))")


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Add the pages of the API reference to the navigation, at the end of Reference."""
    assert config.nav is not None
    (section,) = [entry["Reference"] for entry in config.nav if "Reference" in entry]
    section.append({"API": list(reference_pages())})
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the API reference, the pages at the root, and a page for each linked source file."""
    for uri, text in reference_pages().items():
        files.append(File.generated(config, uri, content=text))
    for name in PAGES:
        files.append(File.generated(config, name, abs_src_path=str(ROOT / name)))
    sources = [path for path in map(_source, files) if path.suffix == ".md"]
    linked = {target for source in sources for target in _targets(source)}
    for target in sorted(linked):
        if target.is_file() and _uri(target).startswith("code/"):
            text = target.read_text(encoding="utf-8")
            name = target.relative_to(ROOT).as_posix()
            shown = f"# {name}\n\n````{target.suffix[1:]}\n{text}````\n"
            files.append(File.generated(config, _uri(target), content=shown))
    return files


def on_page_markdown(markdown: str, *, page: Any, **_: Any) -> str:
    """Return a page whose links lead to pages of the site."""
    source = _source(page.file)

    def there(link: re.Match[str]) -> str:
        target = (source.parent / link["path"]).resolve()
        if not target.is_file():
            return link[0]  # mkdocs reports it
        uri = posixpath.relpath(_uri(target), posixpath.dirname(page.file.src_uri) or ".")
        return uri + (link["anchor"] or "")

    return markdown if source == ROOT else LINK.sub(there, markdown)


def _source(file: File) -> Path:
    """Return the path of a file of the site in the repository; the root for a generated file."""
    return Path(file.abs_src_path).resolve() if file.abs_src_path else ROOT


def _targets(page: Path) -> Iterator[Path]:
    for link in LINK.finditer(page.read_text(encoding="utf-8")):
        yield (page.parent / link["path"]).resolve()


def _uri(target: Path) -> str:
    """Return the name of a file of the repository in the site."""
    if target.is_relative_to(DOCS):
        return target.relative_to(DOCS).as_posix()
    name = target.relative_to(ROOT).as_posix()
    if name in PAGES:
        return name
    return "index.md" if name == "README.md" else f"code/{name}.md"

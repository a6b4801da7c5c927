"""The report of a run as `python -m pipeline serve` gives it to a browser.

From disk the page can reach nothing. The served copy may reach its server: it has served.js, which
saves marks, another content policy, and addresses of the original images by their positions.
"""

from __future__ import annotations

import html
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from urllib.request import url2pathname

from pipeline.engine.http_server import Served
from pipeline.engine.stage import list_stages
from pipeline.errors import UserError
from pipeline.formats.signature import identify
from pipeline.stages.report.rendering import hash_script, read_files, to_json
from pipeline.stages.report.view_model import VERSION

SCRIPT = "served.js"
MODEL = re.compile(r'(<script type="application/json" id="view-model">)(.*?)(</script>)', re.DOTALL)
POLICY = re.compile(r'<meta http-equiv="Content-Security-Policy" content="([^"]*)">\n?')
HASHES = re.compile(r"'sha256-[A-Za-z0-9+/=]{44}'")
END = "</body>"
ICON = '<link rel="icon" href="data:,">\n'  # else the browser asks for one, without the token


def open_page(path: Path, about: Mapping[str, Any]) -> Served:
    """Read the page of a run, and change it into the one that is served.

    Args:
        path: of report/index.html.
        about: what served.js says: where marks are saved, and the command that ingests them.

    Raises:
        UserError: the page was written by another version of label2box.
    """
    text = path.read_text(encoding="utf-8")
    data, policy = MODEL.search(text), POLICY.search(text)
    model = json.loads(data[2]) if data else {}
    if policy is None or model.get("version") != VERSION or "marking" not in model:
        raise UserError(
            f"{path}: a page that another version of label2box wrote; give the command of the run "
            f"again, which writes it anew (stages: {', '.join(list_stages())})"
        )
    images = _number_files(model["images"])
    (script,) = read_files([SCRIPT])
    page = MODEL.sub(lambda match: match[1] + to_json(model) + match[3], text, count=1)
    page = POLICY.sub(ICON, page, count=1)
    head, end, tail = page.rpartition(END)
    words = f'<script type="application/json" id="served">{to_json(about)}</script>'
    page = f"{head}{words}<script>{script}</script>\n{end}{tail}"
    return Served(
        page=page.encode("utf-8"),
        policy=_content_policy(html.unescape(policy[1]), script),
        images=images,
        records={
            image["id"]: image["record"] for image in model["images"] if image["record"] is not None
        },
    )


def _number_files(images: list[dict[str, Any]]) -> dict[int, Path]:
    """Put the position in place of the address of each image's file; return the files.

    A file that is no image is not served, whatever the page says.
    """
    files = {}
    for image in images:
        address, image["file"] = image["file"], None
        if address is None:
            continue
        path = Path(url2pathname(urlsplit(address).path))
        if path.is_file() and (kind := identify(path)) is not None and kind.is_image:
            files[image["position"]] = path
            image["file"] = f"../images/{image['position']}"
    return files


def _content_policy(from_disk: str, script: str) -> str:
    """Return the policy of the served page: the scripts of the page, one more, and its server."""
    hashes = " ".join([*HASHES.findall(from_disk), hash_script(script)])
    return (
        f"default-src 'none'; script-src {hashes}; style-src 'unsafe-inline'; "
        "img-src 'self' data: blob:; connect-src 'self'; base-uri 'none'; form-action 'none'; "
        "frame-ancestors 'none'"
    )

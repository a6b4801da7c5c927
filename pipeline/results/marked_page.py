"""The report of a run with the marks that are saved beside it, for whoever opens it from disk.

A page on disk reads no other file. So the marks of the run's file are written into the page itself,
as data: whenever marks were saved, by `python -m pipeline serve` or by stage ingest.
"""

from __future__ import annotations

import json
import re
from pathlib import Path

from pipeline.formats.coco import read_json
from pipeline.formats.files import write_text
from pipeline.results.marks import FILE

REPORT = "report/index.html"
"""In the folder of a run."""
PLACE = re.compile(
    r'(<script type="application/json" id="saved-marks">)(.*?)(</script>)', re.DOTALL
)


def write_marks_into_page(folder: Path) -> bool:
    """Write the marks of a run into its page; return whether the page holds them now.

    A page of an older version has no place for them, and stays as it is.

    Args:
        folder: of the run.

    Raises:
        UserError: the file of marks is no JSON.
        OSError: the page cannot be written.
    """
    page, marks = folder / REPORT, folder / FILE
    if not page.is_file() or not marks.is_file():
        return False
    text = page.read_text(encoding="utf-8")
    # Escaped as what a script element may hold: nothing in it ends the element.
    data = json.dumps({"path": FILE, **read_json(marks)}).replace("<", "\\u003c")
    changed, count = PLACE.subn(lambda match: match[1] + data + match[3], text, count=1)
    if count and changed != text:
        write_text(page, changed)
    return bool(count)

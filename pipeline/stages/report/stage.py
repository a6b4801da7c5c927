"""Stage report: one HTML page."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.engine.stage import Published, Stage
from pipeline.ops.hashing import hash_file
from pipeline.stages.report.config import ReportOptions

if TYPE_CHECKING:
    from pipeline.engine.run import Run


class Report(Stage):
    """One HTML page."""

    name = "report"
    after = ("picture", "localize", "evaluate", "compare", "score", "draw", "audit", "inspect")
    needs = ("evaluate",)
    options = ReportOptions
    publishes = (Published("index.html", "report/index.html"),)

    def cache_key(self, run: Run) -> dict[str, Any]:
        """Return all that can change the result."""
        from pipeline.stages.report.page import _links, _title, template_path

        methods = [run.for_method(name) for name in run.methods]
        return {
            "source": run.sources(__name__),
            "template": hash_file(template_path()),
            "evaluate": [one.key("evaluate") for one in methods],
            "compare": run.key("compare") if "compare" in run.config["stages"] else None,
            "report": run.config["report"],
            "title": _title(run),
            "links": _links(run),
            "notes": run.data.notes(),
        }

    def run(self, run: Run, folder: Path) -> None:
        """Make the result."""
        from pipeline.stages.report.page import write_page

        write_page(run, folder)

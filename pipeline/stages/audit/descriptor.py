"""Stage audit: tests of whether maps can be trusted."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.engine.stage import Published, Stage
from pipeline.formats.files import read_json, write_text
from pipeline.stages.audit.config import AuditOptions

if TYPE_CHECKING:
    from pipeline.engine.run import Run


class Audit(Stage):
    """Tests of whether maps can be trusted."""

    name = "audit"
    after = ("explain", "evaluate", "compare", "score", "draw")
    needs = ("train",)
    per_method = True
    options = AuditOptions
    publishes = (Published("audit.json", how="append"),)

    def cache_key(self, run: Run) -> dict[str, Any]:
        from pipeline.stages.audit import stage

        return stage.cache_key(run)

    def check(self, run: Run) -> None:
        from pipeline.stages.audit import stage

        stage.check(run)

    def run(self, run: Run, folder: Path) -> None:
        """Make the result."""
        from pipeline.stages.audit import stage

        stage.make(run, folder)

    def finish(self, run_folder: Path) -> Sequence[str]:
        """Write the table over methods, what their boxes are worth beside it."""
        from pipeline.results.audit_table import format_audits

        metrics = run_folder / "metrics.json"
        text = format_audits(
            read_json(run_folder / "audit.json"), read_json(metrics) if metrics.is_file() else []
        )
        write_text(run_folder / "audit.txt", text)
        pictures = sorted(run_folder.glob("stages/audit*"))
        return [text.rstrip("\n"), *(f"pictures   {link / 'pictures'}" for link in pictures)]

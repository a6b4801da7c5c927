"""Stage picture: pictures of each map, and a sheet for each image with all methods.

    explained/<number>-<image>/sheet.png                    columns: image, methods; rows: classes
    explained/<number>-<image>/<class>/<method>_map.png     evidence for the class, alone
    explained/<number>-<image>/<class>/<method>_over.png    the same, over the image
    explained/<number>-<image>/<class>/<method>_grey.png    the same, from black to white
    explained/<number>-<image>/<class>/<method>_signed.png  for in red, against in blue, if negative
    explained/<number>-<image>/<class>/<method>_signed_over.png  that over the image in grey
    explained/<number>-<image>/<class>/<method>_colour.png  the gradient as an image, if kept
    explained/overview.png                                  several images below one another

Existing files are kept. Each worker has a single image in memory.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.engine import checkpoint
from pipeline.engine.progress import show_progress
from pipeline.engine.runtime import map_in_threads
from pipeline.engine.spread_items import map_items
from pipeline.engine.spreading import NeededPath
from pipeline.engine.stage import Published, Stage
from pipeline.errors import SkippedImage
from pipeline.formats.files import read_json, unique_file_names, write_json
from pipeline.ops.sampling import spread_evenly
from pipeline.ops.text import printable
from pipeline.results.maps import load_skipped
from pipeline.results.notes import skipped_note
from pipeline.stages.picture.config import PictureOptions

if TYPE_CHECKING:
    from pipeline.engine.run import Run
    from pipeline.stages.picture.pictures import Drawing, MapPlace


MAX_NAMED_SHEETS = 6  # on the terminal


class Picture(Stage):
    """Maps as pictures."""

    name = "picture"
    after = ("explain",)
    needs = ("explain",)
    options = PictureOptions
    publishes = (Published("explained", how="link"),)

    def cache_key(self, run: Run) -> dict[str, Any]:
        """Return everything that can change the result."""
        return {
            "source": run.sources(__name__, "data", drawing=True),
            "explain": [[name, run.for_method(name).key("explain")] for name in run.methods],
            "picture": run.config["picture"],
        }

    def run(self, run: Run, folder: Path) -> None:
        """Draw all pictures that do not exist, and record the images without pictures."""
        from pipeline.engine.shards import single_threaded_torch
        from pipeline.stages.picture.pictures import ImageMaps, group_by_image, write_pictures

        maps = {name: run.for_method(name).folder("explain") for name in run.methods}
        skipped = {p: why for result in maps.values() for p, why in load_skipped(result).items()}
        drawing = self._drawing(run, folder)
        wanted = spread_evenly(len(run.images()), run.config["picture"]["images"])
        among = frozenset(wanted)

        def draw(places: list[MapPlace]) -> tuple[int, str] | None:
            try:
                write_pictures(ImageMaps(drawing, places))
            except SkippedImage as problem:
                return places[0].position, str(problem)
            return None

        to_draw = (places for places in group_by_image(maps) if places[0].position in among)
        with show_progress("picture", len(wanted)) as advance, single_threaded_torch():
            needed = [NeededPath.of("outputs", path) for path in (folder, *maps.values())]
            drawn = map_items(draw, to_draw, run.workers, 2 * run.workers, needed, writes=True)
            for problem in drawn:
                advance(1)
                skipped.update([problem] if problem else [])
        self._write_overview(drawing, maps, [p for p in wanted if p not in skipped], run.workers)
        write_json(folder / "set_aside.json", [why for _, why in sorted(skipped.items())], indent=1)

    def _drawing(self, run: Run, folder: Path) -> Drawing:
        from pipeline.stages.picture.pictures import Drawing

        independent = checkpoint.read_answers(run.checkpoint) == "independent"
        return Drawing(
            min_probability=run.config["explain"]["min_probability"] if independent else None,
            images=run.images(),
            folder=folder / "explained",
            classes=[printable(name) for name in run.classes],
            class_folders=unique_file_names(run.classes),
            methods=list(run.methods),
            network=checkpoint.network_name(run.checkpoint),
            options=run.options("picture"),
        )

    def _write_overview(
        self, drawing: Drawing, maps: dict[str, Path], positions: list[int], workers: int
    ) -> None:
        """Write the overview, unless it exists or there is a single image."""
        from pipeline.stages.picture import pictures

        path, wanted = drawing.folder / "overview.png", drawing.options.overview
        wanted = min(wanted, len(positions))
        if path.is_file() or len(positions) < 2 or not wanted:
            return
        chosen = {positions[n] for n in spread_evenly(len(positions), wanted)}
        images = (
            pictures.ImageMaps(drawing, places)
            for places in pictures.group_by_image(maps)
            if places[0].position in chosen
        )
        drawn = map_in_threads(pictures.draw_overview_row, images, workers, 2 * workers)
        rows = [row for row in drawn if row is not None]
        if rows:
            sheet = pictures.draw_overview(drawing, rows, wanted, len(positions))
            pictures.write_png(path, sheet)

    def notes(self, run: Run, result: Path) -> Sequence[str]:
        """Return how many images have no picture."""
        unmapped = {
            why
            for name in run.methods
            for why in load_skipped(run.for_method(name).folder("explain")).values()
        }
        reasons = [w for w in read_json(result / "set_aside.json") if w not in unmapped]
        return skipped_note("picture", reasons, len(run.images()), "have no picture")

    def announce(self, result: Path, run_folder: Path) -> Sequence[str]:
        """Name the sheets."""
        folder = run_folder / "explained"
        sheets = [*sorted(folder.glob("overview.png")), *sorted(folder.glob("*/sheet.png"))]
        lines = [f"sheet      {sheet}" for sheet in sheets[:MAX_NAMED_SHEETS]]
        if len(sheets) > MAX_NAMED_SHEETS:
            lines.append(f"           and {len(sheets) - MAX_NAMED_SHEETS} more in {folder}")
        return lines

"""The command `python -m pipeline serve RUN`: a run's report in a browser, which saves marks."""

from __future__ import annotations

import os
import secrets
import sys
import webbrowser
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.engine import terminal
from pipeline.engine.completion import CONFIG_FILE, read_run_config
from pipeline.engine.http_server import RunServer, Served
from pipeline.engine.inventory import RUNS
from pipeline.engine.overrides import quote_for_shell
from pipeline.engine.stage import find_stage, list_stages
from pipeline.errors import UserError
from pipeline.formats.remote_errors import hide_secrets
from pipeline.formats.stored import is_address
from pipeline.results.marked_page import REPORT, write_marks_into_page
from pipeline.results.marks import FILE, MarksFile, describe_counts
from pipeline.results.notes import NOTES_FILE

MAX_PORT = 65535
TOKEN_BYTES = 16
OPENING = "open.html"  # beside the marks, while the command runs

USAGE = f"""python -m pipeline serve RUN [OPTION=VALUE ...]

Opens the report of a run, as outputs/latest, in a browser. Marks of images as right, wrong or to be
corrected are saved at once, in {FILE} of the run's folder, and are there again the next
time; at the end also in the page itself, as it is opened from disk. The command that ingests them
is printed then. Ctrl-C ends it.

  port=8765               the port on 127.0.0.1; without it, any that is free
  --no-browser            open no browser; the address is printed in any case

It listens on 127.0.0.1 alone. The address has a random token; without it nothing is answered. It
serves the report, the files that the run published, and the images that the report shows. From
another machine: ssh -L 8765:127.0.0.1:8765 HOST, with port=8765, and open the address here."""


@dataclass(frozen=True, kw_only=True)
class ServeOptions:
    """The arguments of the command.

    Attributes:
        run: the folder of the run, as it was given.
        port: 0: any that is free.
        opens_browser: whether to open the page.
    """

    run: str
    port: int = 0
    opens_browser: bool = True


def parse_arguments(arguments: Sequence[str]) -> ServeOptions:
    """Return the options that the arguments give.

    Args:
        arguments: those of the command line after `serve`.

    Raises:
        UserError: an argument is none of them, has a wrong value, or no run is given.
    """
    runs, port, opens_browser = [], 0, True
    for argument in arguments:
        key, equals, value = argument.partition("=")
        if argument == "--no-browser":
            opens_browser = False
        elif equals and key.lstrip("-") == "port":
            if not (value.isascii() and value.isdigit() and int(value) <= MAX_PORT):
                raise UserError(f"serve {argument}: expected a port from 1 to {MAX_PORT}")
            port = int(value)
        elif argument.startswith("-") or (equals and not Path(argument).exists()):
            raise UserError(
                f"serve {argument}: no such option; allowed are RUN, port=NUMBER and --no-browser"
            )
        else:
            runs.append(argument)
    if len(runs) != 1:
        raise UserError(
            f"serve: expected the folder of one run, as in serve outputs/latest; got "
            f"{', '.join(runs) or 'none'}"
        )
    return ServeOptions(run=runs[0], port=port, opens_browser=opens_browser)


def serve(arguments: Sequence[str], open_page: Callable[[Path, Mapping[str, Any]], Served]) -> None:
    """Serve the report of a run until Ctrl-C; print where marks are, and what to do with them.

    Args:
        arguments: those of the command line after `serve`.
        open_page: reads the page, and what it says of marks.

    Raises:
        UserError: an argument is wrong, there is no such run, or the port is taken.
    """
    if {"--help", "-h"} & set(arguments):
        terminal.print_line(USAGE)
        return
    options = parse_arguments(arguments)
    folder = find_run(options.run)
    path = _shorten(folder / FILE)
    command = ingest_command(folder)
    served = open_page(folder / REPORT, {"path": str(path), "command": command})
    marks = MarksFile(folder / FILE, served.records)
    unused = marks.count_of_other_boxes()
    _write_into_page(folder)  # what was saved when the command was killed
    token = secrets.token_urlsafe(TOKEN_BYTES)
    with _listen(folder, served, marks, token, options.port) as server:
        for line in _describe(server, path, unused):
            terminal.print_line(line)
        with suppress(KeyboardInterrupt), _opened(server, options.opens_browser):
            server.serve_forever()
        with server.saving:  # what is being saved is finished
            counts = marks.count()
    if not marks.path.exists():
        with suppress(OSError):
            marks.path.parent.rmdir()
    _write_into_page(folder)
    total = sum(counts.values())
    verb = "mark is" if total == 1 else "marks are"
    terminal.print_line(f"{total} {verb} saved in {path}: {describe_counts(counts)}")
    if total:
        terminal.print_line(f"next: {command}")


def _write_into_page(folder: Path) -> None:
    """Write the marks of a run into its page, so that it shows them from disk; say if it cannot."""
    try:
        write_marks_into_page(folder)
    except OSError as error:
        terminal.print_note(
            f"{folder / REPORT}: cannot be written ({error.strerror}), so the page shows no marks "
            "when it is opened from disk; they are safe in their file"
        )


def find_run(given: str) -> Path:
    """Return the folder of a run that has a report.

    An export or an ingest of a run shows the report of that run: its folder is returned, so that
    all marks of its boxes lie in one file.

    Args:
        given: as on the command line.

    Raises:
        UserError: it is no run, or has no report.
    """
    if is_address(given):
        raise UserError(
            f"serve {hide_secrets(given)}: expected a folder on this machine, as marks are saved "
            "in it; copy the run here with the tools of the store, or give its place in the "
            "working folder that the run printed"
        )
    folder = Path(given)
    if not folder.is_dir():
        raise UserError(f"serve {given}: no such folder; give the folder of a run: outputs/latest")
    if not (folder / CONFIG_FILE).is_file():
        raise UserError(
            f"serve {given}: no folder of a run, as {CONFIG_FILE} is missing; give one as "
            "outputs/runs/NAME/TIME, or outputs/latest"
        )
    if not (folder / REPORT).is_file():
        raise UserError(
            f"serve {given}: the run has no report; add report to the stages= of its command"
        )
    config = read_run_config(folder)
    if config.get("run") and not config.get("runs") and (Path(config["run"]) / REPORT).is_file():
        return Path(config["run"]).resolve()
    return folder.resolve()


def ingest_command(folder: Path) -> str:
    """Return the command that ingests the marks of a run.

    Args:
        folder: of the run, resolved.
    """
    values = {"run": _shorten(folder), "corrections": _shorten(folder / FILE)}
    if folder.parents[1].name == RUNS and (outputs := _shorten(folder.parents[2])) != Path(
        "outputs"
    ):
        values["outputs"] = outputs
    arguments = " ".join(_quote(key, str(value)) for key, value in values.items())
    return f"python -m pipeline +experiment=ingest {arguments}"


def list_published(folder: Path) -> list[str]:
    """Return what of a run's folder is served besides the page: files and folders of files.

    Args:
        folder: of the run.
    """
    methods = read_run_config(folder).get("explain", {}).get("methods") or []
    items = [item.path for name in list_stages() for item in find_stage(name).publishes]
    of_methods = [f"{method}/{item}" for method in methods for item in items]
    return [*dict.fromkeys((*items, *of_methods, CONFIG_FILE, NOTES_FILE))]


def _listen(folder: Path, served: Served, marks: MarksFile, token: str, port: int) -> RunServer:
    """Return the server, which listens. Raise UserError where it cannot."""
    try:
        marks.path.parent.mkdir(exist_ok=True)
    except OSError as error:
        raise UserError(
            f"{marks.path.parent}: cannot be written to ({error.strerror}), so no mark could be "
            "saved; open report/index.html instead, which offers marks as a download"
        ) from None
    try:
        return RunServer(folder, served, list_published(folder), marks, token, port)
    except OSError as error:
        raise UserError(
            f"serve port={port}: cannot listen there ({error.strerror}); give another port, or none"
        ) from None


def _describe(server: RunServer, path: Path, unused: int) -> list[str]:
    """Return what the terminal says before the first request."""
    lines = [
        f"serving   {server.url}",
        f"marks     are saved at once in {path}",
    ]
    if unused:
        lines.append(
            f"note: {unused} marks in that file are of images that the page does not show, or of "
            "other boxes; they stay there"
        )
    return [*lines, "Ctrl-C ends it"]


@contextmanager
def _opened(server: RunServer, opens_browser: bool) -> Iterator[None]:
    """Open the page in a browser, by a file that leads to it and that no other user can read.

    The address itself, with its token, would stand in the list of processes.
    """
    path = server.marks.path.with_name(OPENING)
    has_display = bool(os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))
    try:
        if opens_browser and (has_display or sys.platform in ("darwin", "win32")):
            path.unlink(missing_ok=True)
            descriptor = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
            with open(descriptor, "w", encoding="utf-8") as file:
                file.write(f'<meta http-equiv="refresh" content="0; url={server.url}">\n')
            webbrowser.open(path.as_uri())
        yield
    finally:
        path.unlink(missing_ok=True)


def _shorten(path: Path) -> Path:
    """Return a path relative to the current folder, where it is below it."""
    here = Path.cwd()
    return path.relative_to(here) if path.is_relative_to(here) else path


def _quote(key: str, value: str) -> str:
    """Return `key=value` as a shell and Hydra take it."""
    is_plain = all(character.isalnum() or character in "/._-" for character in value)
    return f"{key}={value}" if is_plain else quote_for_shell(key, value)

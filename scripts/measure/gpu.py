"""`./scripts/gpu check|speed|peers FOLDER`: what a GPU gives, in rows that are written at once.

    check    are the results those of the CPU, and does what runs on a CPU hold on a GPU
    speed    relative to the bare network on the same device
    peers    relative to torchcam, pytorch-grad-cam and captum on the same device

FOLDER/PART.jsonl has a row for the machine, and one for each number, skip and failure. The exit
code is 0 if all that was measured reached its aim, 1 if something failed or missed it, or nothing
was measured, and 2 for wrong arguments.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path

PARTS = ("check", "speed", "peers")
LIMIT = 240.0  # seconds of a part
# cuBLAS reads this when it is first used, and is deterministic only with it.
CUBLAS = {"CUBLAS_WORKSPACE_CONFIG": ":4096:8"}


def parse_arguments(arguments: Sequence[str]) -> argparse.Namespace:
    """Return the arguments of the command.

    Args:
        arguments: Without the name of the program.

    Raises:
        SystemExit: One of them is wrong.
    """
    parser = argparse.ArgumentParser(prog="scripts/gpu", description="Measure what a GPU gives.")
    parser.add_argument("part", choices=PARTS)
    parser.add_argument("folder", type=Path, help="where PART.jsonl is written")
    parser.add_argument("--device", default="cuda", help="cuda, cuda:N, or cpu for a rehearsal")
    parser.add_argument(
        "--quick", action="store_true", help="a rehearsal: small counts, no aim is held"
    )
    parser.add_argument("--limit", type=float, default=LIMIT, help="seconds; 240")
    parser.add_argument("--only", default="", help="names of measurements, with commas")
    return parser.parse_args(arguments)


def main(*arguments: str) -> int:
    """Run a part; return the exit code.

    Args:
        arguments: Of the command.
    """
    given = parse_arguments(arguments)
    os.environ.update(CUBLAS)
    try:
        import torch

        from pipeline.engine.runtime import select_device
        from pipeline.errors import UserError
        from scripts.measure.gpu_rows import Rows, Setting, measure_all, print_error
    except ModuleNotFoundError as error:
        print(f"gpu: {error}: {sys.executable} cannot run any part", file=sys.stderr)
        return 2
    try:
        device = select_device(given.device)
    except UserError as error:
        return print_error(f"{error}; --device cpu rehearses the script")
    try:
        measurements = import_module(f"scripts.measure.gpu_{given.part}").MEASUREMENTS
    except ModuleNotFoundError as error:
        return print_error(f"{error}: {sys.executable} can measure nothing of {given.part}")
    chosen = {name for name in given.only.split(",") if name}
    known = {each.__name__.removeprefix("measure_"): each for each in measurements}
    if unknown := chosen - set(known):
        return print_error(f"--only {', '.join(sorted(unknown))}: choices: {', '.join(known)}")
    with tempfile.TemporaryDirectory(prefix="label2box-gpu-") as scratch:
        is_rehearsal = given.quick or device.type == "cpu"
        if device.type == "cpu":  # on busy cores two threads that wait for each other are slower
            torch.set_num_threads(1)
        setting = Setting.of(device, Path(scratch), is_rehearsal)
        rows = Rows(given.folder / f"{given.part}.jsonl", given.part, setting)
        wanted = [each for name, each in known.items() if not chosen or name in chosen]
        measure_all(rows, wanted, given.limit)
    for line in rows.summarize():
        print(line)
    return rows.exit_code


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))

"""Killed at random moments of all stages, a run ends with the same files, and loses seconds."""

from __future__ import annotations

import json
import random
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest

from tests.faults.conftest import Undisturbed
from tests.faults.lost import lost_seconds
from tests.faults.processes import Process, complete, read_files, start

MAX_LOST = 30.0  # seconds of work, by a kill
TITLES = ("start", "train", "train", "pseudo-labels", "pseudo-labels", "first head", "refine",
          "refine", "object views", "explain", "explain", "localize", "rank", "export", "export",
          "annotate", "report", "ingest", "export", "annotate")  # fmt: skip
"""The tasks in which the signals fall, of annotate, ingest and annotate again, in order."""


class Sequence:
    """Commands that follow one another, each given again until it ends."""

    def __init__(self, root: Path, images: Undisturbed) -> None:
        self.root, self.outputs = root, root / "outputs"
        self.corrections = root / "corrections.json"
        shown = f"outputs={self.outputs}"
        self.commands = [
            [*images.command, shown],
            ["+experiment=ingest", f"run={self.outputs / 'latest'}", shown,
             f"corrections={self.corrections}"],
            [*images.command, shown],
        ]  # fmt: skip
        self.done = 0

    def start(self, events: str, **plan: Any) -> Process:
        if self.done == 1:
            self._correct()
        return start(self.root / events, self.commands[self.done], plan)

    def finish(self) -> dict[str, bytes]:
        """Go on to the end; what lies there then."""
        while self.done < len(self.commands):
            process = self.start("rest")
            assert process.wait() == 0, process.printed
            self.done += 1
        return read_files(self.outputs)

    def _correct(self) -> None:
        """As a person who accepts the first boxes and marks these images."""
        content = json.loads((self.outputs / "latest/predictions.json").read_text())
        for image in content["images"][:12]:
            image["reviewed"] = True
        self.corrections.write_text(json.dumps(content))


def test_killed_at_twenty_moments_it_ends_with_the_same_files(
    undisturbed: Undisturbed, tmp_path: Path
) -> None:
    sequence = Sequence(tmp_path, undisturbed)
    expected = sequence.finish()
    assert json.loads(expected["human_boxes.json"])["annotations"]
    shutil.rmtree(sequence.outputs)

    sequence, moments = Sequence(tmp_path, undisturbed), random.Random(0)
    attempts: list[list[Process]] = [[]]  # all processes, by the sequence that they are of
    for n in range(len(TITLES)):
        plan = {"delay": 0.0, "signal": signal.SIGKILL, "titles": TITLES[n:]}
        code = 0
        while code == 0:
            if sequence.done == len(sequence.commands):  # all is done: begin anew
                shutil.rmtree(sequence.outputs)
                sequence.done = 0
                attempts.append([])
            plan["delay"] = moments.uniform(0, 1.5)
            process = sequence.start(f"{len(attempts)}-{len(attempts[-1])}", **plan)
            attempts[-1].append(process)
            code = process.wait()
            sequence.done += code == 0
        assert code == -signal.SIGKILL, process.printed
    while sequence.done < len(sequence.commands):
        attempts[-1].append(sequence.start(f"{len(attempts)}-{len(attempts[-1])}"))
        assert attempts[-1][-1].wait() == 0, attempts[-1][-1].printed
        sequence.done += 1
    assert read_files(sequence.outputs) == expected
    losses = [
        lost_seconds(process.events, [later.events for later in processes[n + 1 :]])
        for processes in attempts
        for n, process in enumerate(processes)
        if process.popen.returncode != 0
    ]
    print(f"\n{len(losses)} kills lost, in seconds of work:", " ".join(f"{x:.1f}" for x in losses))
    assert len(losses) == len(TITLES) >= 15
    assert max(losses) <= MAX_LOST


@pytest.mark.parametrize(
    ("title", "pause", "stages"),
    [
        ("explain", 0.9, ("explain", "localize", "rank", "export", "annotate", "report")),
        ("pseudo-labels", 1.2, ("pseudo_labels", "refine")),
        ("refine", 0.6, ("refine",)),
    ],
)
def test_slow_work_is_lost_for_some_seconds_alone(
    title: str, pause: float, stages: tuple[str, ...], undisturbed: Undisturbed, tmp_path: Path
) -> None:
    """In the middle of a single shard, and of a training, after 35 seconds of each."""
    outputs = tmp_path / "outputs"
    shutil.copytree(undisturbed.outputs, outputs, symlinks=True)
    for stage in ("runs", *stages):
        shutil.rmtree(outputs / stage)
    command = [*undisturbed.command, "runtime.shard=256", f"outputs={outputs}"]
    plan = {"titles": [title], "delay": 35.0, "signal": signal.SIGKILL, "slow": {title: pause}}
    victim = start(tmp_path / "killed", command, plan)
    assert victim.wait() == -signal.SIGKILL, victim.printed
    again = complete(tmp_path / "again", command)
    lost = lost_seconds(victim.events, [again.events])
    print(f"\n{title}: 35 s of work, {lost:.1f} s lost")
    assert lost <= MAX_LOST
    name = "predictions.json"
    assert read_files(outputs)[name] == read_files(undisturbed.outputs)[name]

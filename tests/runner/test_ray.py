"""Runs on Ray: the same bytes as without it, whatever happens to workers and nodes."""

from __future__ import annotations

import json
import os
import random
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from pipeline.errors import UserError
from pipeline.types.jobs import Job, JobResult, Work
from tests.conftest import ROOT, Cli
from tests.runner.ray_tasks import DiesAtStart, Task, load

os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"  # all of Ray listens on 127.0.0.1 alone
# Ray's workers would stand back for all others on this machine.
os.environ["RAY_worker_niceness"] = "0"  # noqa: SIM112 - Ray's own spelling
ray = pytest.importorskip("ray", reason="Ray is not installed: pip install 'label2box[ray]'")
pytest.importorskip("cloudpickle", reason="cloudpickle is not installed")

SLOW = "saliency._target_=tests.runner.slow_method.SlowCam"
RUN = ("+experiment=cam", "data.images=64", "data.val_images=96", "train.epochs=1",
       "train.batch=16", "runtime.shard=8", "runtime.batch=4", "report.images=2",
       "stages=[train,explain,localize,evaluate]")  # fmt: skip
RESULTS = ("boxes.json", "predictions.json", "metrics.json")
LONG = pytest.mark.skipif(
    "LABEL2BOX_KILLS" not in os.environ, reason="takes half a minute: ./scripts/test faults"
)
KILLS = int(os.environ.get("LABEL2BOX_KILLS", "5"))  # thirty in ./scripts/test faults
SMALL = {"object_store_memory": 80_000_000, "node_ip_address": "127.0.0.1"}


def results(outputs: Path) -> dict[str, bytes]:
    return {name: (outputs / "latest" / name).read_bytes() for name in RESULTS}


def begin(outputs: Path, trained: Path) -> Path:
    """A folder of outputs in which the network is trained already."""
    shutil.copytree(trained / "train", outputs / "train")
    return outputs


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """Two nodes on this machine, each with two cores in name."""
    from ray.cluster_utils import Cluster

    handler = signal.getsignal(signal.SIGTERM)  # which Ray replaces
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(ROOT))  # workers import tests.runner
        # Ray leaves a disk alone that is 95 % full; what these tests spill is small.
        patch.setenv("RAY_local_fs_capacity_threshold", "1.0")
        cluster = Cluster()
        try:
            add_node(cluster, include_dashboard=False)
            add_node(cluster)
            yield cluster
        finally:
            close_runners()
            ray.shutdown()
            cluster.shutdown()
            signal.signal(signal.SIGTERM, handler)


def add_node(cluster: Any, **options: Any) -> Any:
    """A node more; on a machine that is busy with other work Ray may give up waiting for it."""
    try:
        return cluster.add_node(num_cpus=2, **SMALL, **options)
    except Exception as error:
        if "timed out during startup" not in str(error) or cluster.head_node is None:
            raise
        return cluster.add_node(num_cpus=2, **SMALL, **options)


def close_runners() -> None:
    from pipeline.engine import spreading

    for runner in spreading._runners.values():
        runner.close()
    spreading._runners.clear()


@pytest.fixture(scope="module")
def local(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same run without Ray."""
    from pipeline.__main__ import main

    outputs = tmp_path_factory.mktemp("local")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["pipeline", *RUN, SLOW, f"outputs={outputs}"])
        main()
    return outputs


def on(cluster: Any, *more: str) -> Sequence[str]:
    """What lets a run compute there; without more the workers of the last run are still there."""
    return ("runner=ray", f"runner.address={cluster.address}", *(more or ("runner.workers=2",)))


def descendants(of: int) -> list[int]:
    """The processes that a process started, and those that these started."""
    children: dict[int, list[int]] = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            parent = int(path.read_text().rpartition(")")[2].split()[1])
        except (OSError, ValueError):
            continue
        children.setdefault(parent, []).append(int(path.parent.name))
    found = [of]
    for process in found:
        found += children.get(process, [])
    return found[1:]


def workers(title: bytes = b"ray::Actor") -> list[int]:
    """The processes of this test's own workers, as Ray names them by what they do."""
    found = []
    for process in descendants(os.getpid()):
        try:
            if Path(f"/proc/{process}/cmdline").read_bytes().startswith(title):
                found.append(process)
        except OSError:
            continue
    return found


# -- tasks without images ------------------------------------------------------------------------


class Watch:
    """Keeps what it hears."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.nodes: list[int] = []

    def say(self, line: str) -> None:
        self.lines.append(line)

    def note_nodes(self, nodes: int) -> None:
        self.nodes.append(nodes)


@pytest.fixture(scope="module")
def bare(cluster: Any) -> Iterator[Any]:
    """A runner with two workers."""
    from pipeline.runner.ray import Ray

    runner = Ray(address=cluster.address, workers=2)
    yield runner
    runner.close()


def compute(runner: Any, task: Task, count: int = 8) -> tuple[dict[Job, JobResult], Watch]:
    """What comes of shards of 16 positions, each once."""
    jobs, watch = [Job(n, 16 * n, 16 * n + 16, 8) for n in range(count)], Watch()
    done = [*runner.map(Work(load=load, task=task, jobs=jobs), watch)]
    positions = Counter(p for job, _ in done for p in range(job.start, job.stop))
    assert positions == Counter(range(16 * count))
    return dict(done), watch


def test_jobs_are_computed_and_nodes_are_told(bare: Any) -> None:
    done, watch = compute(bare, Task())
    assert {result.content for result in done.values()} == {
        f"{16 * n}-{16 * n + 16}".encode() for n in range(8)
    }
    assert watch.nodes[-1] >= 1
    assert re.fullmatch(r"ray: [12] workers? on [12] nodes?", watch.lines[-1])


def test_a_worker_that_is_killed_costs_its_shard(bare: Any, tmp_path: Path) -> None:
    task = Task(kills=frozenset({37}), kills_once=str(tmp_path / "killed"))
    done, watch = compute(bare, task)
    assert len(done) == 8
    failures = [line for line in watch.lines if "died" in line]
    assert failures == [
        "ray: shard 2, positions 32 to 47: its worker has died; tried again (2 of 3)"
    ]


def test_a_position_that_raises_is_set_aside(bare: Any) -> None:
    done, _ = compute(bare, Task(raises=frozenset({37})))
    aside = [(job.start, result.set_aside) for job, result in done.items() if result.set_aside]
    assert aside == [(37, "computing it failed 3 times: ValueError: position 37")]


def test_a_fault_of_all_positions_ends_the_run(bare: Any) -> None:
    with pytest.raises(ValueError, match="position"):
        compute(bare, Task(raises=frozenset(range(128))))


def test_workers_that_always_die_end_the_run(bare: Any) -> None:
    with pytest.raises(UserError, match=r"workers compute no image \(its worker has died\)"):
        [*bare.map(Work(load=load, task=Task(kills=frozenset({0, 1})), jobs=[Job(0, 0, 2, 2)]),
                   Watch())]  # fmt: skip


def test_too_little_memory_takes_smaller_batches(bare: Any) -> None:
    done, watch = compute(bare, Task(most=2), count=1)
    assert [result.set_aside for result in done.values()] == [None]
    told = [line for line in watch.lines if "shard" in line]  # and when which worker has started
    assert told == [
        "ray: shard 0, positions 0 to 15: MemoryError: too many at once; tried again, "
        "4 images at a time (2 of 3)",
        "ray: shard 0, positions 0 to 15: MemoryError: too many at once; tried again, "
        "2 images at a time (3 of 3)",
    ]


def test_what_a_worker_refuses_is_said_as_here(bare: Any) -> None:
    with pytest.raises(UserError, match="option=7: expected 8"):
        compute(bare, Task(refuses=frozenset({3})))


def test_a_slow_worker_does_not_hold_the_end(bare: Any, tmp_path: Path) -> None:
    """It waits for a minute; its shard is computed elsewhere, and counts once."""
    started = time.monotonic()
    compute(bare, Task(waits=frozenset({3}), waited=str(tmp_path / "waited")))
    assert time.monotonic() - started < 40
    bare.close()  # its worker still waits


def test_more_than_the_object_store_holds(bare: Any) -> None:
    """The task and all results are larger than both stores: Ray takes the disk, nothing hangs."""
    task = Task(ballast=bytes(120_000_000), size=60_000_000)
    done, _ = compute(bare, task, count=4)
    assert {result.gathered[0] for result in done.values()} == {120_000_000}
    assert all(len(result.content or b"") == 60_000_000 for result in done.values())


@pytest.mark.parametrize(
    ("task", "need"), [(bytes(8_000_000), "has 8 MB, and"), (Task(), "finds no room:")]
)
@pytest.mark.parametrize("error", ["ObjectStoreFullError", "OutOfDiskError"])
def test_a_store_without_room_is_named(
    bare: Any, monkeypatch: pytest.MonkeyPatch, task: Any, need: str, error: str
) -> None:
    def full(_: Any) -> None:
        raise getattr(ray.exceptions, error)("full")

    bare._connect()
    monkeypatch.setattr(ray, "put", full)
    with pytest.raises(UserError, match=f"{need}.* object store of 160 MB on all nodes is full"):
        [*bare.map(Work(load=load, task=task, jobs=[Job(0, 0, 1, 1)]), Watch())]


@LONG
def test_workers_that_cannot_start_are_named(cluster: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """After some, and not once for all: a start that succeeds begins the count again."""
    from pipeline.runner.ray import MOST_STARTS, Ray

    runner = Ray(address=cluster.address, workers=1)
    compute(runner, Task())
    runner._failed_starts = MOST_STARTS - 1  # as of workers that were ended while they started
    for worker in workers():
        os.kill(worker, signal.SIGKILL)
    compute(runner, Task())
    assert runner._failed_starts == 0
    runner.close()
    monkeypatch.setattr("pipeline.runner.ray.Actor", DiesAtStart)
    with pytest.raises(UserError, match=f"{MOST_STARTS} workers have ended before they had"):
        compute(runner, Task())
    runner.close()


def test_other_code_on_a_worker_is_refused(bare: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    bare.close()
    monkeypatch.setattr("pipeline.runner.ray.hash_code", lambda: "label2box other")
    with pytest.raises(UserError, match="results would depend on who computes them"):
        compute(bare, Task())
    bare.close()


@LONG
def test_a_node_that_leaves_and_one_that_joins(cluster: Any) -> None:
    """Shards of the first are computed elsewhere; the second gets some within seconds."""
    from pipeline.runner.ray import Ray

    runner, watch = Ray(address=cluster.address), Watch()
    jobs = [Job(n, n, n + 1, 1) for n in range(400)]
    parents, joined, at_work = set[int](), 0.0, 0.0
    done = list[Job]()
    try:
        for job, result in runner.map(Work(load=load, task=Task(seconds=0.3), jobs=jobs), watch):
            done.append(job)
            parent = result.gathered[1]
            if joined and not at_work and parent not in parents:
                at_work = time.monotonic() - joined
                break
            parents.add(parent)
            if len(parents) == 2 and not joined:
                cluster.remove_node(next(iter(cluster.worker_nodes)), allow_graceful=False)
                add_node(cluster)
                joined = time.monotonic()
    finally:
        runner.close()
    assert any("died; tried again (2 of 3)" in line for line in watch.lines)
    assert len(set(done)) == len(done)
    assert 0 < at_work < 20, "seconds, on a machine that is busy with other work, too"


# -- whole runs ----------------------------------------------------------------------------------


def kill_workers(count: int, seed: int, stopped: threading.Event) -> list[int]:
    """Kill workers within shards at random moments, one after the other; gives who was killed.

    Not while they start, nor before any can compute a shard: several that end so in succession
    rightly end the run.
    """
    chance = random.Random(seed)
    killed: list[int] = []
    while len(killed) < count and not stopped.wait(chance.uniform(0.5, 3.5)):
        alive = [pid for pid in workers(b"ray::Actor.compute") if pid not in killed]
        if alive:
            killed.append(chance.choice(alive))
            try:
                os.kill(killed[-1], signal.SIGKILL)
            except ProcessLookupError:
                killed.pop()
    return killed


@pytest.mark.parametrize("count", [1, pytest.param(4, marks=LONG)])
def test_the_same_bytes_with_any_number_of_workers(
    count: int, cluster: Any, local: Path, tmp_path: Path, cli: Cli,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    outputs = begin(tmp_path / "ray", local)
    write = "workers" if count == 4 else "driver"
    chosen = on(cluster, f"runner.workers={count}", f"runner.write={write}")
    assert cli(*RUN, SLOW, f"outputs={outputs}", *chosen) == 0
    assert results(outputs) == results(local)
    assert "ray: 1 worker" in capsys.readouterr().out or count > 1


@LONG
@pytest.mark.parametrize(("count", "write"), [(2, "workers"), (1, "driver")])
def test_exports_are_the_same_bytes(
    count: int, write: str, cluster: Any, local: Path, tmp_path: Path, cli: Cli,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    """Images, files of images and encoded masks; a format each that writes them or does not."""
    formats = "[label_studio,yolo,voc,coco]" if write == "workers" else "[label_studio,yolo]"
    export = (*RUN, SLOW, "stages=[train,explain,localize,export]", "segmenter.masks=true",
              f"export.formats={formats}", "export.outlines=polygon")  # fmt: skip
    here = begin(tmp_path / "here", local)
    shutil.copytree(local / "explain", here / "explain")
    assert cli(*export, f"outputs={here}") == 0
    there = shutil.copytree(here, tmp_path / "there", symlinks=True)
    for folder in ("export", "runs"):
        shutil.rmtree(there / folder)
    capsys.readouterr()
    chosen = on(cluster, f"runner.workers={count}", f"runner.write={write}")
    assert cli(*export, f"outputs={there}", *chosen) == 0
    assert "ray: 1 worker" in capsys.readouterr().out, "of localize nothing was left to spread"
    ours, theirs = (exported(outputs) for outputs in (there, here))
    assert len(theirs) > 100
    assert ours == theirs


def exported(outputs: Path) -> dict[str, bytes]:
    """The files of all formats."""
    folder = outputs / "latest/exported"
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


def test_workers_killed_at_random_moments(
    cluster: Any, local: Path, tmp_path: Path, cli: Cli, capsys: pytest.CaptureFixture[str]
) -> None:
    """With SIGKILL, within shards, until the run has ended.

    A shard that was killed three times is computed in halves, so in smaller batches: then boxes are
    the same bytes, and numbers differ by rounding.
    """
    stopped, killed = threading.Event(), list[int]()
    killer = threading.Thread(target=lambda: killed.extend(kill_workers(KILLS, 0, stopped)))
    killer.start()
    said = list[str]()  # by each run
    try:
        while killer.is_alive():
            outputs = begin(tmp_path / f"ray{len(said)}", local)
            assert cli(*RUN, SLOW, "saliency.seconds=0.05", f"outputs={outputs}", *on(cluster)) == 0
            said.append(capsys.readouterr().out)
            if len(said) > 4 + KILLS:
                stopped.set()
    finally:
        stopped.set()
        killer.join()
    assert len(killed) == KILLS
    undisturbed = begin(tmp_path / "undisturbed", local)
    assert cli(*RUN, SLOW, "saliency.seconds=0.05", f"outputs={undisturbed}") == 0
    expected = results(undisturbed)
    for n, lines in enumerate(said):
        found = results(tmp_path / f"ray{n}")
        assert "set aside" not in lines
        if "now in halves" in lines:
            assert_close(
                json.loads(found.pop("metrics.json")), json.loads(expected["metrics.json"])
            )
            assert found.items() <= expected.items(), lines
        else:
            assert found == expected, lines


def assert_close(found: Any, expected: Any) -> None:
    """Compare values of JSON, numbers but for rounding."""
    if isinstance(expected, dict):
        assert found.keys() == expected.keys()
        found, expected = list(found.values()), list(expected.values())
    if isinstance(expected, list):
        assert len(found) == len(expected)
        for one, other in zip(found, expected, strict=True):
            assert_close(one, other)
    else:
        assert found == (pytest.approx(expected) if isinstance(expected, float) else expected)


@LONG
def test_an_image_that_kills_its_worker_is_set_aside(
    cluster: Any, folder_of_images: Path, tmp_path: Path, cli: Cli,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    """Its shard goes on without it, and the run says so."""
    plain = folder_of_images / "val/red/2.png"
    Image.fromarray(np.full((48, 64, 3), 77, np.uint8)).save(plain)
    arguments = ["+experiment=cam", "data=folder", f"data.root={folder_of_images}",
                 "train.epochs=1", "train.batch=8", "stages=[train,explain,localize]",
                 "runtime.batch=2", "data.size=64"]  # fmt: skip
    assert cli(*arguments, SLOW, "saliency.at_plain=kill", "outputs=ray", *on(cluster)) == 0
    out = capsys.readouterr().out
    assert "computing it failed 3 times: its worker has died" in out
    assert "this process trains" in out
    predictions = json.loads((tmp_path / "ray/latest/predictions.json").read_text())
    with_boxes = {each["image_id"] for each in predictions["annotations"]}
    names = {each["file_name"] for each in predictions["images"] if each["id"] in with_boxes}
    assert len(names) == 7
    assert not any(name.endswith("red/2.png") for name in names)


@LONG
def test_a_driver_that_is_killed_goes_on(local: Path, tmp_path: Path, cluster: Any) -> None:
    close_runners()  # whose workers have the cores
    outputs = begin(tmp_path / "ray", local)
    command = [sys.executable, "-m", "pipeline", *RUN, SLOW, "saliency.seconds=0.2",
               f"outputs={outputs}", *on(cluster)]  # fmt: skip
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    driver = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL)
    until = time.monotonic() + 90
    while not list(outputs.glob("explain/*/shard-000002.*")) and time.monotonic() < until:
        time.sleep(0.02)
    driver.kill()
    driver.wait()
    left = list(outputs.glob("explain/*/shard-*"))
    assert left
    assert not list(outputs.glob("explain/*/DONE"))
    written = {path: path.stat().st_mtime_ns for path in left}
    subprocess.run(command, env=environment, check=True, stdout=subprocess.DEVNULL)
    assert {path: path.stat().st_mtime_ns for path in left} == written, "they are kept"
    assert results(outputs)["boxes.json"] == results(local)["boxes.json"]


@LONG
def test_ctrl_c_ends_ray_too(local: Path, tmp_path: Path) -> None:
    """A Ray of the run's own: exit code 130, one line, and no process is left."""
    outputs = begin(tmp_path / "ray", local)
    command = [sys.executable, "-m", "pipeline", *RUN, SLOW, "saliency.seconds=1",
               f"outputs={outputs}", "runner=ray", "runner.workers=1"]  # fmt: skip
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    pipes: dict[str, Any] = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE}
    driver = subprocess.Popen(command, env=environment, start_new_session=True, text=True, **pipes)
    until = time.monotonic() + 120
    while not list(outputs.glob("explain/*/shard-000000.*")) and time.monotonic() < until:
        assert driver.poll() is None
        time.sleep(0.05)
    started = descendants(driver.pid)
    os.killpg(driver.pid, signal.SIGINT)  # as the terminal does, to all of its processes
    _, err = driver.communicate(timeout=30)
    assert driver.returncode == 130
    lines = [line for line in err.splitlines() if line]
    assert len(lines) <= 2, lines  # that it stops; that it has stopped
    assert all(line.startswith("label2box: stop") for line in lines)
    until = time.monotonic() + 20
    while alive := [pid for pid in started if Path(f"/proc/{pid}").exists()]:
        assert time.monotonic() < until, [Path(f"/proc/{pid}/cmdline").read_text() for pid in alive]
        time.sleep(0.1)


def test_without_a_cluster_at_the_address(cli: Cli, capsys: pytest.CaptureFixture[str]) -> None:
    close_runners()
    ray.shutdown()
    assert cli(*RUN, "runner=ray", "runner.address=127.0.0.1:1", "stages=[train]") == 0, "unused"
    assert cli(*RUN, "runner=ray", "runner.address=127.0.0.1:1") == 2
    assert "no Ray cluster answers there" in capsys.readouterr().err


@pytest.mark.parametrize("mode", ["token", "disabled"])
def test_a_token_that_the_cluster_does_not_have_is_named(
    mode: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ray itself says that no worker ran, and not why."""
    from pipeline.runner.ray import MOST_STARTS, Ray

    monkeypatch.setenv("RAY_AUTH_MODE", mode)
    runner = Ray()
    runner._failed_starts = MOST_STARTS - 1
    with pytest.raises(UserError, match="have ended before they had started: cancelled") as error:
        runner._count_failed_start("the actor died\ncancelled")
    assert ("RAY_AUTH_MODE=disabled" in str(error.value)) == (mode == "token")


def wait_for(port: int) -> None:
    """Until something listens there."""
    for _ in range(300):
        try:
            return socket.create_connection(("127.0.0.1", port), 1).close()
        except OSError:
            time.sleep(0.1)
    raise TimeoutError("Ray has not started in 30 s")


@LONG
def test_a_cluster_with_a_token_asks_for_it(
    tmp_path: Path, cli: Cli, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    close_runners()
    ray.shutdown()
    folder = tempfile.mkdtemp(prefix="ray")  # sockets below it need a short path
    token = Path(folder) / "token"
    token.write_text("0123456789abcdef" * 4)
    with_token = {**os.environ, "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(token)}
    program = str(Path(sys.executable).with_name("ray"))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    head = subprocess.Popen(
        [program, "start", "--head", "--block", f"--port={port}", f"--temp-dir={folder}",
         "--num-cpus=1", "--node-ip-address=127.0.0.1", "--include-dashboard=false",
         "--object-store-memory=80000000"],
        env=with_token, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        monkeypatch.setattr("pipeline.runner.ray._check_address", lambda *_: wait_for(port))
        monkeypatch.delenv("RAY_AUTH_MODE", raising=False)
        assert cli(*RUN, "runner=ray", f"runner.address=127.0.0.1:{port}") == 2
        assert "RAY_AUTH_MODE=token, and the same file" in capsys.readouterr().err
    finally:
        head.terminate()
        head.wait(30)
        shutil.rmtree(folder, ignore_errors=True)


def test_ray_is_not_imported_without_it(tmp_path: Path) -> None:
    """It takes seconds, and is no requirement."""
    code = (
        "import sys; from pipeline.__main__ import main; sys.argv = ['pipeline', *sys.argv[1:]]; "
        "main(); print('imported:', 'ray' in sys.modules, 'cloudpickle' in sys.modules)"
    )
    command = [sys.executable, "-c", code, "+experiment=cam", "data.images=8", "data.val_images=4",
               "train.epochs=1", "stages=[train,explain]", f"outputs={tmp_path}"]  # fmt: skip
    done = subprocess.run(command, env={**os.environ, "PYTHONPATH": str(ROOT)},
                          capture_output=True, text=True, check=True)  # fmt: skip
    assert done.stdout.splitlines()[-1] == "imported: False False"

"""outputs= and checkpoint= at s3://, against moto's server: the same bytes, here and elsewhere."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import fsspec
import pytest

from pipeline.engine import store
from pipeline.formats.remote import RemoteFolder
from tests.conftest import ROOT, TINY, Cli
from tests.s3_server import KEY, SECRET, Server, serve, set_environment

pytest.importorskip("moto", reason="moto comes with the extra test")
s3fs = pytest.importorskip("s3fs", reason="s3fs comes with the extra test")

JOB = ("+experiment=cam", "model=small", "runtime.workers=1", *TINY)
STAGES = "stages=[train,explain,localize,evaluate,report]"
COMPARED = ("boxes.json", "predictions.json", "metrics.json")
BUCKET = "s3://results/some/outputs"
LONG = pytest.mark.skipif(
    "LABEL2BOX_KILLS" not in os.environ, reason="takes half a minute: ./scripts/test faults"
)


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    yield from serve()


@pytest.fixture(autouse=True)
def environment(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    set_environment(server.endpoint, tmp_path, monkeypatch)
    s3fs.S3FileSystem.clear_instance_cache()
    system = fsspec.filesystem("s3")
    if system.exists("results"):
        system.rm("results", recursive=True)
    system.mkdir("results")
    yield
    store.remotes.clear()
    s3fs.S3FileSystem.clear_instance_cache()


def read_latest() -> tuple[RemoteFolder, dict[str, bytes]]:
    """The published run that `latest` names, and its files that are compared."""
    name = (RemoteFolder(BUCKET).read("latest") or b"").decode().strip()
    run = RemoteFolder(f"{BUCKET}/{name}")
    return run, {file: run.read(file) or b"" for file in COMPARED}


def test_the_same_bytes_as_on_this_disk(
    cli: Cli, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    assert cli(*JOB, STAGES) == 0
    here = {name: Path("outputs/latest", name).read_bytes() for name in COMPARED}
    given = f"checkpoint={Path('outputs/latest').resolve()}"
    assert cli(*JOB, "stages=[explain,localize]", given, "outputs=predicted") == 0
    assert cli(*JOB, STAGES, f"outputs={BUCKET}") == 0
    run, there = read_latest()
    assert there == here
    assert len(there["boxes.json"]) > 100
    names = set(run.list())
    assert {"config.yaml", "report/index.html", "stages/train.link"} <= names
    assert (run.read("config.yaml") or b"").count(f"outputs: {BUCKET}\n".encode()) == 1
    # On another machine: nothing is computed, and the network is a checkpoint.
    store.remotes.clear()
    shutil.rmtree(tmp_path / "cache")
    capfd.readouterr()
    assert cli(*JOB, STAGES, f"outputs={BUCKET}") == 0
    said = "".join(capfd.readouterr())
    assert said.count(" kept ") == 5
    assert " made " not in said
    assert read_latest()[1] == here
    far = f"checkpoint={BUCKET}/latest"
    assert cli(*JOB, "stages=[explain,localize]", far, "outputs=far") == 0
    for name in ("boxes.json", "predictions.json"):
        assert Path("far/latest", name).read_bytes() == Path("predicted/latest", name).read_bytes()
    config = Path("far/latest/config.yaml").read_text(encoding="utf-8")
    assert f"checkpoint: {read_latest()[0].address}\n" in config
    said += "".join(capfd.readouterr())
    written = [path for path in tmp_path.rglob("*") if path.is_file()]
    contents = [said.encode(), *(path.read_bytes() for path in written)]
    system = fsspec.filesystem("s3")
    contents += [system.cat_file(path) for path in system.find("results")]
    assert len(contents) > 100
    for secret in (KEY, SECRET):
        assert not [content for content in contents if secret.encode() in content]


KILLED = """
import os, signal, sys, time
from pipeline.engine import remote_outputs, remote_results, shard_parts
remote_outputs.UPLOAD = 0.1
finish, upload = shard_parts.UnfinishedShard.finish, remote_results.RemoteResult.upload_changes

def finish_slowly(self):
    finish(self)
    time.sleep(0.4)

def upload_and_die(self, is_final=False):
    upload(self, is_final)
    if sum("shard-" in name and "/explain/" in f"/{self._name}" for name in self._remote) >= 1:
        os.kill(os.getpid(), signal.SIGKILL)

shard_parts.UnfinishedShard.finish = finish_slowly
remote_results.RemoteResult.upload_changes = upload_and_die
sys.argv[0] = "pipeline"
from pipeline.__main__ import run_and_exit
run_and_exit()
"""


def test_a_killed_run_goes_on_from_another_working_folder(
    cli: Cli, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    job = (*JOB, "stages=[train,explain,localize]")
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    ended = subprocess.run(
        [sys.executable, "-c", KILLED, *job, f"outputs={BUCKET}", "store.working_folder=one"],
        env=environment, cwd=tmp_path, timeout=300, check=False, capture_output=True, text=True,
    )  # fmt: skip
    assert ended.returncode == -signal.SIGKILL, ended.stderr
    explained = RemoteFolder(f"{BUCKET}/explain")
    before = explained.list()
    shards = {name for name in before if "/shard-" in name}
    assert 1 <= len(shards) < 3
    assert not [name for name in before if name.endswith("DONE")]
    assert cli(*job, f"outputs={BUCKET}", "store.working_folder=two") == 0
    said = "".join(capfd.readouterr())
    assert "train      kept" in said
    assert "explain    made" in said
    after = explained.list()
    assert [after[name] for name in shards] == [before[name] for name in shards], "not made again"
    assert len([name for name in after if "/shard-" in name]) == 3
    assert cli(*job) == 0
    for name in ("boxes.json", "predictions.json"):
        assert read_latest()[1][name] == Path("outputs/latest", name).read_bytes()


AT_ONCE = """
import sys, time
from pathlib import Path
from pipeline.__main__ import run_and_exit
import pipeline.engine.run
name, sys.argv = sys.argv[1], ["pipeline", *sys.argv[2:]]
Path(f"{name}.ready").touch()
while not Path("go").exists():
    time.sleep(0.005)
run_and_exit()
"""


def start(name: str, tmp_path: Path, *job: str) -> subprocess.Popen[str]:
    """A process of the command line with a working folder of its own, which waits for all."""
    command = [sys.executable, "-c", AT_ONCE, name, *job, f"store.working_folder={name}"]
    return subprocess.Popen(
        command, env={**os.environ, "PYTHONPATH": str(ROOT)}, cwd=tmp_path, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip


@LONG
def test_two_processes_at_once_do_the_work_once(cli: Cli, tmp_path: Path) -> None:
    """One computes a result, and the other waits and fetches it: equal bytes, no lock is left."""
    job = (*JOB, STAGES)
    names = ("one", "two")
    processes = [start(name, tmp_path, *job, f"outputs={BUCKET}") for name in names]
    until = time.monotonic() + 300
    while not all((tmp_path / f"{name}.ready").exists() for name in names):
        assert all(process.poll() is None for process in processes)
        assert time.monotonic() < until
        time.sleep(0.01)
    (tmp_path / "go").touch()
    said = [process.communicate(timeout=600)[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], said
    made = [re.findall(r"^(\w+) +made ", text, re.MULTILINE) for text in said]
    kept = [re.findall(r"^(\w+) +kept ", text, re.MULTILINE) for text in said]
    stages = ["train", "explain", "localize", "evaluate", "report"]
    assert sorted(made[0] + made[1]) == sorted(stages), said
    assert [sorted(made[n] + kept[n]) for n in (0, 1)] == [sorted(stages)] * 2, said
    published = set(RemoteFolder(BUCKET).list())
    for stage in stages:
        assert len([n for n in published if re.fullmatch(rf"{stage}/\w+/DONE", n)]) == 1
    assert not [name for name in published if "lock" in name or name.endswith(".working")]
    runs = {name.rpartition("/")[0] for name in published if name.endswith("/config.yaml")}
    assert len(runs) == 2
    assert cli(*job) == 0
    here = {name: Path("outputs/latest", name).read_bytes() for name in COMPARED}
    for run in runs:
        folder = RemoteFolder(f"{BUCKET}/{run}")
        assert {name: folder.read(name) for name in COMPARED} == here
    assert read_latest()[1] == here
    for name in names:
        assert not [p for p in (tmp_path / name).rglob("*.tmp") if p.is_file()]

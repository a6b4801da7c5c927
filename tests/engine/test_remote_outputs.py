"""Results in an object store: memory:// for what is fast, moto's S3 server for locks and faults."""

from __future__ import annotations

import os
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import fsspec
import pytest
from filelock import FileLock

from pipeline.engine import remote_locks, remote_outputs, store
from pipeline.engine.remote_checkpoint import fetch_checkpoint
from pipeline.engine.remote_limit import limit_copies
from pipeline.engine.remote_locks import RemoteLock, can_create
from pipeline.engine.remote_outputs import RemoteOutputs, attach
from pipeline.engine.remote_results import PUBLISHED
from pipeline.engine.store import Store
from pipeline.errors import UserError
from pipeline.formats import retries
from pipeline.formats.remote import RemoteFolder
from tests.conftest import TINY, Cli
from tests.s3_server import Server, answer_alone, serve, set_environment

pytest.importorskip("moto", reason="moto comes with the extra test")
s3fs = pytest.importorskip("s3fs", reason="s3fs comes with the extra test")

KEY = {"a": 1}


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    yield from serve()


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """Short waits, and no remote outputs of another test."""
    monkeypatch.setenv("XDG_CACHE_HOME", f"{tmp_path}/cache")
    monkeypatch.setattr(retries, "FIRST_WAIT", 0.01)
    monkeypatch.setattr(remote_outputs, "POLL", 0.05)
    monkeypatch.setattr(remote_outputs, "UPLOAD", 0.05)
    monkeypatch.setattr(remote_outputs, "BEAT", 0.05)
    yield
    store.remotes.clear()


@pytest.fixture
def memory(monkeypatch: pytest.MonkeyPatch) -> str:
    """An address in memory that answers one request at a time.

    fsspec's store in memory is none for threads: of two that create a file both may do so, and all
    that read one share its position.
    """
    system, lock = type(fsspec.filesystem("memory")), threading.Lock()
    for name in ("pipe_file", "get_file"):
        monkeypatch.setattr(system, name, answer_alone(getattr(system, name), lock))
    return f"memory://outputs-{uuid.uuid4().hex}"


@pytest.fixture
def bucket(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    set_environment(server.endpoint, tmp_path, monkeypatch)
    s3fs.S3FileSystem.clear_instance_cache()
    name = f"b-{uuid.uuid4().hex}"
    fsspec.filesystem("s3").mkdir(name)
    yield f"s3://{name}/some/outputs"
    s3fs.S3FileSystem.clear_instance_cache()


def open_store(address: str, place: Path) -> Store:
    """The store as another machine would open it, with a working folder of its own."""
    return Store(Path(attach(address, str(place))))


def write(text: str = "one", calls: list[Path] | None = None) -> Callable[[Path], None]:
    def create(folder: Path) -> None:
        if calls is not None:
            calls.append(folder)
        (folder / "sub").mkdir(exist_ok=True)
        (folder / "sub/a.txt").write_text(text)
        (folder / "b.bin").write_bytes(bytes(range(256)))

    return create


def names(address: str) -> set[str]:
    return set(RemoteFolder(address).list())


@pytest.mark.parametrize("kind", ["memory", "bucket", "file"])
def test_a_result_is_published_and_fetched_elsewhere(
    kind: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    address = f"file://{tmp_path}/far" if kind == "file" else request.getfixturevalue(kind)
    first, second = (open_store(address, tmp_path / name) for name in ("one", "two"))
    folder, kept = first.get_or_create("stage", KEY, write())
    assert not kept
    remote = RemoteFolder(f"{address}/stage/{folder.name}")
    assert {"DONE", "b.bin", "sub/a.txt", "cache_key.json"} <= set(remote.list())
    assert ".working" not in remote.list()
    assert ".lock" not in remote.list()
    calls: list[Path] = []
    other, kept = second.get_or_create("stage", KEY, write("other", calls))
    assert kept
    assert not calls
    assert other != folder
    assert (other / "sub/a.txt").read_text() == "one"
    assert (other / "DONE").read_bytes() == (folder / "DONE").read_bytes()
    third = open_store(address, tmp_path / "three")
    assert (found := third.find("stage", KEY)) is not None
    assert (found / "b.bin").read_bytes() == bytes(range(256))
    assert third.find("stage", {"a": 2}) is None
    assert not [name for name in names(address) if name.startswith(".locks")]


@pytest.mark.parametrize("kind", ["memory", "bucket"])
def test_runs_of_two_machines_in_one_second_have_two_names(
    kind: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    address = request.getfixturevalue(kind)
    first, second = (RemoteOutputs(address, tmp_path / name / "outputs") for name in ("one", "two"))
    name = "runs/cam/2026-01-31_12-00-00"
    assert first.claim_run(first.working / name)
    assert not second.claim_run(second.working / name)
    assert second.claim_run(second.working / f"{name}_2")
    first.give_up_run(first.working / name)
    assert second.claim_run(second.working / name)


def test_a_run_takes_a_name_that_no_other_machine_has(
    memory: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cli: Cli
) -> None:
    monkeypatch.setattr("time.strftime", lambda *_: "2026-01-31_12-00-00")
    job = ("+experiment=cam", *TINY, "train.epochs=0", "stages=[train]", f"outputs={memory}")
    for place in ("one", "two"):
        assert cli(*job, f"store.working_folder={place}") == 0
        store.remotes.clear()
    runs = {name.split("/")[2] for name in names(memory) if name.endswith("/config.yaml")}
    assert runs == {"2026-01-31_12-00-00", "2026-01-31_12-00-00_2"}


def test_done_is_written_last(memory: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[str] = []
    for name in ("put_file", "pipe_file"):
        original = getattr(type(fsspec.filesystem("memory")), name)

        def record(self: object, *rest: object, _original: object = original,
                   _name: str = name, **options: object) -> object:  # fmt: skip
            path = str(rest[1] if _name == "put_file" else rest[0])
            if "/.locks/" not in path:
                written.append(path.rpartition("/")[2])
            return _original(self, *rest, **options)  # type: ignore[operator]

        monkeypatch.setattr(type(fsspec.filesystem("memory")), name, record)
    open_store(memory, tmp_path).get_or_create("stage", KEY, write())
    assert written[0] == ".working"
    assert written[-1] == "DONE"
    assert {"a.txt", "b.bin", "cache_key.json"} < set(written)


def test_a_result_whose_file_is_gone_is_made_again(memory: str, tmp_path: Path) -> None:
    folder, _ = open_store(memory, tmp_path / "one").get_or_create("stage", KEY, write())
    RemoteFolder(memory).delete([f"stage/{folder.name}/b.bin"])
    calls: list[Path] = []
    _, kept = open_store(memory, tmp_path / "two").get_or_create("stage", KEY, write("new", calls))
    assert not kept
    assert len(calls) == 1
    assert RemoteFolder(memory).read(f"stage/{folder.name}/sub/a.txt") == b"new"
    assert f"stage/{folder.name}/b.bin" in names(memory)


@pytest.mark.parametrize("kind", ["memory", "bucket"])
def test_work_in_progress_goes_on_elsewhere(
    kind: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    """What was finished is uploaded meanwhile; what another run changed replaces what is here."""
    address = request.getfixturevalue(kind)

    def begin(text: str, wanted: str) -> Callable[[Path], None]:
        def create(folder: Path) -> None:
            (folder / "plan.json").write_text(text)
            (folder / wanted).write_text(text)
            end = time.monotonic() + 20
            while f"stage/{folder.name}/{wanted}" not in names(address):
                assert time.monotonic() < end, "not uploaded within 20 s"
                time.sleep(0.05)
            raise UserError("the machine is lost")

        return create

    for place, shard in (("one", "shard-000000.safetensors"), ("two", "shard-000001.safetensors")):
        with pytest.raises(UserError, match="is lost"):
            open_store(address, tmp_path / place).get_or_create("stage", KEY, begin(place, shard))
    seen: list[set[str]] = []

    def end(folder: Path) -> None:
        seen.append({path.name for path in folder.glob("shard-*")})
        assert (folder / "plan.json").read_text() == "two"
        (folder / "shard-000000.safetensors").unlink()

    folder, kept = open_store(address, tmp_path / "one").get_or_create("stage", KEY, end)
    assert not kept
    assert seen == [{"shard-000000.safetensors", "shard-000001.safetensors"}]
    assert (folder / "shard-000001.safetensors").read_text() == "two"
    remote = {name for name in names(address) if "shard" in name}
    assert remote == {f"stage/{folder.name}/shard-000001.safetensors"}, "deleted there, too"


@pytest.mark.parametrize("kind", ["memory", "bucket"])
def test_two_runs_at_once_do_the_work_once(
    kind: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    stores = [open_store(request.getfixturevalue(kind), tmp_path / name) for name in "abc"]
    calls: list[Path] = []
    waited: list[Path] = []
    results: list[tuple[Path, bool]] = []

    def create(folder: Path) -> None:
        time.sleep(0.5)
        write("one", calls)(folder)

    threads = [
        threading.Thread(
            target=lambda s=each: results.append(s.get_or_create("s", KEY, create, waited.append))
        )
        for each in stores
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(calls) == 1
    assert sorted(kept for _, kept in results) == [False, True, True]
    assert {(folder / "sub/a.txt").read_text() for folder, _ in results} == {"one"}
    assert len(waited) == 2


@pytest.mark.parametrize("kind", ["memory", "bucket"])
def test_a_lock_is_held_by_one_and_taken_over_when_stale(
    kind: str, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    outputs = RemoteFolder(request.getfixturevalue(kind))
    assert can_create(outputs)
    first, *others = (RemoteLock(outputs, "stage/key") for _ in range(4))
    assert first.acquire()
    assert not others[0].acquire()
    assert first.renew()
    monkeypatch.setattr(remote_locks, "STALE", -10.0)
    assert [other.acquire() for other in others[:1]] == [True]
    monkeypatch.setattr(remote_locks, "STALE", 300.0)
    assert not others[1].acquire()
    assert not first.renew(), "another has taken it over"
    first.release()
    assert others[0].renew(), "who has lost the lock does not delete that of the other"
    others[0].release()
    assert others[2].acquire()
    others[2].release()
    assert not [name for name in outputs.list() if ".locks" in name]


def test_of_many_that_take_over_one_does(bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    outputs = RemoteFolder(bucket)
    assert RemoteLock(outputs, "stage/key").acquire()
    monkeypatch.setattr(RemoteLock, "_is_abandoned", lambda self, number: number == 1)
    taken: list[bool] = []
    threads = [
        threading.Thread(target=lambda: taken.append(RemoteLock(outputs, "stage/key").acquire()))
        for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(taken) == 1


def test_a_lock_is_not_taken_from_a_thread_that_has_just_created_it(
    memory: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    outputs = RemoteFolder(memory)
    create = RemoteFolder.create
    taken: list[bool] = []

    def create_and_look(folder: RemoteFolder, name: str, content: bytes) -> bool:
        is_created = create(folder, name, content)
        monkeypatch.setattr(RemoteFolder, "create", create)
        taken.append(RemoteLock(outputs, "stage/key").acquire())
        return is_created

    first = RemoteLock(outputs, "stage/key")
    monkeypatch.setattr(RemoteFolder, "create", create_and_look)
    assert first.acquire()
    assert taken == [False]
    assert first.renew()
    first.release()


def test_the_lock_of_a_process_that_ended_here_is_free(memory: str) -> None:
    outputs = RemoteFolder(memory)
    lock = RemoteLock(outputs, "stage/key")
    assert lock.acquire()
    (name,) = [name for name in outputs.list() if name.startswith(".locks/stage")]
    record = outputs.read_record(name)
    assert record is not None
    text = str(record).replace("'", '"').replace(f": {record['process']}", ": 999999999")
    outputs.write(name, text.encode())
    assert RemoteLock(outputs, "stage/key").acquire()


def test_who_lost_the_lock_does_not_publish(memory: str, tmp_path: Path) -> None:
    def create(folder: Path) -> None:
        outputs = RemoteFolder(memory)
        outputs.create(f".locks/stage/{folder.name}/000002", b"{}")
        write()(folder)

    with pytest.raises(UserError, match="another run has taken it over"):
        open_store(memory, tmp_path).get_or_create("stage", KEY, create)
    assert not [name for name in names(memory) if name.endswith("DONE")]


def test_a_store_without_conditions_is_told(
    memory: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    system = type(fsspec.filesystem("memory"))
    original = system.pipe_file
    monkeypatch.setattr(
        system, "pipe_file", lambda self, path, value, mode="overwrite": original(self, path, value)
    )
    opened = open_store(memory, tmp_path)
    assert "do not wait for one another" in "".join(capsys.readouterr())
    assert opened.get_or_create("stage", KEY, write())[1] is False
    assert "DONE" in {name.rpartition("/")[2] for name in names(memory)}


def test_a_server_that_is_away_for_a_moment(
    server: Server, bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retries, "FIRST_WAIT", 0.2)
    opened = open_store(bucket, tmp_path)

    def create(folder: Path) -> None:
        server.stop()
        threading.Timer(1.0, server.start).start()
        write()(folder)

    folder, kept = opened.get_or_create("stage", KEY, create)
    assert not kept
    assert f"stage/{folder.name}/DONE" in names(bucket)


def test_a_server_that_stays_away(server: Server, bucket: str, tmp_path: Path) -> None:
    opened = open_store(bucket, tmp_path)

    def create(folder: Path) -> None:
        write()(folder)
        server.stop()

    try:
        with pytest.raises(
            UserError, match=r"cannot be reached in .* attempts .*goes on from here"
        ):
            opened.get_or_create("stage", KEY, create)
        folder = opened.folder("stage", KEY)
        assert store.is_done(folder), "nothing is lost"
    finally:
        server.start()
    assert f"stage/{folder.name}/DONE" not in names(bucket)
    _, kept = opened.get_or_create("stage", KEY, write())
    assert kept
    assert f"stage/{folder.name}/DONE" in names(bucket), "published by the next run"


def test_a_bucket_that_is_not_there(bucket: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"outputs=s3://gone-\w+: cannot be written to .*bucket"):
        attach(f"s3://gone-{uuid.uuid4().hex}", str(tmp_path))


def test_boxes_of_a_person_are_fetched_and_published(memory: str, tmp_path: Path) -> None:
    RemoteFolder(memory).write("human_boxes.json", b"[1]")
    working = Path(attach(memory, str(tmp_path)))
    assert (working / "human_boxes.json").read_text() == "[1]"
    remote = store.remotes[working]
    assert isinstance(remote, RemoteOutputs)
    run = working / "runs/ingest/now"
    run.mkdir(parents=True)
    (working / "human_boxes.json").write_text("[1, 2]")
    remote.publish_run(run, is_latest=False)
    assert RemoteFolder(memory).read("human_boxes.json") == b"[1, 2]"
    (working / "human_boxes.json").write_text("[1, 2, 3]")
    RemoteFolder(memory).write("human_boxes.json", b"[4]")
    with pytest.raises(UserError, match="changed by somebody else"):
        remote.publish_run(run, is_latest=False)
    store.remotes.clear()
    with pytest.raises(UserError, match="changed by somebody else"):
        attach(memory, str(tmp_path))


# -- checkpoint=


def put(address: str, files: dict[str, bytes]) -> None:
    for name, content in files.items():
        RemoteFolder(address).write(name, content)


NETWORK = {"card.json": b"{}", "weights.safetensors": b"w", "logs/events": b"long"}


def test_a_checkpoint_is_fetched_once_and_again_where_it_changed(
    memory: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(f"{memory}/train/abc", NETWORK)
    put(f"{memory}/explain/def", {"cache_key.json": b"{}", "shard-000000.safetensors": b"maps"})
    run = f"{memory}/runs/cam/2026"
    put(run, {"config.yaml": b"name: cam\n", "boxes.json": b"[]"})
    put(run, {"stages/train.link": b"train/abc\n", "stages/explain.link": b"explain/def\n"})
    put(memory, {"latest": b"runs/cam/2026\n"})
    fetched: list[str] = []
    original = type(fsspec.filesystem("memory")).get_file

    def get_file(self: object, path: str, *rest: object, **options: object) -> object:
        fetched.append(path.rpartition("/")[2])
        return original(self, path, *rest, **options)

    monkeypatch.setattr(type(fsspec.filesystem("memory")), "get_file", get_file)
    for address in (f"{memory}/latest", run, f"{memory}/latest"):
        folder = fetch_checkpoint(address, str(tmp_path))
        assert (folder / "stages/train/weights.safetensors").read_bytes() == b"w"
        assert [path.name for path in (folder / "stages/explain").glob("[!.]*")] == [
            "cache_key.json"
        ]
    expected = ["cache_key.json", "card.json", "config.yaml", "weights.safetensors"]
    assert sorted(fetched) == expected, "once, and neither maps nor logs"
    put(f"{memory}/train/abc", {"weights.safetensors": b"v"})
    folder = fetch_checkpoint(f"{memory}/latest", str(tmp_path))
    assert sorted(fetched) == sorted([*expected, "weights.safetensors"])
    assert (folder / "stages/train/weights.safetensors").read_bytes() == b"v"


def test_a_train_folder_and_a_copied_run(memory: str, tmp_path: Path) -> None:
    put(f"{memory}/net", NETWORK)
    for end in ("net", "net/", "net/card.json", "net/weights.safetensors"):
        folder = fetch_checkpoint(f"{memory}/{end}", str(tmp_path))
        assert (folder / "weights.safetensors").is_file()
        assert not (folder / "logs").exists()
    copied = {f"stages/train/{name}": data for name, data in NETWORK.items()}
    put(f"{memory}/run", {**copied, "config.yaml": b"a: 1"})
    folder = fetch_checkpoint(f"{memory}/run", str(tmp_path))
    assert (folder / "stages/train/card.json").is_file()


def test_what_is_no_checkpoint(memory: str, tmp_path: Path) -> None:
    put(f"{memory}/photos", {"a.jpg": b""})
    with pytest.raises(UserError, match=r"no checkpoint there; .*there is a\.jpg"):
        fetch_checkpoint(f"{memory}/photos", str(tmp_path))
    with pytest.raises(UserError, match=r"no checkpoint there; .*there is nothing"):
        fetch_checkpoint(f"{memory}/gone", str(tmp_path))
    with pytest.raises(UserError, match="expected a run, a train folder, or latest"):
        fetch_checkpoint(f"{memory}/photos/a.jpg", str(tmp_path))
    put(f"{memory}/runs/a/b", {"config.yaml": b"", "stages/train.link": b"../../../etc"})
    with pytest.raises(UserError, match="expected STAGE/KEY"):
        fetch_checkpoint(f"{memory}/runs/a/b", str(tmp_path))


# -- the command line


@pytest.mark.parametrize(
    "argument",
    [
        "outputs=s3://AKIAUSER:hidden-secret@bucket/outputs",
        "checkpoint=s3://AKIAUSER:hidden-secret@bucket/run",
        "data.root=s3://AKIAUSER:hidden-secret@bucket/photos",
        "images='https://host/a.zip?X-Amz-Signature=hidden-secret'",
    ],
)
def test_addresses_with_passwords_are_refused(
    cli: Cli, argument: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert cli("+experiment=cam", "data=folder", "data.root=x", argument) == 2
    said = "".join(capsys.readouterr())
    assert f"{argument.partition('=')[0]}=" in said
    assert "credentials come from the environment" in said
    assert "hidden-secret" not in said
    for path in tmp_path.rglob("*"):
        assert not path.is_file() or b"hidden-secret" not in path.read_bytes()


def test_commands_that_need_a_folder_here(cli: Cli, capsys: pytest.CaptureFixture[str]) -> None:
    for arguments, expected in (
        (("clean", "outputs=s3://bucket/outputs"), "deleted with its own tools"),
        (("serve", "s3://bucket/outputs/latest"), "expected a folder on this machine"),
        (("+experiment=export", "run=s3://bucket/outputs/latest"), "run=s3://bucket/outputs/late"),
    ):
        assert cli(*arguments) == 2
        assert expected in "".join(capsys.readouterr())


# -- room


def test_copies_are_bounded_and_what_is_not_published_stays(
    memory: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    opened = open_store(memory, tmp_path)
    folders = []
    for number in range(4):
        folder, _ = opened.get_or_create("stage", {"n": number}, write("x" * 10_000))
        os.utime(folder / "DONE", (1000 + number, 1000 + number))
        folders.append(folder)
    (folders[0] / PUBLISHED).unlink()  # as where publishing failed
    put(f"{memory}/net", NETWORK)
    network = fetch_checkpoint(f"{memory}/net", str(tmp_path))
    os.utime(network / ".stamps.json", (1, 1))
    options = {"cache_limit": "15K", "working_folder": str(tmp_path)}
    run = opened.root / "runs/cam/now"
    run.mkdir(parents=True)
    with FileLock(run / ".lock"):
        limit_copies(options)
    assert all(folder.is_dir() for folder in folders), "a run goes on, which may use them"
    limit_copies(options)
    assert [folder.is_dir() for folder in folders] == [True, False, False, True]
    assert (network / "weights.safetensors").is_file(), "this process uses it"
    assert "2 deleted" in "".join(capsys.readouterr())
    (network / f".lease-{os.getpid()}").rename(network / ".lease-999999999")
    limit_copies({**options, "cache_limit": "10K"})
    assert not network.is_dir()
    calls: list[Path] = []
    for number in range(4):
        _, kept = opened.get_or_create("stage", {"n": number}, write("x", calls))
        assert kept
    assert not calls, "fetched again"

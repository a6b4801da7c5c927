"""`outputs=s3://bucket/prefix`: results in an object store, made in a working folder on this disk.

A result that the store has is fetched; one that it has not is created here, under a lock in the
store, while its finished files are uploaded, so that another machine goes on where this one is
lost. The working folder is a mirror of the store, and lies in the folder of caches, or where
`store.working_folder` says.

The folder of a run is published at its end. Stores have no links: `stages/train.link` names the
result of stage train; all other links become copies. `latest` is a file that names the newest run.
"""

from __future__ import annotations

import os
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock

from pipeline.data.folder_index import find_cache
from pipeline.engine import ranks, store, terminal
from pipeline.engine.latest import LATEST
from pipeline.engine.remote_files import RemoteFile
from pipeline.engine.remote_locks import BEAT, FOLDER, RemoteLock, can_create
from pipeline.engine.remote_results import PUBLISHED, RemoteResult, list_files
from pipeline.errors import UserError
from pipeline.formats import results_folder
from pipeline.formats.files import write_text
from pipeline.formats.remote import RemoteFolder
from pipeline.formats.stored import is_address
from pipeline.ops.hashing import hash_of

WORKING = "outputs"  # in the folder of caches
UPLOAD = 10.0  # seconds between uploads of what was finished
POLL = 3.0  # seconds between looks whether another run has made a result
LINK = ".link"  # ends the names of files that stand for links
PLACE = ".working-folder"  # in a working folder: its id
FROM_ROOT = ("human_boxes.json",)  # files beside the stages that runs read


def attach(outputs: str, working_folder: str | None) -> str:
    """Return the folder that a run works in; for an address, its working folder on this disk.

    Args:
        outputs: as it was given.
        working_folder: of store.working_folder; None: below the folder of caches.

    Raises:
        UserError: the address cannot be written to, or several machines share a run.
    """
    if not is_address(outputs):
        return outputs
    world = ranks.launched_world()
    if world.size > world.local_size:
        raise UserError(
            f"outputs={outputs}: the ranks of torchrun are on several machines, which have no "
            "working folder in common; use runner=ray, or a folder of outputs that all can read"
        )
    cache = find_cache()
    if working_folder is None and cache is None:
        raise UserError(f"outputs={outputs}: no folder of caches; give store.working_folder=DIR")
    parent = Path(str(cache) if working_folder is None else working_folder)
    working = (parent / WORKING / hash_of({"outputs": outputs.rstrip("/")})).absolute()
    if working not in store.remotes:
        store.remotes[working] = RemoteOutputs(outputs, working)
    return str(working)


def attached_to(root: Path) -> RemoteOutputs | None:
    """Return the remote outputs that a folder is the working folder of; None: it is of none.

    Args:
        root: a folder of outputs.
    """
    remote = store.remotes.get(root.absolute())
    return remote if isinstance(remote, RemoteOutputs) else None


class RemoteOutputs:
    """A folder of outputs in an object store, and its working folder.

    Args:
        address: as s3://bucket/outputs.
        working: the working folder.

    Raises:
        UserError: the address, or the working folder, cannot be written to.
    """

    def __init__(self, address: str, working: Path) -> None:
        self.folder, self.working = RemoteFolder(address), working
        try:
            working.mkdir(parents=True, exist_ok=True)
            with FileLock(working / f"{PLACE}.lock"):
                if not (working / PLACE).is_file():
                    write_text(working / PLACE, uuid.uuid4().hex)
        except OSError as error:
            raise UserError(
                f"store.working_folder: {working} cannot be written to ({error.strerror}); "
                "store.working_folder=DIR names another"
            ) from None
        self._place = (working / PLACE).read_text(encoding="utf-8")
        self.folder.check_writable("outputs", f"{FOLDER}/.probe-{uuid.uuid4().hex}")
        self._has_locks = can_create(self.folder)
        self._beside = [RemoteFile(self.folder, name, working) for name in FROM_ROOT]
        for file in self._beside:
            file.fetch()
        if ranks.current_world().rank == 0:
            terminal.print_line(f"{'outputs':<10} {self.folder.address}, working folder {working}")
        if not self._has_locks and ranks.current_world().rank == 0:
            terminal.print_note(
                f"outputs={self.folder.address}: this store cannot create a file only where there "
                "is none, so runs on several machines do not wait for one another: start them "
                "one after the other"
            )

    # -- results

    def fetch(self, folder: Path) -> bool:
        """Fetch a result that the store has; return whether it has it.

        Args:
            folder: of the result in the working folder. The caller holds its lock.
        """
        return self._result(folder).fetch()

    def ensure_published(self, folder: Path) -> None:
        """Publish a result that is complete here, unless the store has it or another publishes it.

        Args:
            folder: of the result in the working folder.
        """
        result = self._result(folder)
        if result.is_complete():
            return
        lock = self._lock(folder)
        if lock is not None and not lock.acquire():
            return
        try:
            result.begin_again()
            result.publish()
        finally:
            if lock is not None:
                lock.release()

    @contextmanager
    def creating(self, folder: Path, on_wait: Callable[[Path], None]) -> Iterator[None]:
        """Create a result in the block, unless another run has made it: then it is fetched before.

        Args:
            folder: of the result in the working folder. The caller holds its lock.
            on_wait: is called with the folder before waiting for another machine.

        Raises:
            UserError: the store cannot be reached, or another run has taken over.
        """
        result, lock = self._result(folder), self._lock(folder)
        if result.fetch():
            yield
            return
        if lock is not None and not self._wait(result, lock, folder, on_wait):
            yield
            return
        try:
            result.begin()
            with self._uploading(result, lock):
                yield
            if lock is not None and not lock.renew():
                raise UserError(
                    f"{self.folder.address_of(self._name(folder))}: another run has taken it over, "
                    "as nothing was heard of this one for minutes; the same command uses its result"
                )
            result.publish()
        except BaseException:
            with suppress(Exception), self.folder.impatient():
                result.upload_changes()
            raise
        finally:
            if lock is not None:
                with suppress(Exception), self.folder.impatient():
                    lock.release()

    def _wait(
        self,
        result: RemoteResult,
        lock: RemoteLock,
        folder: Path,
        on_wait: Callable[[Path], None],
    ) -> bool:
        """Wait for a lock; return false where its holder made the result, which is fetched."""
        is_told = False
        while not lock.acquire():
            if not is_told:
                on_wait(folder)
                is_told = True
            time.sleep(POLL)
            if result.fetch():
                return False
        if result.fetch():  # the holder ended between the two
            lock.release()
            return False
        return True

    @contextmanager
    def _uploading(self, result: RemoteResult, lock: RemoteLock | None) -> Iterator[None]:
        """Upload in threads what is finished, and say to other runs that this one is there."""
        stopped, is_lost = threading.Event(), threading.Event()

        def repeat(seconds: float, work: Callable[[], None]) -> None:
            is_told = False
            while not stopped.wait(seconds) and not is_lost.is_set():
                try:
                    work()
                    is_told = False
                except (Exception, SystemExit) as error:  # tried again the next time
                    if not is_told:
                        terminal.print_note(f"outputs: not uploaded yet ({error})")
                    is_told = True

        def renew() -> None:
            if lock is not None and not lock.renew():
                is_lost.set()

        threads = [
            threading.Thread(target=repeat, args=arguments, daemon=True)
            for arguments in ((UPLOAD, result.upload_changes), (BEAT, renew))
        ]
        for thread in threads:
            thread.start()
        try:
            yield
        finally:
            stopped.set()
            for thread in threads:
                thread.join()

    def _result(self, folder: Path) -> RemoteResult:
        return RemoteResult(self.folder, self._name(folder), folder, self._place)

    def _lock(self, folder: Path) -> RemoteLock | None:
        return RemoteLock(self.folder, self._name(folder)) if self._has_locks else None

    def _name(self, folder: Path) -> str:
        return folder.absolute().relative_to(self.working).as_posix()

    # -- runs

    def claim_run(self, folder: Path) -> bool:
        """Take the name of a run; return whether no run of another working folder has it.

        Args:
            folder: of the run in the working folder.
        """
        name = f"{self._name(folder)}/{results_folder.MARKER}"
        content = f"{results_folder.MARKER_TEXT}{uuid.uuid4().hex}\n"
        return not self._has_locks or self.folder.create(name, content.encode())

    def give_up_run(self, folder: Path) -> None:
        """Give back the name of a run that is not published.

        Args:
            folder: of the run in the working folder.
        """
        with suppress(Exception), self.folder.impatient():
            self.folder.delete([f"{self._name(folder)}/{results_folder.MARKER}"])

    def publish_run(self, folder: Path, is_latest: bool) -> str:
        """Publish the folder of a run, and return its address.

        Args:
            folder: of the run in the working folder.
            is_latest: whether `latest` is to name it.
        """
        name = self._name(folder)
        links, files = self._list_run(folder)
        config = f"{name}/config.yaml"
        last = {config: files.pop(config)} if config in files else {}
        self.folder.upload(files)
        for link, target in links.items():
            self.folder.write(link, f"{target}\n".encode())
        self.folder.upload(last)  # a folder without it is none of a run
        if is_latest:
            self.folder.write(LATEST, f"{name}\n".encode())
        for file in self._beside:
            file.publish()
        (folder / PUBLISHED).touch()
        return self.folder.address_of(name)

    def _list_run(self, folder: Path) -> tuple[dict[str, str], dict[str, Path]]:
        """Return the links to results in a run's folder, and the files, by their remote names."""
        links: dict[str, str] = {}
        files: dict[str, Path] = {}
        for place, folders, names in os.walk(folder):
            for path in (Path(place, each) for each in (*folders, *names)):
                name = self._name(path)
                if path.is_symlink():
                    target = path.resolve()
                    is_result = path.parent == folder / "stages"
                    if is_result and target.is_relative_to(self.working.resolve()):
                        within = target.relative_to(self.working.resolve())
                        links[name + LINK] = within.as_posix()
                    elif target.is_file():
                        files[name] = target
                    else:
                        for file in list_files(target):
                            files[f"{name}/{file.relative_to(target).as_posix()}"] = file
        for file in list_files(folder):
            if not file.is_symlink():
                files[self._name(file)] = file
        return links, files

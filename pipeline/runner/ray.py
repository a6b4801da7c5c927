"""Workers of a Ray cluster compute the shards; a worker that dies costs the shard that it had.

Each worker is a Ray actor, which holds the network of a task, and has a number of cores or a GPU.
Workers follow the cluster: nodes that join get workers within seconds, those of nodes that leave
are forgotten (pipeline/runner/schedule.py says who computes which shard). Results come back as
bytes, and this process writes them, so that workers need no disk of this machine; with
`runner.write=workers` they write them where all machines have the same disk.
"""

from __future__ import annotations

import os
import signal
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, Literal

from pipeline.errors import UserError
from pipeline.runner.ray_workers import SECONDS_TO_LOOK, Actor, Place, SpreadJobs, Worker, hash_code

if TYPE_CHECKING:
    from pipeline.protocols.runner import Watch
    from pipeline.types.jobs import Job, JobResult, Work

LOOPBACK = ("127.", "localhost:")
MOST_STARTS = 5  # of workers that die as they start, one after the other, while none is there
SECONDS_TO_CONNECT = 10.0
SECONDS_TO_WAIT = 60.0  # for a first worker, before a line says what is missing


class Ray:
    """A Ray cluster.

    Args:
        address: of the cluster: auto, the one that this machine belongs to; HOST:PORT; None: Ray is
            started on this machine, for this run.
        workers: at most so many; None: as many as the cluster has room for.
        cpus: cores of a worker, which also are its threads.
        gpus: GPUs of a worker; None: one where the run computes on GPUs, else none.
        write: who writes results: `driver`, this process; or `workers`, which need the same folder
            of outputs at the same path.

    Raises:
        ValueError: a number is not positive.
    """

    spreads = True

    def __init__(
        self,
        address: str | None = None,
        workers: int | None = None,
        cpus: int = 1,
        gpus: float | None = None,
        write: Literal["driver", "workers"] = "driver",
    ) -> None:
        if workers is not None and workers < 1:
            raise ValueError(f"runner.workers={workers}: expected 1 or more, or null")
        if cpus < 1:
            raise ValueError(f"runner.cpus={cpus}: expected 1 or more")
        self.address, self.most, self.cpus, self.gpus = address, workers, cpus, gpus
        self.write = write
        self._workers: list[Worker] = []
        self._failed_starts = 0
        self._tasks = 0
        self._looked_at = 0.0
        self._nodes: set[str] = set()
        self._has_started_ray = False

    @property
    def writes_in_workers(self) -> bool:
        """Whether workers write the shards that they compute."""
        return self.write == "workers"

    def check(self) -> None:
        """Check that Ray is installed.

        Raises:
            UserError: it is not.
        """
        if find_spec("ray") is None or find_spec("cloudpickle") is None:
            raise UserError(
                "runner=ray: Ray is not installed; pip install 'label2box[ray]', or runner=local"
            )

    # -- the cluster

    def _connect(self) -> None:
        """Connect to the cluster, or start Ray here, unless this process is connected.

        Raises:
            UserError: there is no cluster at the address.
        """
        cores = None if self.most is None else self.most * self.cpus
        self._has_started_ray |= connect("runner", self.address, "runner=local", cores)
        _hide_raylet_messages()

    def _follow_cluster(self, gpus: float) -> None:
        """Start workers where the cluster has room for more.

        With `runner.workers` all are asked for at once: a cluster that grows on demand grows.
        """
        import ray

        if time.monotonic() < self._looked_at + SECONDS_TO_LOOK:
            return
        self._looked_at = time.monotonic()
        there = ray.cluster_resources()
        room = int(there.get("CPU", 0) // self.cpus)
        if gpus:
            room = min(room, int(there.get("GPU", 0) // gpus))
        wanted = room if self.most is None else self.most
        self._workers = [each for each in self._workers if each.running or not each.is_lost]
        started = ray.remote(Actor).options(num_cpus=self.cpus, num_gpus=gpus, max_restarts=0)
        for _ in range(sum(not each.is_lost for each in self._workers), wanted):
            actor = started.remote(self.cpus)
            self._workers.append(Worker(actor, actor.ready.remote()))

    def _welcome(self) -> None:
        """Note which workers have started, and forget those that could not.

        Raises:
            UserError: several could not, and none could; or one has other code.
        """
        import ray

        new = {each.started: each for each in self._workers if not (each.node or each.is_lost)}
        if not new:
            return
        for ref in ray.wait(list(new), num_returns=len(new), timeout=0)[0]:
            try:
                place = ray.get(ref)
            except ray.exceptions.RayError as error:
                new[ref].is_lost = True
                self._count_failed_start(str(error))
            else:
                _check_code(place)
                new[ref].node = place.node
                self._failed_starts = 0

    def _count_failed_start(self, why: str) -> None:
        """Raise UserError where workers die as they start, and none is there."""
        self._failed_starts += 1
        if self._failed_starts >= MOST_STARTS and not any(each.node for each in self._workers):
            lines = [line.strip() for line in why.splitlines() if line.strip()]
            remedy = (
                "each machine needs the same environment as this one, at the same path, and memory "
                "for a worker"
            )
            if os.environ.get("RAY_AUTH_MODE", "").lower() == "token":
                # Ray sets it where it finds a token, and says nothing of a cluster without one.
                remedy += (
                    "; or this process asks for Ray's token (~/.ray/auth_token, "
                    "RAY_AUTH_MODE=token), and this cluster was started without: "
                    "RAY_AUTH_MODE=disabled"
                )
            raise UserError(
                f"runner=ray: {self._failed_starts} workers have ended before they had started: "
                f"{lines[-1]}; {remedy}"
            )

    def _describe_nodes(self, watch: Watch) -> None:
        """Tell on how many nodes workers are, if that has changed."""
        there = [worker for worker in self._workers if worker.is_there]
        nodes, count = {worker.node for worker in there}, len(there)
        if nodes == self._nodes or not nodes:
            return
        self._nodes = nodes
        watch.note_nodes(len(nodes))
        watch.say(
            f"ray: {count} worker{'s' * (count != 1)} on {len(nodes)} node{'s' * (len(nodes) != 1)}"
        )

    def close(self) -> None:
        """End the workers, and Ray where it was started for this run."""
        if not self._tasks:
            return
        import ray

        if not ray.is_initialized():
            return
        for worker in self._workers:
            ray.kill(worker.actor)
        self._workers, self._nodes, self._failed_starts = [], set(), 0
        if self._has_started_ray:
            self._has_started_ray = False
            ray.shutdown()

    # -- jobs

    def map(self, work: Work, watch: Watch) -> Iterator[tuple[Job, JobResult]]:
        """Compute jobs in workers, each once; the arguments are those of `Runner.map`.

        Yields:
            Jobs as they are finished.

        Raises:
            UserError: no Ray cluster answers, no worker can start or compute anything, or what
                `ShardTask.compute` raises.
        """
        self._connect()
        import ray

        gpus = self.gpus if self.gpus is not None else float(work.uses_gpu)
        self._tasks += 1
        spread = SpreadJobs(self._tasks, work, watch)
        watch.note_nodes(len(self._nodes))
        since = time.monotonic()
        while not spread.schedule.is_finished:
            self._follow_cluster(gpus)
            self._welcome()
            self._describe_nodes(watch)
            # With a GPU one batch is read while another is computed.
            spread.give([each for each in self._workers if each.is_there], 2 if gpus else 1)
            if any(worker.running for worker in self._workers):
                yield from spread.take(self._workers)
                continue
            if time.monotonic() > since + SECONDS_TO_WAIT:
                since = float("inf")
                free = ray.available_resources()
                watch.say(f"ray: no worker has started in {SECONDS_TO_WAIT:.0f} s: the cluster has "
                          f"CPU: {free.get('CPU', 0):g}, GPU: {free.get('GPU', 0):g} free, a "
                          f"worker needs CPU: {self.cpus}, GPU: {gpus:g}; waiting")  # fmt: skip
            time.sleep(0.05)


def connect(option: str, address: str | None, instead: str, cores: int | None = None) -> bool:
    """Connect to a Ray cluster, or start Ray on this machine, unless this process is connected.

    Args:
        option: whose `address` it is: `runner` or `hydra.launcher`.
        address: auto, the cluster that this machine belongs to; HOST:PORT; None: Ray is started
            here, and listens on 127.0.0.1 alone.
        instead: an option that needs no Ray, for messages.
        cores: that a Ray which is started here has; None: those of the machine.

    Returns:
        Whether Ray was started.

    Raises:
        UserError: there is no cluster at the address, or Ray cannot be started.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    if address is None or address.startswith(LOOPBACK):
        # Ray reads it once, and takes the machine's own address for 127.0.0.1 without it.
        os.environ.setdefault("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")
    import ray

    if ray.is_initialized():
        return False
    # Ray sets it to one thread for each core otherwise, and says so.
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    options: dict[str, Any] = {"log_to_driver": False, "logging_level": "error"}
    if address is None:
        options |= {"num_cpus": cores, "include_dashboard": False,
                    "_node_ip_address": "127.0.0.1"}  # fmt: skip
    elif address != "auto":
        _check_address(option, address)
    try:
        with keep_signal_handlers():
            ray.init(address=address or "local", **options)
    except Exception as error:  # Ray has no common class for what it raises here
        why = next(iter(str(error).splitlines()), type(error).__name__)
        if address not in (None, "auto") and "RAY_AUTH_MODE" not in os.environ:
            why += ("; a cluster that was started where ~/.ray/auth_token is asks for it: "
                    "RAY_AUTH_MODE=token, and the same file on this machine")  # fmt: skip
        if address is not None:
            raise _no_cluster_error(option, address, why) from error
        raise UserError(
            f"{option}.address=null: Ray could not be started on this machine ({why}); where other "
            f"work keeps it busy, the same command may succeed later; {instead} needs no Ray"
        ) from error
    return address is None


def _check_address(option: str, address: str) -> None:
    """Raise UserError unless something listens at HOST:PORT; Ray would try for minutes."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if not host or not port.isdecimal():
        raise _no_cluster_error(option, address, "expected auto, null or HOST:PORT")
    try:
        socket.create_connection((host, int(port)), SECONDS_TO_CONNECT).close()
    except OSError as error:
        raise _no_cluster_error(option, address, str(error)) from None


def _no_cluster_error(option: str, address: str, why: str) -> UserError:
    return UserError(
        f"{option}.address={address}: no Ray cluster answers there ({why}); `ray start --head` "
        f"starts one, {option}.address=null one on this machine alone"
    )


@contextmanager
def keep_signal_handlers() -> Iterator[None]:
    """Restore the handler of SIGTERM that a node of Ray, started in this process, replaces."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@cache
def _hide_raylet_messages() -> None:
    """Let Ray not print a paragraph on each worker that dies: a line here says what follows.

    Ray has no option for it; what a cluster's autoscaler says is still printed.
    """
    from ray._private import worker

    printed = worker.print_to_stdstream

    def print_others(data: Any, *arguments: Any, **options: Any) -> None:
        if data.get("pid") != "raylet":
            printed(data, *arguments, **options)

    worker.print_to_stdstream = print_others


def _check_code(place: Place) -> None:
    """Raise UserError where a worker would compute something else than this process."""
    if place.code != hash_code():
        raise UserError(
            f"runner=ray: the worker on {place.host} has {place.code}, and this process "
            f"{hash_code()}: results would depend on who computes them; install the same on all "
            "machines, and start Ray there again"
        )

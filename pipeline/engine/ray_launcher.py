"""A launcher of Hydra that runs each job of a sweep as a task of a Ray cluster.

Hydra's own plugin for Ray needs cloudpickle below 3, which Ray's and joblib's present releases do
not, and the packages of a cloud, whose machines it starts. A job whose worker dies is run again by
Ray, and goes on from the shards that are there.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.core.plugins import Plugins
from hydra.core.singleton import Singleton
from hydra.core.utils import JobReturn, JobStatus, run_job, setup_globals
from hydra.plugins.launcher import Launcher

from pipeline.engine.launchers import python_path
from pipeline.runner.ray import connect


class RayLauncher(Launcher):
    """Runs the jobs of a sweep on a Ray cluster.

    Args:
        address: of the cluster: auto, the one that this machine belongs to; HOST:PORT; None: Ray is
            started on this machine, for this sweep.
        cpus: cores of a job, which also are its threads.
        gpus: GPUs of a job.
        retries: how often a job is run again whose worker or machine was lost.
    """

    __module__ = "hydra_plugins.label2box"  # Hydra takes launchers of hydra_plugins alone

    def __init__(
        self, address: str | None = None, cpus: float = 1, gpus: float = 0, retries: int = 3
    ) -> None:
        self.address, self.cpus, self.gpus, self.retries = address, cpus, gpus, retries
        self._context: Any = None
        self._function: Any = None
        self._config: Any = None

    def setup(self, *, hydra_context: Any, task_function: Any, config: Any) -> None:
        """Note the context of Hydra, the function of a job, and the configuration of the sweep."""
        self._context, self._function, self._config = hydra_context, task_function, config

    def launch(
        self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int
    ) -> Sequence[JobReturn]:
        """Run jobs on the cluster, and wait for all of them.

        Args:
            job_overrides: the overrides of each job.
            initial_job_idx: the number of the first.

        Returns:
            What Hydra notes of each job.

        Raises:
            UserError: no Ray cluster answers, or Ray cannot be started.
        """
        import ray

        setup_globals()
        if self.address is None:  # workers inherit it, and so import what this process can
            os.environ["PYTHONPATH"] = python_path()
        has_started_ray = connect("hydra.launcher", self.address, "hydra/launcher=joblib")
        try:
            options = {"num_cpus": self.cpus, "num_gpus": self.gpus, "max_retries": self.retries}
            run = ray.remote(_run_job).options(**options)
            state = {kind: each for kind, each in Singleton.get_state().items() if kind != Plugins}
            shared = ray.put((self._context, self._function, self._config, state))
            refs = [
                run.remote(shared, number, list(overrides))
                for number, overrides in enumerate(job_overrides, initial_job_idx)
            ]
            return [_wait_for_job(ref) for ref in refs]
        finally:
            if has_started_ray:
                ray.shutdown()


def _run_job(shared: tuple[Any, Any, Any, Any], number: int, overrides: list[str]) -> JobReturn:
    """Run a job in a worker, as Hydra's basic launcher does in its own process."""
    from omegaconf import open_dict

    context, function, config, state = shared
    setup_globals()
    Singleton.set_state(state)
    composed = context.config_loader.load_sweep_config(config, overrides)
    with open_dict(composed):
        composed.hydra.job.id = str(number)
        composed.hydra.job.num = number
    HydraConfig.instance().set_config(composed)
    return run_job(
        hydra_context=context,
        task_function=function,
        config=composed,
        job_dir_key="hydra.sweep.dir",
        job_subdir_key="hydra.sweep.subdir",
    )


def _wait_for_job(ref: Any) -> JobReturn:
    """Return what a job returned, or a failed job where its worker was lost too often."""
    import ray

    try:
        return ray.get(ref)
    except ray.exceptions.RayError as error:
        failed = JobReturn(status=JobStatus.FAILED)
        failed.return_value = error
        return failed

"""The command line: run the stages of a configuration, or reuse their results.

python -m pipeline +experiment=cam
"""

from __future__ import annotations

if __name__ == "__main__":  # before the imports, in which signals are to be answered, too
    from pipeline.launch import run

    run()
    raise SystemExit

import errno
import os
import sys
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.engine import interrupt, ranks, terminal
from pipeline.engine.choices import conf_folder
from pipeline.engine.early_interrupt import EXIT_CODE
from pipeline.engine.overrides import prepare_overrides, use_config_folder
from pipeline.errors import FailedJob, RefusedRun, UserError

if TYPE_CHECKING:  # with the store, cv2 and others that --help has no use for
    from pathlib import Path

    from pipeline.engine.run_folder import RunFolder


def go(config: Any, show_only: bool = False) -> RunFolder | None:
    """Run the stages of a composed configuration, and create the run's folder.

    Args:
        config: what Hydra composed.
        show_only: print the completed configuration, and run nothing.

    Returns:
        The run's folder; None where nothing was run, and in all ranks but rank 0.

    Raises:
        UserError: a value is wrong, or a stage cannot be run.
    """
    from omegaconf import OmegaConf

    from pipeline.engine import checkpoint
    from pipeline.engine.addresses import use_addresses
    from pipeline.engine.remote_limit import limit_copies
    from pipeline.engine.run import Run
    from pipeline.engine.run_folder import RunFolder
    from pipeline.engine.stage import find_stage, list_stages

    plain = OmegaConf.to_container(config, resolve=True, throw_on_missing=False, enum_to_str=True)
    assert isinstance(plain, dict)
    values = use_addresses({str(key): value for key, value in plain.items()})
    run = Run.of(values, _chosen_groups(), _overridden_keys())
    if show_only:
        import yaml

        terminal.print_line(yaml.safe_dump(dict(run.config), sort_keys=False).rstrip())
        return None
    stages = [name for name in list_stages() if name in run.config["stages"]]
    run.check_stages(stages)
    if run.config["checkpoint"] is not None:
        given, segmenter = Path(run.config["checkpoint"]), run.config["segmenter"]
        line = checkpoint.describe(given, run.classifier, list(run.methods), segmenter)
        terminal.print_line(line)
    jobs = [
        (stage, method)
        for stage in stages
        for method in (run.methods if find_stage(stage).per_method else [run.method])
    ]
    if ranks.current_world().rank > 0:  # only rank 0 creates the run's folder
        for stage, method in jobs:
            result, _ = run.for_method(method).get_or_create(stage)
            if why := find_stage(stage).refuse(run.for_method(method), result):
                raise RefusedRun(why)  # rank 0 ends there, too
        return None
    with RunFolder.new(run) as folder:
        for stage, method in jobs:
            result, reused = run.for_method(method).get_or_create(stage)
            names_method = len(run.methods) > 1 and find_stage(stage).per_method
            job = f"{stage} ({method})" if names_method else stage
            terminal.print_line(f"{job:<10} {'kept' if reused else 'made'}  {result}")
            folder.has_new_result |= not reused
            folder.publish(stage, method, result)
            notes = find_stage(stage).notes(run.for_method(method), result)
            folder.add_notes(stage, run.for_method(method).noted_method, notes)
            if why := find_stage(stage).refuse(run.for_method(method), result):
                folder.finish(is_complete=stage == stages[-1])
                raise RefusedRun(why)
        folder.finish()
    _limit_store(run.outputs, run.config["store"]["limit"])
    limit_copies(run.config["store"])
    return folder


def _limit_store(outputs: Path, limit: str | None) -> None:
    """Remove unused results, after a run, until the others fit into store.limit."""
    if limit is not None:
        from pipeline.engine.removal import limit_store

        if line := limit_store(outputs, limit):
            terminal.print_line(line)


def _chosen_groups() -> Mapping[str, str]:
    """Return the choice of each config group that Hydra composed."""
    from hydra.core.hydra_config import HydraConfig

    return {str(k): str(v) for k, v in HydraConfig.get().runtime.choices.items()}


def _list_overrides() -> list[str]:
    """Return the overrides of the command line for this job."""
    from hydra.core.hydra_config import HydraConfig

    return [str(override) for override in HydraConfig.get().overrides.task]


def _overridden_keys() -> list[str]:
    """Return the keys that the user gave."""
    return [override.lstrip("+~").partition("=")[0] for override in _list_overrides()]


def main() -> None:
    """Run the command line; print a UserError as a message without traceback, and exit with 2.

    The code is 1 where a stage ended the run on purpose, or a job of a sweep was killed.
    """
    import_from_current_folder()
    try:
        _run_command(sys.argv[1:])
    except (RefusedRun, FailedJob) as refusal:
        _fail(str(refusal), 1)
    except UserError as error:
        _fail(str(error), 2)
    except KeyboardInterrupt:
        interrupt.print_stopped()
        sys.exit(EXIT_CODE)
    except BrokenPipeError:  # the reader of a pipe has closed it, as `| head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(141)
    except OSError as error:
        message = disk_message(error)
        if message is None:
            raise
        _fail(message, 2)


def run_and_exit() -> None:
    """Run the command line in a process of its own, which signals stop."""
    with interrupt.handle_interrupts():
        try:
            main()
        except SystemExit as end:
            if end.code == EXIT_CODE:  # wait for no thread that computes on
                interrupt.end_process()
            raise


def _run_command(arguments: list[str]) -> None:
    """Run what the arguments of the command line ask for."""
    if arguments[:1] == ["clean"]:
        from pipeline.engine.clean import clean

        clean(arguments[1:])
        return
    if arguments[:1] == ["serve"]:
        from pipeline.engine.serve import serve
        from pipeline.stages.report.served_page import open_page

        serve(arguments[1:], open_page)
        return
    if "--version" in arguments:
        from pipeline.engine.store import describe_versions

        terminal.print_line(describe_versions())
        return
    if "--help" in arguments or "-h" in arguments:
        from pipeline.engine.help import help_text

        use_config_folder(arguments)
        terminal.print_line(help_text())
        return
    ranks.silence_nonzero_ranks()
    # With this Hydra raises its errors instead of printing them.
    os.environ["HYDRA_FULL_ERROR"] = "1"
    terminal.forget_notes()
    arguments, show_only = _remove_cfg_flag(arguments)
    sys.argv[1:] = prepare_overrides(arguments)
    _run_hydra(show_only)


def import_from_current_folder() -> None:
    """Let modules of the current folder be imported by the command label2box, too.

    `python -m pipeline` has that folder on its path already, unless python -P or PYTHONSAFEPATH
    says otherwise.
    """
    here = os.getcwd()
    if not sys.flags.safe_path and not {"", here} & set(sys.path):
        sys.path.insert(0, here)


def _remove_cfg_flag(arguments: list[str]) -> tuple[list[str], bool]:
    """Remove `--cfg job` from the arguments; return the others, and whether it was there.

    Hydra's own `--cfg job` would print the configuration without the defaults of the classes.
    """
    for flag in ("--cfg", "-c"):
        if flag in arguments and arguments[arguments.index(flag) + 1 :][:1] == ["job"]:
            place = arguments.index(flag)
            return arguments[:place] + arguments[place + 2 :], True
    return arguments, False


def _run_hydra(show_only: bool) -> None:
    """Let Hydra compose the configuration of each job, run the jobs, and print a sweep's table.

    Raises:
        UserError: the configuration is wrong, or a job cannot be run.
    """
    from pipeline.engine.launchers import check_launcher, register_launchers

    check_launcher(sys.argv[1:])
    import hydra
    from hydra.errors import HydraException
    from omegaconf.errors import OmegaConfBaseException

    from pipeline.engine.config import skeleton
    from pipeline.engine.overrides import explain_hydra_error
    from pipeline.engine.sweep import Sweep

    _store_skeleton(skeleton())
    register_launchers(sys.argv[1:])
    sweep = Sweep(partial(go, show_only=show_only), disk_message, sys.argv[1:])
    run = hydra.main(
        version_base="1.3", config_path=str(conf_folder().resolve()), config_name="config"
    )(sweep)
    with sweep.follow():
        try:
            run()
        except (HydraException, OmegaConfBaseException) as error:
            raise UserError(explain_hydra_error(error)) from error
    sweep.finish()


def _store_skeleton(options: type[Any]) -> None:
    """Register the typed skeleton with Hydra, unless it is registered already.

    Args:
        options: the dataclass of the configuration.
    """
    from hydra.core.config_store import ConfigStore
    from omegaconf import OmegaConf

    store, name = ConfigStore.instance(), "skeleton.yaml"
    if name not in store.repo or OmegaConf.get_type(store.repo[name].node) is not options:
        store.store(name=name, node=options)


DISK_ERRORS = {
    errno.ENOSPC: "the disk is full; free some space, and the same command goes on from here",
    errno.EDQUOT: "the disk quota is used up; free some space and give the same command",
    errno.EROFS: "the file system is read-only; outputs=DIR writes elsewhere",
    errno.EACCES: "no permission to write there; outputs=DIR writes elsewhere",
    errno.EPERM: "no permission to write there; outputs=DIR writes elsewhere",
}


def disk_message(error: OSError) -> str | None:
    """Return the message for an error of the disk, on a line; None for any other error."""
    if error.errno not in DISK_ERRORS:
        return None
    prefix = f"{error.filename}: " if error.filename else ""
    return f"{prefix}{DISK_ERRORS[error.errno]}"


def _fail(message: str, code: int) -> None:
    """Print an error message and exit with a code."""
    terminal.print_error(message)
    sys.exit(code)

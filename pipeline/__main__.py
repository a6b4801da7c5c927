"""The way through: for each stage of this run, reuse its folder or run it.

python -m pipeline +experiment=cam
"""

from __future__ import annotations

import errno
import os
import signal
import sys
from collections.abc import Mapping
from typing import Any

from pipeline.engine import ranks, terminal
from pipeline.engine.choices import conf_folder
from pipeline.engine.overrides import prepare_overrides, use_config_folder
from pipeline.engine.run_folder import RunFolder, format_summary
from pipeline.errors import UserError


def go(config: Any, show_only: bool = False) -> RunFolder | None:
    """Run the stages of one composed configuration, and lay out its run folder."""
    from omegaconf import OmegaConf

    from pipeline.engine.run import Run
    from pipeline.engine.stage import find_stage, list_stages

    plain = OmegaConf.to_container(config, resolve=True, throw_on_missing=False, enum_to_str=True)
    assert isinstance(plain, dict)
    run = Run.of({str(key): value for key, value in plain.items()}, _choices(), _named())
    if show_only:
        import yaml

        terminal.print_line(yaml.safe_dump(dict(run.config), sort_keys=False).rstrip())
        return None
    stages = [name for name in list_stages() if name in run.config["stages"]]
    run.check_stages(stages)
    if run.config["checkpoint"] is not None:
        terminal.print_line(run.of_checkpoint())
    if ranks.current_world().rank > 0:  # rank 0 lays out the run folder
        for stage in stages:
            for method in run.methods if find_stage(stage).per_method else [run.method]:
                run.for_method(method).get_or_create(stage)
        return None
    folder = RunFolder.new(run)
    try:
        for stage in stages:
            for method in run.methods if find_stage(stage).per_method else [run.method]:
                where, reused = run.for_method(method).get_or_create(stage)
                several = len(run.methods) > 1 and find_stage(stage).per_method
                named = f"{stage} ({method})" if several else stage
                terminal.print_line(f"{named:<10} {'kept' if reused else 'made'}  {where}")
                folder.publish(stage, method, where)
    except BaseException:
        folder.discard_if_empty()
        raise
    folder.finish()
    return folder


def _choices() -> Mapping[str, str]:
    from hydra.core.hydra_config import HydraConfig

    return {str(k): str(v) for k, v in HydraConfig.get().runtime.choices.items()}


def _named() -> list[str]:
    from hydra.core.hydra_config import HydraConfig

    given = HydraConfig.get().overrides.task
    return [str(one).lstrip("+~").partition("=")[0] for one in given]


def main() -> None:
    """The command line. A UserError is one clear message and exit code 2, never a traceback."""
    arguments = sys.argv[1:]
    import_from_current_folder()
    try:
        if "--help" in arguments or "-h" in arguments:
            from pipeline.engine.help import help_text

            use_config_folder(arguments)
            terminal.print_line(help_text())
            return
        # A scheduler's polite end is the user's Ctrl-C.
        signal.signal(signal.SIGTERM, signal.default_int_handler)
        ranks.silence_nonzero_ranks()
        # Hydra then raises what it would print its own way.
        os.environ["HYDRA_FULL_ERROR"] = "1"
        arguments, show_only = without_cfg(arguments)
        sys.argv[1:] = prepare_overrides(arguments)
        _hydra(show_only)
    except UserError as problem:
        _fail(str(problem), 2)
    except KeyboardInterrupt:
        _fail("stopped; the same command goes on from here", 130)
    except BrokenPipeError:  # whoever reads what we print has seen enough: | head
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(141)
    except OSError as error:
        message = disk_message(error)
        if message is None:
            raise
        _fail(message, 2)


def import_from_current_folder() -> None:
    """Let modules of the current folder be imported by the command label2box, too.

    `python -m pipeline` has that folder on its path already, unless python -P or PYTHONSAFEPATH
    says otherwise.
    """
    here = os.getcwd()
    if not sys.flags.safe_path and not {"", here} & set(sys.path):
        sys.path.insert(0, here)


def without_cfg(arguments: list[str]) -> tuple[list[str], bool]:
    """`--cfg job` shows the configuration with every default filled in, which Hydra's does not."""
    for flag in ("--cfg", "-c"):
        if flag in arguments and arguments[arguments.index(flag) + 1 :][:1] == ["job"]:
            place = arguments.index(flag)
            return arguments[:place] + arguments[place + 2 :], True
    return arguments, False


def _hydra(show_only: bool) -> None:
    import hydra
    from hydra.core.config_store import ConfigStore
    from hydra.core.hydra_config import HydraConfig
    from hydra.errors import HydraException
    from hydra.types import RunMode
    from omegaconf.errors import OmegaConfBaseException

    from pipeline.engine.config import skeleton
    from pipeline.engine.overrides import explain_hydra_error

    ConfigStore.instance().store(name="skeleton", node=skeleton())
    failed: list[Exception] = []
    done: list[tuple[list[str], RunFolder]] = []

    def job(config: Any) -> None:
        # Hydra announces what a job raises in its own words: keep it, and end the sweep.
        if failed:
            return
        overrides = [str(one) for one in HydraConfig.get().overrides.task]
        try:
            if HydraConfig.get().mode == RunMode.MULTIRUN:
                terminal.print_line(f"\n-- {' '.join(overrides)}")
            folder = go(config, show_only)
            if folder is not None:
                done.append((overrides, folder))
        except Exception as error:
            failed.append(error)

    try:
        hydra.main(
            version_base="1.3", config_path=str(conf_folder().resolve()), config_name="config"
        )(job)()
    except (HydraException, OmegaConfBaseException) as error:
        raise UserError(explain_hydra_error(error)) from error
    if len(done) > 1:
        terminal.print_line(f"\n{format_summary(done)}")
    if failed:
        raise failed[0]


DISK = {
    errno.ENOSPC: "the disk is full; free some space, and the same command goes on from here",
    errno.EDQUOT: "the disk quota is used up; free some space and give the same command",
    errno.EROFS: "the file system is read-only; outputs=DIR writes elsewhere",
    errno.EACCES: "no permission to write there; outputs=DIR writes elsewhere",
    errno.EPERM: "no permission to write there; outputs=DIR writes elsewhere",
}


def disk_message(error: OSError) -> str | None:
    """One line for what a disk can do to a run; None for any other error."""
    if error.errno not in DISK:
        return None
    where = f"{error.filename}: " if error.filename else ""
    return f"{where}{DISK[error.errno]}"


def _fail(message: str, code: int) -> None:
    terminal.print_error(message)
    sys.exit(code)


if __name__ == "__main__":
    main()

"""The image, the lock of its packages, and the files for Slurm and Ray clusters."""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from dockerfile_parse import DockerfileParser
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from scripts.containers.packages import read_lock, select_packages
from scripts.containers.packages_to_lock import list_packages
from tests.conftest import ROOT

FOLDER = ROOT / "scripts/containers"
LOCK = (ROOT / "requirements.lock").read_text(encoding="utf-8")
VERSIONS = dict(entry.split("==") for entry in read_lock(LOCK))


# -- requirements.lock


@pytest.mark.parametrize("requirement", list_packages(ROOT / "pyproject.toml"))
def test_each_dependency_is_locked_within_its_range(requirement: str) -> None:
    parsed = Requirement(requirement)
    version = VERSIONS.get(canonicalize_name(parsed.name))
    assert version is not None, f"{parsed.name} is not in requirements.lock: ./scripts/lock"
    assert parsed.specifier.contains(version), f"{requirement}: {version}; ./scripts/lock"


def test_each_package_has_hashes_and_one_version() -> None:
    names = [entry.partition("==")[0] for entry in read_lock(LOCK)]
    assert len(names) == len(set(names)) > 100
    for name, lines in read_lock(LOCK).items():
        assert re.fullmatch(r"[a-z0-9.-]+==[a-z0-9.+!]+", name), name
        first, *hashes = [line.strip(" \\") for line in lines.splitlines()]
        assert first == name
        assert hashes, name
        assert all(re.fullmatch(r"--hash=sha256:[0-9a-f]{64}", line) for line in hashes), name


def test_the_lock_names_no_address() -> None:
    assert not re.search(r"://|index-url|find-links|trusted-host|\s@\s|file:|\w/\w/", LOCK)


def test_which_packages_an_image_gets() -> None:
    everything = read_lock(select_packages(LOCK, "cuda"))
    assert everything == read_lock(LOCK)
    cpu = {name.partition("==")[0] for name in read_lock(select_packages(LOCK, "cpu"))}
    left_out = set(VERSIONS) - cpu
    assert {"torch", "torchvision", "triton"} < left_out
    assert all(name.startswith(("torch", "triton", "nvidia-", "cuda-")) for name in left_out)
    assert {"numpy", "hydra-core", "pillow", "hatchling"} <= cpu
    torch = f"torch=={VERSIONS['torch']} torchvision=={VERSIONS['torchvision']}"
    assert select_packages(LOCK, "torch") == torch


def test_a_wrong_choice_of_packages_is_refused() -> None:
    command = [sys.executable, str(FOLDER / "packages.py"), str(ROOT / "requirements.lock"), "gpu"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "cuda|cpu|torch" in done.stderr


# -- the image


@pytest.fixture(scope="module")
def instructions() -> list[tuple[str, str]]:
    """Each instruction of the Dockerfile with its value, comments left out."""
    parser = DockerfileParser(fileobj=(FOLDER / "Dockerfile").open("rb"))
    return [(each["instruction"], each["value"]) for each in parser.structure
            if each["instruction"] != "COMMENT"]  # fmt: skip


def test_what_the_image_copies_exists_and_is_not_ignored(
    instructions: list[tuple[str, str]],
) -> None:
    copied = [value.split()[:-1] for name, value in instructions if name == "COPY"]
    sources = [source for words in copied if not words[0].startswith("--from") for source in words]
    ignored = (ROOT / ".dockerignore").read_text(encoding="utf-8").split("\n")
    assert ignored[1] == "*"
    for source in sources:
        assert (ROOT / source).exists(), source
        assert f"!{source}" in ignored, source
    assert {line[1:] for line in ignored if line.startswith("!")} == set(sources)


def test_the_image_runs_as_a_user_and_names_no_address(
    instructions: list[tuple[str, str]],
) -> None:
    users = [value for name, value in instructions if name == "USER"]
    assert users == ["label2box"]
    last_run = max(n for n, (name, _) in enumerate(instructions) if name == "RUN")
    assert [name for name, _ in instructions[last_run:]].count("USER") == 1
    assert "://" not in (FOLDER / "Dockerfile").read_text(encoding="utf-8")
    assert ("ENTRYPOINT", '["label2box"]') in instructions
    assert ("ARG", "TORCH_INDEX=") in instructions


def test_the_image_is_set_up_as_scripts_install_does_it(
    instructions: list[tuple[str, str]],
) -> None:
    install = (ROOT / "scripts/install").read_text(encoding="utf-8")
    runs = [value for name, value in instructions if name == "RUN"]
    (system,) = [run for run in runs if "apt-get" in run]
    packages = re.findall(r"apt-get install -y -qq ([\w. -]+?) >", system)
    assert re.findall(r"apt-get install -y -qq ([\w. -]+?) >", install) == packages
    known = ("python -m venv ", "python packages.py ", "python -m pip install --quiet ",
             'if [ "$PLATFORM" = cpu ]; then python -m pip install ', "apt-get update ",
             "useradd ")  # fmt: skip
    assert all(run.startswith(known) for run in runs), runs
    for run in runs:
        subprocess.run(["sh", "-n", "-c", run], check=True)


def test_an_image_for_the_cpu_needs_an_index(
    instructions: list[tuple[str, str]], tmp_path: Path
) -> None:
    (torch,) = [value for name, value in instructions if "TORCH_INDEX:?" in value]
    for folder, name in ((FOLDER, "packages.py"), (ROOT, "requirements.lock")):
        (tmp_path / name).symlink_to(folder / name)
    environment = {**os.environ, "PLATFORM": "cpu", "TORCH_INDEX": ""}
    done = subprocess.run(["sh", "-c", torch], cwd=tmp_path, env=environment, check=False,
                          capture_output=True, text=True)  # fmt: skip
    assert done.returncode != 0
    assert "PLATFORM=cpu needs it" in done.stderr
    cuda = {**environment, "PLATFORM": "cuda"}
    assert subprocess.run(["sh", "-c", torch], cwd=tmp_path, env=cuda, check=True).returncode == 0


# -- Ray clusters and Slurm


def test_ray_accepts_the_cluster() -> None:
    pytest.importorskip("ray", reason="Ray is not installed")
    from ray.autoscaler._private.util import prepare_config, validate_config

    cluster = yaml.safe_load((FOLDER / "cluster.yaml").read_text(encoding="utf-8"))
    assert cluster["max_workers"] == len(cluster["provider"]["worker_ips"])
    validate_config(prepare_config(cluster))
    with pytest.raises(Exception, match="not_a_key"):
        validate_config(prepare_config({**cluster, "not_a_key": 1}))


def test_slurm_starts_what_is_there() -> None:
    script = (FOLDER / "ray.slurm").read_text(encoding="utf-8")
    (path,) = re.findall(r"^srun (\S+)", script, re.M)
    assert os.access(ROOT / path, os.X_OK)
    for name in ("ray.slurm", "ray_node"):
        subprocess.run(["bash", "-n", FOLDER / name], check=True)


@pytest.mark.parametrize("task", [0, 1])
def test_a_node_without_its_cluster_ends_with_a_message(task: int, tmp_path: Path) -> None:
    """`ray` is replaced by a command that starts nothing: no port opens."""
    (tmp_path / "ray").write_text("#!/bin/sh\nexec sleep 60\n")
    (tmp_path / "ray").chmod(0o755)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    settings = {"SLURM_PROCID": str(task), "SLURM_LAUNCH_NODE_IPADDR": "127.0.0.1",
                "RAY_PORT": str(port), "RAY_SECONDS": "1",
                "PATH": f"{tmp_path}{os.pathsep}{os.environ['PATH']}"}  # fmt: skip
    done = subprocess.run([FOLDER / "ray_node", "+experiment=cam"], env=os.environ | settings,
                          capture_output=True, text=True, timeout=50, check=False)  # fmt: skip
    assert done.returncode == 1
    assert f"no Ray at 127.0.0.1:{port} after 1 s" in done.stderr

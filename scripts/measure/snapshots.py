"""Show that the present tree computes what an old commit does: the same jobs in both, compared.

    ./scripts/snapshots [quick|all] [--old REV] [--only NAME[,NAME]]

Each job (snapshot_jobs.py) is run in a worktree of the old commit and in the present tree, on this
machine, in float32 with one thread; then every file of the two run folders is compared
(snapshot_compare.py). What may differ stands in ALLOWED, what has another name in RENAMED, and
nothing else may. One line for each job: `equal`, or the first differences; exit code 1 if any.

Worktrees and results of old commits are kept in $LABEL2BOX_SNAPSHOTS, or in a folder among the
system's temporary files: what was run once with the same arguments, inputs, packages and processor
is not run again. Nothing of the package is imported here.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import Literal

from filelock import FileLock

from scripts.measure.snapshot_compare import (
    Allowed,
    AllowedKind,
    Difference,
    Renamed,
    Rules,
    Side,
    compare_folders,
)
from scripts.measure.snapshot_jobs import COMMON, JOBS, Job, Overrides

# The commit before the package was rebuilt.
OLD_COMMIT = "cfb5144"

RUN_TIME = r"(?<=[a-z]/)\d{4}-\d\d-\d\d_\d\d-\d\d-\d\d(_\d+)?(?![\d_])"

# Maps that others made are scored at more kinds of threshold. The table has rows and columns for
# these; that its other cells are right is for the job cam to show, the numbers are compared here.
MAPS = "evaluate_maps"
KINDS: tuple[AllowedKind, ...] = ("removed", "added")
MAP_ADDITIONS: tuple[Allowed, ...] = (
    *(
        Allowed(
            "added", "*metrics.json", f"maps are scored at {kind} thresholds, too", where="[*]",
            having=(("name", name), ("threshold.kind", kind)), jobs=MAPS,
        )
        for name, kind in (
            ("gt_known_loc", "auto"), ("gt_known_loc", "validation"), ("pxiou", "fixed"),
            ("difference:gt_known_loc", "validation"),
        )
    ),
    Allowed(
        "added", "*comparison.json", "maps are compared at validation thresholds, too",
        where="differences[*]", jobs=MAPS,
        having=(("record.name", "difference:gt_known_loc"),
                ("record.threshold.kind", "validation")),
    ),
    *(
        Allowed(kind, files, "mean IoU names the threshold that it was compared at",
                where=where, having=((name, "difference:mean_iou"),), jobs=MAPS)
        for kind in KINDS
        for files, where, name in (("*metrics.json", "[*]", "name"),
                                   ("*comparison.json", "differences[*]", "record.name"))
    ),
    *(
        Allowed("value", "*table.json", "rows and columns of these thresholds", where=where,
                jobs=MAPS)
        for where in ("rows", "cards", "classes", "advice")
    ),
    Allowed("content", "*table.txt", "rows of these thresholds", jobs=MAPS),
)  # fmt: skip

# Every difference that may be between the old tree and the present one, each with its reason.
ALLOWED: tuple[Allowed, ...] = (
    Allowed("content", "*made_of.json", "what the key is made of: hashes of the source"),
    Allowed("content", "*cache_key.json", "the same under its new name"),
    Allowed("content", "*DONE", "time, seconds, commit and file sizes; the files are compared"),
    Allowed("value", "*card.json", "how long training took", where="seconds"),
    Allowed("value", "*card.json", "how long refining took", where="refine.seconds"),
    Allowed(
        "text", "*index.html", "when the page was made, and by which commit and version",
        where=r"(?<=<p>Made )\d{4}-\d\d-\d\d \d\d:\d\d by label2box [\w.+]+"
              r"|, commit [0-9a-f]{7,40}\+?(?=, PyTorch )",
    ),
    Allowed("text", "config.yaml", "the checkpoint's absolute path", where=r"^<work>(?=/outputs/)"),
    *(
        Allowed("text", files, "run folders are named by the time", where=RUN_TIME)
        for files in ("config.yaml", "*comparison.*", "*index.html")
    ),
    Allowed("text", "config.yaml", "stage score is evaluate", where="^(score|evaluate)$"),
    Allowed("added", "config.yaml", "stage export is new", where="export"),
    Allowed("added", "config.yaml", "stage onnx is new", where="onnx"),
    *(
        Allowed("added", "config.yaml", "components can be parted", where=f"segmenter.{name}")
        for name in ("parts", "depth")
    ),
    # One evaluator: what it adds.
    Allowed("added", "*metrics.json", "of which images a number is", where="[*].group"),
    *(
        Allowed("added", "*comparison.json", "the title that reports show", where=f"{each}.title")
        for each in ("[*].differences[*]", "differences[*]")
    ),
    Allowed("added", "*rows.safetensors", "images of rows, where others", where="metadata.ids_of"),
    Allowed("added", "*rows.safetensors", "pixels are compared between runs", where="pixels"),
    Allowed(
        "added", "*comparison.json", "pixels are compared between runs",
        where="[*].differences[*]", having=(("record.name", "difference:pxap"),),
    ),
    Allowed(
        "line", "*index.html", "pixels are compared between runs",
        where=r"<tr><td>PxAP</td><td>-?[\d.]+</td><td>-?[\d.]+ to -?[\d.]+</td><td>[\d.]+</td>",
    ),
    *MAP_ADDITIONS,
    # Every number says over how many images it is, and what it was computed with.
    *(
        Allowed("added", "*metrics.json", "what maps were computed with", where=f"[*].{field}")
        for field in ("precision", "device", "versions")
    ),
    Allowed("only_new", "*computed.json", "what maps were computed with"),
    Allowed("added", "audit.json", "what numbers were computed with", where="[*].computed"),
    Allowed("added", "stages/*audit.json", "what numbers were computed with", where="computed"),
    Allowed("content", "*audit.txt", "what numbers were computed with; audit.json has them"),
    Allowed("added", "*table.json", "what maps were computed with", where="computed"),
    Allowed("added", "*table.json", "whether images are annotated", where="has_annotations"),
    Allowed("line", "*index.html", "what maps were computed with", where=r"<p.*>float32 on .*"),
    Allowed("added", "config.yaml", "what an image without a map counts as", where="missing"),
    Allowed("value", "*table.json", "over how many images", where="head[0]"),
    Allowed("value", "*table.json", "rows over another number of images", where="rows[*].cells[0]"),
    Allowed("content", "*evaluate*/table.txt", "over how many images; table.json has the numbers"),
    Allowed("text", "*index.html", "over how many images", where=r"<th>percent[^<]*"),
    Allowed("text", "*index.html", "over how many images", where=r"(?:, n = \d+)?</td>"),
    *(
        Allowed("text", files, "over how many images", where=r"(?: over \d+ \w+)? \(95 %")
        for files in ("*comparison.*", "*index.html")
    ),
    # Nothing silent: what was not used is in files of its own, and results are marked.
    Allowed("only_new", "*.label2box-results", "marks folders of results"),
    Allowed("only_new", "notes.json", "the notes of the run"),
    Allowed("added", "*.safetensors", "which images have several pages", where="several"),
    Allowed("only_new", "*comparison.json", "comparisons of what others made", jobs="evaluate_*"),
    *(
        Allowed("value", "*comparison.json", "sentences say the sign and why no difference is told",
                where=where)
        for where in ("sentence", "differences[*].sentence", "[*].differences[*].sentence")
    ),
    Allowed("content", "stages/*/notes.json", "notes are objects with counts and names"),
    Allowed("only_new", "stages/*/notes.json", "stages that had no file of notes"),
    *(
        Allowed("added", "config.yaml", "options that are new", where=key)
        for key in ("evaluate.crowds", "data.range", "data.no_data", "data.crowds",
                    "data.val_folder", "model.classes")
    ),
    *(
        Allowed("added", "*predictions.json", "what strict readers of COCO ask for", where=key)
        for key in ("info.version", "info.contributor", "info.url", "info.year", "licenses",
                    "categories[*].supercategory", "annotations[*].segmentation",
                    "images[*].license")
    ),
    *(
        Allowed("added", "*card.json", "the check of a pretrained head", where=key)
        for key in ("head_check", "notes", "model.classes")
    ),
    Allowed("text", "*index.html", "notes", where=r"(?s)(?:<h2>Notes</h2>.*?)?<footer>"),
    Allowed(
        "text", "*index.html", "a link to the notes",
        where=r" <a href=\"\.\./notes\.json\">notes\.json</a>"
              r"|(?<!notes\.json</a>)(?= <a href=\"\.\./config)",
    ),
    *(
        Allowed("text", files, "words of the advice",
                where=r"At IoU 0\.5 (?:the curve|a threshold)[^<\"]*optimistic\.")
        for files in ("*index.html", "*table.json")
    ),
    Allowed("value", "*.safetensors", "why images are skipped", where="metadata.set_aside[*][1]"),
)  # fmt: skip

# What has another name in the present tree; what is compared is brought to the new names first.
RENAMED: tuple[Renamed, ...] = (
    Renamed("file", "made_of.json", "cache_key.json"),
    Renamed("file", "stages/score", "stages/evaluate"),
    Renamed("key", "saliency.look_again", "saliency.second_pass_margin", "*config.yaml"),
    Renamed("word", "set aside", "skipped", "*index.html"),
    Renamed("word", "found</span>", "predicted</span>", "*index.html"),
    Renamed("word", "boxes found that fit", "predicted boxes that fit", "*index.html"),
    Renamed("word", "to have found anything", "to be of use", "*index.html"),
    Renamed(
        "word",
        "in the mean with its teacher</span>",
        "averaged with its teacher&#39;s map</span>",
        "*index.html",
    ),
)

# Overrides of the old command line -> the same in the present tree: a key, or a whole key=value.
RENAMED_OVERRIDES: dict[str, str] = {}

ROOT = Path(__file__).resolve().parents[2]
SHARED = ROOT.parent / "shared" / "data"
PACKAGES = ("torch", "torchvision", "timm", "numpy", "numba", "opencv-python", "pillow",
            "pycocotools", "safetensors", "scipy")  # fmt: skip
SHOWN = 10  # differences of a job
TIME_LIMIT = 600  # seconds for one command
SideName = Literal["old", "new"]


class Failure(Exception):
    """A job that could not be run to its end."""


# -- the two trees --------------------------------------------------------------------------------


@dataclass(frozen=True)
class Tree:
    """A checkout to run jobs in, and the folder that their working folders lie in."""

    side: SideName
    root: Path
    work: Path

    def environment(self) -> dict[str, str]:
        """Return an environment in which this tree's package is the one that is imported."""
        threads = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
        fixed = {"PYTHONPATH": str(self.root), "CUDA_VISIBLE_DEVICES": ""}
        return {**os.environ, **dict.fromkeys(threads, "1"), **fixed}

    def check_import(self) -> None:
        """Raise Failure unless `pipeline` is imported from this tree."""
        code = "import pipeline; print(pipeline.__file__)"
        command = [sys.executable, "-c", code]
        with tempfile.TemporaryDirectory() as empty:
            run = subprocess.run(
                command, cwd=empty, env=self.environment(), capture_output=True, text=True
            )
        where = Path(run.stdout.strip() or "nothing")
        if not where.resolve().is_relative_to(self.root.resolve()):
            raise Failure(f"{self.root}: the package is imported from {where}\n{run.stderr}")


def cache_folder() -> Path:
    """Return the folder of what is kept between calls."""
    default = Path(tempfile.gettempdir()) / f"label2box-snapshots-{os.getuid()}"
    return Path(os.environ.get("LABEL2BOX_SNAPSHOTS", default)).resolve()


def git(*arguments: str, at: Path = ROOT) -> str:
    """Return what git prints. Raises Failure where it refuses."""
    run = subprocess.run(["git", "-C", str(at), *arguments], capture_output=True, text=True)
    if run.returncode:
        raise Failure(f"git {' '.join(arguments)}: {run.stderr.strip()}")
    return run.stdout.strip()


def old_tree(revision: str, cache: Path) -> Tree:
    """Return an unchanged worktree of a commit, made unless it is there already."""
    commit = git("rev-parse", "--verify", f"{revision}^{{commit}}")
    root = cache / "trees" / commit
    with lock(root):
        if not root.is_dir():
            git("worktree", "add", "--force", "--detach", str(root), commit)
    if git("rev-parse", "HEAD", at=root) != commit or git("status", "--porcelain", at=root):
        raise Failure(f"{root} is no longer the unchanged commit {commit}: remove the folder")
    return Tree("old", root, cache / "runs" / commit)


def lock(path: Path) -> FileLock:
    """Return a lock beside a path, so that two calls do not make it at the same time."""
    path.parent.mkdir(parents=True, exist_ok=True)
    return FileLock(path.with_name(f"{path.name}.lock"))


# -- running a job --------------------------------------------------------------------------------


@dataclass(frozen=True)
class Done:
    """A job that was run in one tree: its working folder, and the run folder of each command."""

    work: Path
    digest: str
    runs: Mapping[str, str]

    def last(self) -> Path:
        """Return the run folder of the last command."""
        return self.work / list(self.runs.values())[-1]


def run_job(name: str, job: Job, tree: Tree, after: Done | None) -> Done:
    """Run a job in a tree; of the old tree, use the result that is kept, if there is one."""
    with tempfile.TemporaryDirectory() as drawn:
        inputs = Path(drawn) / "inputs"
        inputs.mkdir()
        for make in job.inputs:
            make(inputs, SHARED)
        digest = digest_of(job, inputs, after)
        work = tree.work / f"{name}-{digest}" if tree.side == "old" else tree.work / name
        with lock(work):
            kept = work / "runs.json"
            if not kept.is_file():
                shutil.rmtree(work, ignore_errors=True)
                work.mkdir(parents=True)
                shutil.move(inputs, work / "inputs")
                if after is not None:
                    (work / "inputs" / "run").symlink_to(after.last())
                runs = {
                    step: run_step(step, given, tree, work) for step, given in job.steps.items()
                }
                kept.write_text(json.dumps(runs), encoding="utf-8")
    return Done(work, digest, json.loads(kept.read_text(encoding="utf-8")))


def digest_of(job: Job, inputs: Path, after: Done | None) -> str:
    """Return a hash of all that the result of a job in one commit can depend on."""
    files = {path.relative_to(inputs).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
             for path in sorted(inputs.rglob("*")) if path.is_file()}  # fmt: skip
    machine = [platform.platform(), processor(), platform.python_version(), package_versions()]
    parts = [job.steps, COMMON, files, after and after.digest, machine]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]


def processor() -> str:
    """Return the name of the processor, with what it can do: both choose how numbers are added."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="ascii", errors="replace").splitlines()
    except OSError:
        return platform.processor()
    return " ".join(sorted({line for line in lines if line.startswith(("model name", "flags"))}))


def package_versions() -> dict[str, str]:
    """Return the versions of the packages that compute."""
    versions = {}
    for name in PACKAGES:
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            versions[name] = "not installed"
    return versions


def run_step(step: str, overrides: Overrides, tree: Tree, work: Path) -> str:
    """Run one command. Returns its run folder, relative to the working folder."""
    given = [*overrides, *COMMON]
    if tree.side == "new":
        given = [new_override(override) for override in given]
    command = [sys.executable, "-m", "pipeline", *given]
    run = subprocess.run(
        command, cwd=work, env=tree.environment(), text=True, timeout=TIME_LIMIT,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip
    (work / f"terminal-{step}.txt").write_text(run.stdout, encoding="utf-8")
    latest = work / "outputs" / "latest"
    if run.returncode or not latest.is_dir():
        last_lines = "\n    ".join(run.stdout.strip().splitlines()[-15:])
        raise Failure(
            f"{step}, {tree.side} tree: exit code {run.returncode}\n    "
            f"python -m pipeline {' '.join(given)}\n    {last_lines}"
        )
    return latest.resolve().relative_to(work.resolve()).as_posix()


def new_override(override: str) -> str:
    """Return an override of the old command line as the present tree wants it."""
    if override in RENAMED_OVERRIDES:
        return RENAMED_OVERRIDES[override]
    key, equals, value = override.partition("=")
    return f"{RENAMED_OVERRIDES.get(key, key)}{equals}{value}"


# -- comparing ------------------------------------------------------------------------------------


def compare_job(
    old: tuple[Tree, Done, Done | None], new: tuple[Tree, Done, Done | None], rules: Rules
) -> tuple[int, list[Difference]]:
    """Compare the run folders of all commands of a job."""
    count, differences = 0, []
    if list(old[1].runs) != list(new[1].runs):
        differences.append(Difference(".", f"commands {list(old[1].runs)} != {list(new[1].runs)}"))
    if len({*new[1].runs.values()}) != len(new[1].runs):
        differences.append(Difference(".", "two commands have the same run folder"))
    for step in old[1].runs:
        files, of_step = compare_folders(side_of(*old, step), side_of(*new, step), rules)
        several = f"{step}/" if len(old[1].runs) > 1 else ""
        count += files
        differences += [Difference(f"{several}{d.file}", d.message, d.size) for d in of_step]
    return count, differences


def side_of(tree: Tree, done: Done, after: Done | None, step: str) -> Side:
    """Return the run folder of a command, with the paths that may stand in its files."""
    works = [job.work for job in (done, after) if job is not None]
    places = {str(path): "<work>" for work in works for path in (work, work.resolve())}
    places |= {str(path): "<tree>" for path in (tree.root, tree.root.resolve())}
    return Side(tree.side, done.work / done.runs[step], places)


def print_job(name: str, count: int, differences: Sequence[Difference]) -> None:
    """Print the line of a job, and its first differences."""
    if not differences:
        print(f"{name:<16} equal ({count} files)", flush=True)
        return
    print(f"{name:<16} {len(differences)} differences ({count} files)", flush=True)
    for difference in differences[:SHOWN]:
        print(f"    {difference}")
    if len(differences) > SHOWN:
        print(f"    and {len(differences) - SHOWN} more")
    largest = max(differences, key=lambda difference: difference.size)
    if largest.size > 0:
        print(f"    the largest difference of a number: {largest.size:g}, {largest}", flush=True)


# -- the command ----------------------------------------------------------------------------------


def run_all(names: Sequence[str], trees: Sequence[Tree], rules: Rules) -> bool:
    """Run jobs in both trees, print each as it is compared. Returns whether all are equal."""
    equal = True
    shown = dict.fromkeys(names)
    wanted = dict.fromkeys([*(after for name in names if (after := JOBS[name].after)), *names])
    with ThreadPoolExecutor(threads()) as pool:
        futures: dict[tuple[SideName, str], Future[Done]] = {}
        for name in wanted:  # what a job stands on is before it, so no thread waits for a later one
            for tree in trees:
                before = futures.get((tree.side, JOBS[name].after or ""))
                futures[tree.side, name] = pool.submit(run_after, name, tree, before)
        for name in shown:
            try:
                done = [(t, futures[t.side, name].result(), after_of(name, t, futures))
                        for t in trees]  # fmt: skip
                rules.job = name
                count, differences = compare_job(done[0], done[1], rules)
            except (Failure, subprocess.TimeoutExpired) as failure:
                count, differences = 0, [Difference("failed", str(failure))]
            print_job(name, count, differences)
            equal &= not differences
    return equal


def run_after(name: str, tree: Tree, before: Future[Done] | None) -> Done:
    """Run a job when the one that it stands on is done."""
    return run_job(name, JOBS[name], tree, before.result() if before is not None else None)


def after_of(
    name: str, tree: Tree, futures: Mapping[tuple[SideName, str], Future[Done]]
) -> Done | None:
    """Return what the job that this one stands on left in this tree."""
    after = JOBS[name].after
    return None if after is None else futures[tree.side, after].result()


def threads() -> int:
    """Return how many commands run at the same time; each has one thread of its own."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return min(4, cores or 1)


def runnable(names: Iterable[str]) -> list[str]:
    """Return the jobs that can be run here, and print why the others cannot."""
    possible = []
    for name in names:
        job = JOBS[name]
        if job.shared and not SHARED.is_dir():
            print(f"{name:<16} skipped: ../shared/data is not here")
        elif job.package is not None and find_spec(job.package) is None:
            print(f"{name:<16} skipped: the package {job.package} is not installed")
        else:
            possible.append(name)
    return possible


def chosen_jobs(which: str, only: str | None) -> list[str]:
    """Return the names of the jobs that the command line asks for."""
    if only is None:
        return [name for name, job in JOBS.items() if which == "all" or job.quick]
    names = only.split(",")
    if unknown := [name for name in names if name not in JOBS]:
        raise SystemExit(f"--only: no such job {', '.join(unknown)}; jobs: {', '.join(JOBS)}")
    return names


def print_allowed(rules: Rules) -> None:
    """Print which differences were allowed, and how often."""
    print("differences that were allowed:")
    for entry in rules.allowed:
        place = f"{entry.files} {entry.kind}"
        print(f"    {rules.used[entry]:>5} x {place:<22} {entry.reason}")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line. Returns 1 if there is any difference."""
    parser = argparse.ArgumentParser(prog="scripts/snapshots", description=__doc__.split("\n")[0])
    parser.add_argument("which", nargs="?", choices=("quick", "all"), default="quick")
    parser.add_argument("--old", default=OLD_COMMIT, metavar="REV", help="default: %(default)s")
    parser.add_argument("--only", metavar="NAME[,NAME]", help=f"of {', '.join(JOBS)}")
    options = parser.parse_args(arguments)
    names = runnable(chosen_jobs(options.which, options.only))
    started, rules = time.monotonic(), Rules(ALLOWED, RENAMED)
    work = Path(tempfile.mkdtemp(prefix="label2box-new-"))
    try:
        trees = [old_tree(options.old, cache_folder()), Tree("new", ROOT, work)]
        for tree in trees:
            tree.check_import()
        equal = run_all(names, trees, rules)
    except Failure as failure:
        print(failure, file=sys.stderr)
        return 1
    print_allowed(rules)
    spent = os.times()
    busy = spent.children_user + spent.children_system
    print(f"{time.monotonic() - started:.0f} s; the commands took {busy:.0f} s of processor time")
    if equal:
        shutil.rmtree(work)
        return 0
    print(f"what was compared is kept: {trees[0].work} (old), {work} (new)")
    return 1


if __name__ == "__main__":
    sys.exit(main())

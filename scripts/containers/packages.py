"""Print the packages of requirements.lock that an image needs.

python packages.py requirements.lock cuda     all, with their hashes
python packages.py requirements.lock cpu      without PyTorch and the libraries of CUDA
python packages.py requirements.lock torch    PyTorch's packages alone, as name==version on one line

Builds of PyTorch for the CPU come from another index and have other hashes than those of the lock.
It needs nothing but Python, as it runs before anything is installed.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

TORCH = ("torch", "torchvision")
CUDA = ("cuda-", "nvidia-", "triton")  # how the names of PyTorch's libraries begin
CHOICES = ("cuda", "cpu", "torch")


def read_lock(text: str) -> dict[str, str]:
    """Return the entries of a lock: the lines of each package, by its name==version.

    Args:
        text: what pip-compile wrote.
    """
    lines = [line for line in text.splitlines() if line and not line.lstrip().startswith("#")]
    entries: list[list[str]] = []
    for line in lines:
        if not line.startswith(" "):
            entries.append([])
        entries[-1].append(line)
    return {re.split(r"[ ;\\]", entry[0])[0]: "\n".join(entry) for entry in entries}


def select_packages(text: str, choice: str) -> str:
    """Return the lines of a lock that an image needs.

    Args:
        text: what pip-compile wrote.
        choice: one of CHOICES.
    """
    entries = read_lock(text)
    of_torch = [name for name in entries if name.partition("==")[0] in TORCH]
    if choice == "torch":
        return " ".join(of_torch)
    left_out = of_torch + [name for name in entries if name.startswith(CUDA)]
    chosen = [entry for name, entry in entries.items() if choice == "cuda" or name not in left_out]
    return "\n".join(chosen)


if __name__ == "__main__":
    if len(sys.argv) != 3 or sys.argv[2] not in CHOICES:
        sys.exit(f"usage: python packages.py LOCK {'|'.join(CHOICES)}")
    print(select_packages(Path(sys.argv[1]).read_text(encoding="utf-8"), sys.argv[2]))

"""Which keys of a configuration may be addresses, as s3://bucket/x, and what stands for them here.

data.root, data.shards, images   are read where they are
checkpoint                       is fetched into the folder of caches
outputs                          has a working folder here
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from pipeline.data.folder_index import find_cache
from pipeline.engine.remote_checkpoint import fetch_checkpoint
from pipeline.engine.remote_outputs import attach
from pipeline.engine.sizes import parse_size
from pipeline.errors import UserError
from pipeline.formats.file_cache import use_file_cache
from pipeline.formats.remote_errors import has_secrets, hide_secrets
from pipeline.formats.stored import is_address

PATHS = ("run", "runs", "against", "boxes", "annotations", "maps", "metadata", "corrections",
         "human_boxes")  # fmt: skip
"""Keys of files and folders that have to be on this machine."""

IMAGES = "images"  # in the folder of caches: images that were read at addresses


def use_addresses(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return a composed configuration in which a path on this machine stands for each address.

    Args:
        config: as plain values.

    Raises:
        UserError: an address holds a password, is where none can be, or cannot be reached.
    """
    for key, text in _walk("", config):
        if is_address(text) and has_secrets(text):
            raise UserError(
                f"{key}={hide_secrets(text)}: an address must not hold a user, a password or a "
                "signature, as it is written to config.yaml; credentials come from the environment"
            )
    for key in PATHS:
        for text in config[key] if isinstance(config[key], list) else [config[key]]:
            if is_address(text):
                raise UserError(
                    f"{key}={text}: expected a path on this machine; copy it from there first, or "
                    "give its place in the working folder that a run prints"
                )
    changed = dict(config)
    options = dict(config["store"] or {})
    folder = options.get("working_folder")
    _keep_images(options)
    if isinstance(config["outputs"], str):
        changed["outputs"] = attach(config["outputs"], folder)
    if is_address(config["checkpoint"]):
        changed["checkpoint"] = str(fetch_checkpoint(config["checkpoint"], folder))
    return changed


def _keep_images(options: Mapping[str, Any]) -> None:
    """Let images that are read at addresses be kept on this disk, where store.cache_images=true."""
    parent, limit = options.get("working_folder") or find_cache(), options.get("cache_limit")
    if not options.get("cache_images"):
        return
    size = parse_size(str(limit)) if limit is not None else None
    if parent is None or size is None:
        raise UserError(
            f"store.cache_images=true: store.cache_limit={limit} must be a size, as 20G, and "
            "without a folder of caches store.working_folder=DIR is needed"
        )
    use_file_cache(Path(parent, IMAGES).absolute(), size)


def _walk(key: str, node: Any) -> Iterator[tuple[str, str]]:
    """Yield all texts of a configuration with their keys."""
    if isinstance(node, Mapping):
        for name, value in node.items():
            yield from _walk(f"{key}.{name}".lstrip("."), value)
    elif isinstance(node, list | tuple):
        for value in node:
            yield from _walk(key, value)
    elif isinstance(node, str):
        yield key, node

"""Files of weights: tensors by name, read without running their code."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pipeline.errors import UserError


def read_weights(path: str | Path) -> dict[str, Tensor]:
    """Read a state dict from a .safetensors file or a torch.save file, without running its code.

    Args:
        path: the file. The state dict may lie under `state_dict`, `model_state_dict` or `model`,
            and its names may begin with `module.`.

    Returns:
        Tensors by name on the CPU; those of floats in float32.

    Raises:
        UserError: The file is not there, cannot be loaded safely, or holds anything but tensors by
            name.
    """
    path = Path(path)
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load

            state: Any = load(path.read_bytes())
        else:
            state = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise UserError(f"{path}: no such file of weights") from None
    except Exception as error:  # of pickle, zip or torch
        # Drop torch's advice, which is to trust the file.
        reason = str(error).strip().split("\n")[0].split("Re-running")[0].split(" (1)")[0][:200]
        raise UserError(
            f"{path}: not a file of weights that loads safely ({type(error).__name__}: {reason}). "
            "Expected tensors by name, as torch.save(network.state_dict(), FILE) or safetensors "
            "write them; a file that is cut short, or holds code or whole objects, is refused"
        ) from error
    for wrapping in ("state_dict", "model_state_dict", "model"):
        if isinstance(state, dict) and isinstance(state.get(wrapping), dict):
            state = state[wrapping]
    if not isinstance(state, dict) or not state:
        raise UserError(f"{path}: expected tensors by name (a state_dict), got {_kind(state)}")
    for name, tensor in state.items():
        plain = isinstance(tensor, Tensor) and tensor.layout == torch.strided
        if not isinstance(name, str) or not plain or tensor.is_quantized:
            raise UserError(
                f"{path}: expected tensors by name (a state_dict), got {_kind(tensor)} at {name!r}"
            )
    return {
        name.removeprefix("module."): tensor.float() if tensor.is_floating_point() else tensor
        for name, tensor in state.items()
    }


def _kind(value: Any) -> str:
    return "nothing" if isinstance(value, dict) and not value else f"a {type(value).__name__}"

"""Which device networks and predictors are trained on."""

from __future__ import annotations

import torch

from spaces.errors import InputError


def available_devices() -> tuple[str, ...]:
    """Every device of this machine that can train, best first."""
    found = [f"cuda:{i}" for i in range(torch.cuda.device_count())] if torch.cuda.is_available() else []
    if torch.backends.mps.is_available():
        found.append("mps")
    return (*found, "cpu")


def resolve_device(name: str) -> torch.device:
    """The device of `auto` (the first CUDA device, else mps, else the CPU), `cpu`, `cuda`, `cuda:1` or `mps`.

    Raises:
        InputError: if the name is none of these, or the machine has no such device.
    """
    available = available_devices()
    hint = f"give auto, or one of {', '.join(available)}"
    if name == "auto":
        return torch.device(available[0])
    kind, _, index = name.partition(":")
    if kind not in ("cpu", "cuda", "mps") or (":" in name and not (kind == "cuda" and index.isdecimal())):
        raise InputError(f"a device is auto, cpu, cuda, cuda:NUMBER or mps, got {name!r}", hint=hint)
    full = f"cuda:{int(index or 0)}" if kind == "cuda" else kind
    if full not in available:
        raise InputError(f"this machine has no device {name!r} that torch can use", hint=hint)
    return torch.device(full)


def on_device(tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
    """A tensor of the CPU on a device; a copy to a GPU does not wait for what the GPU still has to do."""
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor.to(device)

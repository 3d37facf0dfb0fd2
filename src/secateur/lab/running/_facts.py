"""Facts that stand beside every result: which software and machine, and what the network weighs."""

from __future__ import annotations

import platform
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from torch import nn

from secateur.masks import Masks


def machine(device: torch.device | None = None) -> dict[str, Any]:
    """Return versions, processor, threads and device as JSON-ready data."""
    return {
        "secateur": package_version("secateur"),
        "torch": str(torch.__version__),
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "cpu": cpu_name(),
        "threads": torch.get_num_threads(),
        "device": str(device or "cpu"),
        "accelerator": torch.cuda.get_device_name(device) if device is not None and device.type == "cuda" else None,
    }


def package_version(name: str) -> str | None:
    """Return the installed version of a package, None where it is not installed."""
    try:
        return version(name)
    except PackageNotFoundError:
        return None


@cache
def cpu_name() -> str:
    """Return the processor's name as the system knows it."""
    listing = Path("/proc/cpuinfo")
    if listing.exists():
        for line in listing.read_text(errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def sizes(model: nn.Module, masks: Masks | None) -> dict[str, int]:
    """Return the bytes of a model's parameters, dense and packed.

    Dense is 4 bytes (fp32) for every parameter. Packed stores 4 bytes for each weight kept, one bit per
    prunable weight to say where they sit (rounded up to bytes per tensor), and everything that was not
    prunable in fp32.

    >>> sizes(nn.Linear(8, 2, bias=False), None)
    {'dense': 64, 'packed': 64}
    """
    parameters = sum(parameter.numel() for parameter in model.parameters())
    if masks is None:
        return {"dense": 4 * parameters, "packed": 4 * parameters}
    positions = sum((layer.numel + 7) // 8 for layer in masks.layers())
    return {"dense": 4 * parameters, "packed": 4 * (parameters - masks.numel + masks.kept) + positions}

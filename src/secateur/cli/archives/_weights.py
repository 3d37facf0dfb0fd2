"""The tensors of a safetensors file, whoever wrote it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from secateur._base.errors import SecateurError
from secateur.cli.text import console

__all__ = ["weights"]


def weights(path: Path) -> Any:
    """The tensors of a safetensors file, of others' or of ours."""
    from safetensors import SafetensorError, safe_open
    from safetensors.torch import load_file

    from secateur._base.files import why_damaged
    from secateur.shrinking.files import read

    if path.suffix in {".pt", ".pth", ".bin", ".ckpt"}:
        raise SecateurError(
            f"{console.shown(path)} is a pickle, which may run a stranger's code: save the tensors alone, "
            "safetensors.torch.save_file(model.state_dict(), path)."
        )
    if (why := why_damaged(path)) is not None:
        raise SecateurError(f"{console.shown(path)} is damaged: {why}. Take another copy of it.")
    try:
        with safe_open(str(path), framework="pt") as file:
            ours = (file.metadata() or {}).get("format") == "secateur.model"
        if not ours:
            return load_file(path)
    except SafetensorError as problem:
        raise SecateurError(f"{console.shown(path)} is no safetensors file, or it is damaged: {problem}") from None
    content = read(path)
    if content.manifest is not None:
        raise SecateurError(
            f"{console.shown(path)} is shrunk already: secateur.load opens it, and shrink takes what it returns."
        )
    return content.state

"""A folder in the layout of Hugging Face: a causal language model by its own configuration, and the way back."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import nn

from secateur._base.errors import SecateurError
from secateur.masks import Masks

MASKS = "secateur_masks.safetensors"
_TOKENIZERS = ("tokenizer.json", "tokenizer.model", "tokenizer_config.json", "vocab.json", "vocab.txt", "spiece.model")


def _transformers() -> Any:
    try:
        import transformers  # pyright: ignore[reportMissingImports]
    except ModuleNotFoundError:
        raise SecateurError(
            "Reading a language model's folder needs transformers: pip install '.[hf]' in a clone of Secateur."
        ) from None
    return transformers


def opened(folder: Path | str) -> nn.Module:
    """The causal language model in a folder, in eval mode and in the precision in which it is stored.

    Nothing is asked of any network, and no code of the folder's own is run.

    Raises:
        SecateurError: no such folder, nothing in it that transformers knows, or transformers is not installed.
    """
    transformers = _transformers()
    path = _checked(folder)
    try:
        model = transformers.AutoModelForCausalLM.from_pretrained(path, local_files_only=True, dtype="auto")
    except (OSError, ValueError, KeyError) as problem:
        raise SecateurError(f"{path} holds no causal language model that transformers opens: {problem}") from problem
    return model.eval()


def config_in(folder: Path | str) -> Any:
    """The configuration in a folder, as transformers reads it.

    Raises:
        SecateurError: as `opened`.
    """
    transformers, path = _transformers(), _checked(folder)
    try:
        return transformers.AutoConfig.from_pretrained(path, local_files_only=True)
    except (OSError, ValueError, KeyError) as problem:
        raise SecateurError(f"{path} holds no causal language model that transformers opens: {problem}") from problem


def configured(folder: Path | str) -> nn.Module:
    """The causal language model that a folder's config.json speaks of, as transformers builds it, without its weights.

    Raises:
        SecateurError: as `opened`; a model whose weights are stored quantised, or in a type that is not said.
    """
    path, config = Path(folder), config_in(folder)
    if getattr(config, "quantization_config", None) is not None:
        raise SecateurError(f"{path} holds a quantised model: prune the one that it was made of.")
    if config.dtype is None:
        raise SecateurError(
            f'{path / "config.json"} does not say the type of the weights: add "dtype": "float32", or what they are '
            "stored in."
        )
    try:
        return _transformers().AutoModelForCausalLM.from_config(config, dtype=config.dtype)
    except (OSError, ValueError, KeyError) as problem:
        raise SecateurError(f"{path} holds no causal language model that transformers opens: {problem}") from problem


def _checked(folder: Path | str) -> Path:
    path = Path(folder)
    if not (path / "config.json").is_file():
        raise SecateurError(f"{path} holds no config.json: expected the folder of a Hugging Face language model.")
    return path


def tokenizer_in(folder: Path | str) -> Any:
    """The tokenizer in a folder; None where there is none (transformers would make an empty one)."""
    if not any((Path(folder) / name).is_file() for name in _TOKENIZERS):
        return None
    try:
        return _transformers().AutoTokenizer.from_pretrained(Path(folder), local_files_only=True)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, ImportError):
        return None


def written(model: Any, masks: Masks, folder: Path | str, *, tokenizer: Any = None) -> Path:
    """Write a pruned model, its tokenizer and its masks into a new folder, which `from_pretrained` opens again.

    Raises:
        SecateurError: there is something at that place already.
    """
    path = Path(folder)
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise SecateurError(f"{path} is there already: name a folder that is new or empty.")
    model.save_pretrained(path)
    if tokenizer is not None:
        tokenizer.save_pretrained(path)
    masks.save(path / MASKS)
    return path

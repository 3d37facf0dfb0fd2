"""From a network that binarisation has finished to one whose binary layers are bits."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from secateur._base import door
from secateur._base.arguments import refuse_sparsified, require_model
from secateur._base.behind import catch_up
from secateur._base.errors import SecateurError
from secateur.sparse.convert import Inputs, call, copy_with
from secateur.sparse.quantized._binary import BinaryLinear, why_not_binary

BINARISATION = "binarisation_report"


@dataclass(frozen=True)
class BinaryLayer:
    """One linear layer: its bits, or why it stays as it is.

    Attributes:
        name: its path in the model.
        shape: of its weight.
        why_not: why it is not packed; None: it is.
        bytes: of its weights as bits, with their scales; 0 where it is not packed.
    """

    name: str
    shape: tuple[int, ...]
    why_not: str | None
    bytes: int = 0

    def __str__(self) -> str:
        head = f"{self.name or 'the model'} [{' × '.join(map(str, self.shape))}]: "
        if self.why_not is not None:
            return f"{head}stays as it is: {self.why_not}"
        return f"{head}bits: {self.bytes / (4 * self.shape[0] * self.shape[1]):.3f} × dense float32"


@dataclass(frozen=True)
class BinarisationReport:
    """What `binarised` did, layer by layer; print it.

    Attributes:
        layers: one for each `nn.Linear`.
        through: the instructions that count bits: "vpopcntdq", "avx512", "avx2", "portable", or "torch".
    """

    layers: tuple[BinaryLayer, ...]
    through: str

    def __str__(self) -> str:
        return "\n".join([*map(str, self.layers), f"counted by {self.through}"])


def binarised(model: nn.Module, *, example_inputs: Inputs) -> nn.Module:
    """Return a copy of the model for inference whose binary layers compute by XNOR and popcount, with the same outputs.

    A `nn.Linear` becomes a `BinaryLinear` where its weights have one magnitude in each row (or are pruned: ternary),
    and where its inputs are +1 and −1 whenever it is called on `example_inputs`: what `methods.binarise` and
    `gates.BinaryActivation` leave. The first layer of a network, which reads real numbers, stays as it is, and so do
    convolutions. The counts are exact, and an input that is neither +1 nor −1 is refused later on.

    The copy does not train: its parameters want no gradients, and `train()` raises. The model passed in is left as it
    is. `secateur.densify` makes ordinary layers of it again.

    Args:
        model: a network that has been trained to its end (`pruner.finish()`).
        example_inputs: what the model is called with, as for `sparsify`: which layers read ±1 is seen, not guessed.

    Returns:
        The new model, in evaluation mode. `binarisation_of(model)` says which layers are bits.

    Raises:
        SecateurError: a model that is sparsified already, that does not run on `example_inputs`, or that has no such
            layer.

    >>> from secateur.gates import BinaryActivation
    >>> net = nn.Sequential(nn.Linear(3, 4), BinaryActivation(), nn.Linear(4, 2))
    >>> _ = net[2].weight.data.sign_()
    >>> print(binarisation_of(binarised(net, example_inputs=torch.randn(5, 3))).layers[0])
    0 [4 × 3]: stays as it is: in a row there are several magnitudes: methods.binarise ends in ±1
    """
    require_model(model, "binarised(model, example_inputs=...)")
    refuse_sparsified(model, "binarised")
    catch_up(model)
    real = _reading_numbers(model, example_inputs)
    swaps: dict[str, nn.Module] = {}
    lines = []
    for path, module in model.named_modules():
        if type(module) is not nn.Linear:
            continue
        why = why_not_binary(module) or real.get(path, "it is not called on `example_inputs`")
        made = None if why else BinaryLinear.from_dense(module)
        if made is not None:
            swaps[path] = made
        lines.append(BinaryLayer(path, tuple(module.weight.shape), why, made.bytes if made else 0))
    if not swaps:
        raise SecateurError(
            "`model` has no linear layer of ±1 that reads ±1:\n" + "\n".join(map(str, lines)) + "\nFinish a training "
            "under methods.binarise, with gates.BinaryActivation in the place of ReLUs, first."
        )
    new = copy_with(model, swaps).eval().requires_grad_(False)
    through = "torch" if door.native is None else door.native.binary_set()
    setattr(new, BINARISATION, BinarisationReport(tuple(lines), through))
    return new


def binarisation_of(model: nn.Module) -> BinarisationReport:
    """Return what `binarised` did to this model."""
    report = getattr(model, BINARISATION, None)
    if not isinstance(report, BinarisationReport):
        raise ValueError("the model was not made by secateur.sparse.binarised, so there is no report of it")
    return report


def _reading_numbers(model: nn.Module, inputs: Inputs) -> dict[str, str | None]:
    """Why each linear layer that is called is not binary for its inputs' sake; None where they are +1 and −1."""
    found: dict[str, str | None] = {}
    watched = copy_with(model, {}).eval()

    def watch(path: str) -> None:
        def note(module: nn.Module, args: tuple[Tensor, ...]) -> None:
            real = not args or not bool((args[0].abs() == 1).all())
            if real or path not in found:
                found[path] = "its inputs are not +1 and −1" if real else None

        watched.get_submodule(path).register_forward_pre_hook(note)

    for path, module in list(watched.named_modules()):
        if type(module) is nn.Linear:
            watch(path)
    try:
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            call(watched, inputs)
    except Exception as problem:  # whatever a user's forward raises: the inputs are what it was given
        raise SecateurError(
            f"`example_inputs`: {type(model).__name__} does not run on them: {type(problem).__name__}: {problem}. Give "
            "what you would call the model with: a tensor, a tuple of arguments, or a mapping of them by name."
        ) from problem
    return found

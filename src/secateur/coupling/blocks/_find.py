"""Finding residual blocks by what they compute: with all weights zero, a block is its shortcut, on any input."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

from secateur._base.arguments import refuse_sparsified, require_model
from secateur._base.behind import catch_up
from secateur._base.errors import SecateurError, UnfitModelError
from secateur.coupling.blocks._block import FUNCTION, ResidualBlock, function_of, lies_in
from secateur.coupling.copies import undisturbed

__all__ = ["CLOSE", "alike", "called", "cast", "residual_blocks", "result_of"]

_FAR = {"takes no tensor": 2, "gives out more than one tensor": 1}  # reasons that say less of what was looked for
_DRAWS = 2  # random inputs besides the model's own
CLOSE = {torch.float64: 1e-12, torch.float32: 1e-6}


def residual_blocks(
    model: nn.Module, *example_inputs: Any, kwargs: Mapping[str, Any] | None = None
) -> tuple[ResidualBlock, ...]:
    """Find the modules that are x + branch(x), or f(x + branch(x)): those that can go as a whole.

    A module is one where, with all its weights zero, it gives out its input, or a function of it that is a module of
    its own without weights (or a ReLU): on the input that it has in this forward, and on random ones. Of nested ones
    the innermost are taken. A block that normalises after the sum (BERT), projects its shortcut, changes the shape, or
    shares weights with others, is none.

    Args:
        model: the model; it stays as it is.
        *example_inputs: what its forward is called with.
        kwargs: what it is called with by name.

    Returns:
        The blocks, in the order in which they run.

    Raises:
        SecateurError: the model does not run with these inputs. UnfitModelError: it has no such block; says why the
            nearest are none.

    >>> from torch.nn import TransformerEncoder, TransformerEncoderLayer
    >>> layer = TransformerEncoderLayer(8, 2, 16, norm_first=True, batch_first=True)
    >>> net = TransformerEncoder(layer, 2, enable_nested_tensor=False)
    >>> [str(block) for block in residual_blocks(net, torch.zeros(1, 3, 8))]
    ['layers.0', 'layers.1']
    """
    require_model(model, "coupling.residual_blocks(model, *example_inputs)")
    refuse_sparsified(model, "`residual_blocks`")
    catch_up(model)
    if any(p.is_meta for p in model.parameters()):
        raise SecateurError("`model` must have values to run, got parameters on meta.")
    problem: Exception | None = None
    for dtype in CLOSE:
        look = _Look(copy.deepcopy(model).to(dtype).eval(), dtype)
        try:
            with undisturbed(model), torch.no_grad(), look.watching():
                look.model(*cast(example_inputs, dtype), **cast(dict(kwargs or {}), dtype))
        except Exception as error:  # whatever the user's code raises
            problem = error
            continue
        return look.blocks()
    raise SecateurError(
        f"`example_inputs` must be what the model is called with, but its forward raised {type(problem).__name__}: "
        f"{problem}."
    ) from problem


class _Look:
    """Tries each module before it runs, with zeros for weights."""

    def __init__(self, model: nn.Module, dtype: torch.dtype) -> None:
        self.model, self._dtype = model, dtype
        self._drawn = torch.Generator().manual_seed(0)
        self._verdicts: dict[str, ResidualBlock | str] = {}
        self._busy = False
        self._owners: dict[int, list[str]] = {}
        for name, parameter in model.named_parameters(remove_duplicate=False):
            self._owners.setdefault(id(parameter), []).append(name)

    @contextlib.contextmanager
    def watching(self) -> Iterator[None]:
        """Look at every module with a matrix of weights that the model calls."""
        handles = [
            module.register_forward_pre_hook(self._hook(path), with_kwargs=True)
            for path, module in self.model.named_modules()
            if path and any(p.ndim > 1 for p in module.parameters())
        ]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def blocks(self) -> tuple[ResidualBlock, ...]:
        found = [each for each in self._verdicts.values() if isinstance(each, ResidualBlock)]
        inner = [each for each in found if not any(lies_in(o.path, [each]) for o in found if o is not each)]
        if inner:
            return tuple(inner)
        near = {path: str(why) for path, why in self._verdicts.items() if next(self._children(path), None)}
        said = [f"{path} {why}" for path, why in sorted(near.items(), key=lambda each: _FAR.get(each[1], 0))]
        raise UnfitModelError(
            f"{type(self.model).__name__} has no residual block whose branch could go: "
            f"{'; '.join(said[:4]) or 'no module of it has modules of its own'}. Cut units instead: `l1_filters`."
        )

    def _children(self, path: str) -> Iterator[nn.Module]:
        return self.model.get_submodule(path).children()

    def _hook(self, path: str) -> Any:
        def look(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            if self._busy or isinstance(self._verdicts.get(path), str):
                return
            self._busy = True
            try:
                now = self._verdict(path, module, args, kwargs)
                known = self._verdicts.get(path, now)
                self._verdicts[path] = now if now == known else "is called in different ways"
            finally:
                self._busy = False

        return look

    def _verdict(
        self, path: str, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> ResidualBlock | str:
        inside = f"{path}."
        for parameter in module.parameters():
            if other := next((n for n in self._owners[id(parameter)] if not n.startswith(inside)), None):
                return f"shares weights with {other}"
        names = [""] if args and _is_signal(args[0]) else [n for n, value in kwargs.items() if _is_signal(value)]
        why = "takes no tensor"
        for name in names:
            found = self._as_block(path, module, args, kwargs, name)
            if isinstance(found, ResidualBlock):
                return found
            why = found
        return why

    def _as_block(
        self, path: str, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], name: str
    ) -> ResidualBlock | str:
        given: Tensor = kwargs[name] if name else args[0]
        tried = [given, *(self._random(given) for _ in range(_DRAWS))]
        pairs: list[tuple[Tensor, Tensor]] = []
        place, length = -1, 0
        zeros = {each: torch.zeros_like(parameter) for each, parameter in module.named_parameters()}
        for x in tried:
            try:
                out = called(module, zeros, args, kwargs, name, x)
            except Exception as error:
                return f"does not run alone ({type(error).__name__}: {str(error)[:80]})"
            found = result_of(out)
            if found is None:
                return "gives out more than one tensor"
            place, length, result = found
            if result.shape != x.shape:
                return "changes the shape of its input"
            pairs.append((x, result))
        leaves = [p for p, m in module.named_modules() if p and not list(m.children()) and not m.state_dict()]
        for after in ("", *leaves, FUNCTION):
            if self._explains(function_of(module, after), pairs):
                return ResidualBlock(path, name, after, place, length)
        return "gives out something else than its input where its weights are zero"

    def _explains(self, after: nn.Module | None, pairs: list[tuple[Tensor, Tensor]]) -> bool:
        try:
            return all(alike(x if after is None else after(x.clone()), out, self._dtype) for x, out in pairs)
        except Exception:  # a pooling that wants other inputs
            return False

    def _random(self, like: Tensor) -> Tensor:
        return torch.randn(like.shape, generator=self._drawn, dtype=torch.float64).to(like)


def called(
    module: nn.Module,
    weights: Mapping[str, Tensor],
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    name: str,
    x: Tensor,
) -> Any:
    """Call a module with other weights and x for its input; what it is given besides stays as it is."""
    args, kwargs = copy.deepcopy((args, kwargs))
    if name:
        kwargs[name] = x.clone()
    else:
        args = (x.clone(), *args[1:])
    return torch.func.functional_call(module, dict(weights), args, kwargs)


def alike(one: Tensor, other: Tensor, dtype: torch.dtype) -> bool:
    """Whether two tensors are equal, as far as a model of this type computes."""
    exact = other.dtype == one.dtype == dtype
    close = CLOSE[dtype] if exact else CLOSE[torch.float32]
    return one.shape == other.shape and bool((one - other).abs().max() <= close * other.abs().max())


def result_of(out: Any) -> tuple[int, int, Tensor] | None:
    """Place, length and the one tensor of what a module gives out."""
    if isinstance(out, Tensor):
        return -1, 0, out
    if type(out) not in (tuple, list):
        return None
    tensors = [k for k, each in enumerate(out) if isinstance(each, Tensor)]
    if len(tensors) != 1 or any(each is not None for k, each in enumerate(out) if k != tensors[0]):
        return None
    return tensors[0], len(out), out[tensors[0]]


def _is_signal(value: Any) -> bool:
    return isinstance(value, Tensor) and value.is_floating_point() and value.ndim > 1


def cast(tree: Any, dtype: torch.dtype) -> Any:
    """Return a tree with its floating-point tensors of another type."""

    def one(leaf: Any) -> Any:
        return leaf.to(dtype) if isinstance(leaf, Tensor) and leaf.is_floating_point() else leaf

    return tree_map(one, tree)

"""A conformance suite that any pruning method must pass, yours included: `check_method(my_method)`.

Like scikit-learn's `check_estimator`. Each check is a plain function that raises AssertionError with a sentence; run
them all at once, or parametrise your own tests over `CHECKS` and `MODELS`.
"""

from __future__ import annotations

import copy
import inspect
import re
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from secateur._base.errors import EmptyLayerWarning, SecateurError
from secateur.axes import Method
from secateur.masks import Masks, prunable
from secateur.measures import Needs
from secateur.pruning import prune
from secateur.selection import kept_count

Factory = Callable[[float], Method]


@dataclass(frozen=True)
class Case:
    """A small model with one batch for it."""

    model: nn.Module
    batch: tuple[Tensor, Tensor]


class _LastStep(nn.Module):
    """An LSTM that classifies by its last hidden state."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(6, 12, num_layers=2, batch_first=True)
        self.head = nn.Linear(12, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.lstm(x)[0][:, -1])


class _MeanToken(nn.Module):
    """A transformer encoder that classifies by the mean of its tokens; with dropout, so that it draws randomness."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Linear(6, 16)
        self.encoder = nn.TransformerEncoderLayer(16, 2, 24, dropout=0.1, batch_first=True)
        self.head = nn.Linear(16, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.encoder(self.embed(x)).mean(1))


def _mlp() -> nn.Module:
    return nn.Sequential(nn.Linear(10, 24), nn.ReLU(), nn.Linear(24, 16), nn.ReLU(), nn.Linear(16, 4))


def _conv() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1, bias=False),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(8, 12, 3),
        nn.BatchNorm2d(12),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(48, 4),
    )


_SHAPES = {"mlp": (10,), "conv_bn": (3, 8, 8), "lstm": (5, 6), "transformer": (5, 6)}
_BUILDERS: Mapping[str, Callable[[], nn.Module]] = {
    "mlp": _mlp,
    "conv_bn": _conv,
    "lstm": _LastStep,
    "transformer": _MeanToken,
}
#: Names of the models a method is checked on.
MODELS = tuple(_BUILDERS)


def case(name: str, *, seed: int = 0) -> Case:
    """Build one of the `MODELS` with a batch of 12, the same for the same seed. Global random state is untouched."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = _BUILDERS[name]()
        batch = (torch.randn(12, *_SHAPES[name]), torch.arange(12) % 4)
        nn.functional.cross_entropy(model(batch[0]), batch[1]).backward()  # gradients that must survive scoring
    return Case(model, batch)


def check_method(factory: Factory, *, density: float = 0.3) -> None:
    """Check that `factory(density)` is a well-behaved method, on an MLP, a conv+BN net, an LSTM and a transformer.

    Exact count, determinism under a generator, the model left exactly as found but for the zeros (modes, buffers,
    gradients, hooks, random state), keys unchanged, zeros where the masks say, an error that changes nothing, a value
    that can be hashed and printed, and a docstring with arXiv id and *Deviates:*.

    Raises:
        AssertionError: naming the check and the model.
    """
    for check in CHECKS:
        if "model" in inspect.signature(check).parameters:
            for model in MODELS:
                check(factory, density=density, model=model)
        else:
            check(factory, density=density)


def check_exact_count(factory: Factory, *, density: float, model: str) -> None:
    """κ = ⌊density·N + ½⌋ weights stay, no more and no fewer."""
    given = case(model)
    method = factory(density)
    masks = _prune(given, method)
    size = sum(p.numel() for p in prunable(given.model, biases=method.structure.biases).values())
    expected = kept_count(density, size)
    assert masks.numel == size, f"{model}: masks cover {masks.numel} weights, the prunable set has {size}"
    assert masks.kept == expected, f"{model}: {masks.kept} of {size} weights kept, expected exactly {expected}"


def check_deterministic(factory: Factory, *, density: float, model: str) -> None:
    """The same model, batch and generator seed give the same masks."""
    first, second = (_prune(case(model), factory(density)) for _ in range(2))
    assert first == second, f"{model}: two runs from the same seed give different masks"


def check_left_as_found(factory: Factory, *, density: float, model: str) -> None:
    """But for the zeros, nothing about the model or the global random state changes."""
    given = case(model)
    given.model.train()
    next(iter(given.model.children())).eval()  # a mixture of modes must come back as a mixture
    before = _Snapshot.of(given.model)
    state = torch.get_rng_state()
    _prune(given, factory(density))
    after = _Snapshot.of(given.model)
    assert torch.equal(state, torch.get_rng_state()), f"{model}: the global random state changed"
    for what in ("modes", "hooks", "requires_grad", "keys"):
        assert getattr(before, what) == getattr(after, what), f"{model}: {what} changed"
    for what in ("buffers", "grads"):
        old, new = getattr(before, what), getattr(after, what)
        assert old.keys() == new.keys(), f"{model}: {what} appeared or vanished"
        for name in old:
            assert torch.equal(old[name], new[name]), f"{model}: {what} of {name} changed"


def check_zeros(factory: Factory, *, density: float, model: str) -> None:
    """Weights are 0 where the mask is False; survivors and all other parameters keep their bits (without repair)."""
    given = case(model)
    method = factory(density)
    before = {name: p.detach().clone() for name, p in given.model.named_parameters()}
    masks = _prune(given, method)
    for name, parameter in given.model.named_parameters():
        mask = masks.get(name)
        kept = torch.ones_like(parameter, dtype=torch.bool) if mask is None else mask
        assert bool((parameter[~kept] == 0).all()), f"{model}: a pruned weight of {name} is not zero"
        if method.repair is None:
            assert torch.equal(parameter[kept], before[name][kept]), f"{model}: a surviving weight of {name} changed"


def check_refusal_changes_nothing(factory: Factory, *, density: float, model: str) -> None:
    """Without the batches it needs, a method raises an error that names them, and the model is untouched."""
    given = case(model)
    method = factory(density)
    if method.needs is Needs.NOTHING:
        return
    before = copy.deepcopy(given.model.state_dict())
    try:
        prune(given.model, method)
    except SecateurError as error:
        assert "batches" in str(error), f"{model}: the error does not name `batches`: {error}"
    else:
        raise AssertionError(f"{model}: the method needs {method.needs} but pruned without any batch")
    after = given.model.state_dict()
    assert all(torch.equal(before[key], after[key]) for key in before), f"{model}: a refused prune changed the model"


def check_value(factory: Factory, *, density: float) -> None:
    """A method is a value: hashable, printable, equal to one built the same way, and ends at the density asked for."""
    method, again = factory(density), factory(density)
    assert method == again and hash(method) == hash(again), "two methods built alike are not equal"
    assert method.name in repr(method) and method.name in str(method), "repr and str must contain the name"
    assert method.density == density, f"asked for density {density}, the schedule ends at {method.density}"


def check_docstring(factory: Factory, *, density: float) -> None:
    """The docstring names family, source with arXiv id, and where it deviates from the paper or its code."""
    text = inspect.getdoc(factory) or ""
    assert re.search(r"^Family: \w.*\.$", text, re.MULTILINE), "docstring lacks a line 'Family: at initialisation.'"
    assert re.search(r"arXiv \d{4}\.\d{4,5}", text), "docstring lacks the paper's arXiv id, as in 'arXiv 1810.02340'"
    assert "Deviates:" in text, "docstring lacks a 'Deviates:' note (write 'Deviates: none known.' if there is none)"


#: All checks, in the order in which `check_method` runs them.
CHECKS: tuple[Callable[..., None], ...] = (
    check_value,
    check_docstring,
    check_exact_count,
    check_deterministic,
    check_left_as_found,
    check_zeros,
    check_refusal_changes_nothing,
)


@dataclass(frozen=True)
class _Snapshot:
    """What must not change about a model."""

    modes: tuple[bool, ...]
    hooks: tuple[int, ...]
    requires_grad: tuple[bool, ...]
    keys: tuple[str, ...]
    buffers: dict[str, Tensor]
    grads: dict[str, Tensor]

    @classmethod
    def of(cls, model: nn.Module) -> _Snapshot:
        modules, parameters = list(model.modules()), dict(model.named_parameters())
        return cls(
            modes=tuple(module.training for module in modules),
            hooks=tuple(len(m._forward_hooks) + len(m._forward_pre_hooks) + len(m._backward_hooks) for m in modules)
            + tuple(len(p._backward_hooks or ()) for p in parameters.values()),
            requires_grad=tuple(p.requires_grad for p in parameters.values()),
            keys=tuple(model.state_dict()),
            buffers={name: buffer.clone() for name, buffer in model.named_buffers()},
            grads={name: p.grad.clone() for name, p in parameters.items() if p.grad is not None},
        )


def _prune(given: Case, method: Method) -> Masks:
    with _no_empty_layer_noise():
        return prune(given.model, method, [given.batch], generator=torch.Generator().manual_seed(1))


@contextmanager
def _no_empty_layer_noise() -> Iterator[None]:
    """Small models may lose a layer; that is no matter of conformance."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", EmptyLayerWarning)
        yield

"""Where evidence comes from: measures watch batches go through the model, and `gather` puts everything back.

A `Measure` is a frozen description; `begin` starts a `Collector` that is updated once per batch and computes one tensor
per prunable parameter. The same collectors serve offline (`gather`, which runs the batches itself) and online (a
`Pruner`, which shows them the gradients that training left behind).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn import functional as F

from secateur.errors import SecateurError
from secateur.preserve import preserved

Batch = tuple[Any, ...] | list[Any] | Mapping[str, Any] | Tensor
Loss = Callable[[Any, Any], Tensor]
Evidence = dict[str, Tensor]
Params = Mapping[str, nn.Parameter]


@dataclass
class Probe:
    """One batch seen through the model: what a collector may ask for. Nothing is computed before it is asked for.

    Attributes:
        model: the model, in the mode the measure asked for.
        params: the prunable parameters by name.
        batch: (inputs, targets), or a mapping of keyword arguments whose model output has a `.loss`; None online.
        loss: (output, target) → scalar.
        generator: source of randomness for measures that draw.
        pass_: which pass over the batches this is, from 0.
        given_grads: gradients that somebody else computed (a training step); then no batch is run.
    """

    model: nn.Module
    params: Params
    batch: Batch | None
    loss: Loss
    generator: torch.Generator | None = None
    pass_: int = 0
    given_grads: Evidence | None = None
    _grads: Evidence | None = field(default=None, repr=False)
    _grads_owned: bool = field(default=False, repr=False)

    def evaluate(self, *, temperature: float = 1.0) -> Tensor:
        """Return the scalar loss of the batch, with its graph; logits are divided by `temperature`."""
        batch = self.batch
        if isinstance(batch, Mapping):
            output = self.model(**batch)
            if temperature == 1.0 and getattr(output, "loss", None) is not None:
                return _scalar(output.loss)
            if "labels" not in batch:
                raise SecateurError("A mapping batch needs 'labels' or a model whose output has a `.loss`.")
            return _scalar(self.loss(output.logits / temperature, batch["labels"]))
        if not isinstance(batch, tuple | list) or len(batch) != 2:
            raise SecateurError(
                f"A batch must be (inputs, targets) or a mapping with labels, got {type(batch).__name__}. "
                "Scores of the loss need targets."
            )
        inputs, targets = batch
        output = self.model(inputs)
        return _scalar(self.loss(output if temperature == 1.0 else output / temperature, targets))

    @property
    def inputs(self) -> Any:
        """The model's input alone (the first element of a pair, all keyword arguments of a mapping)."""
        return self.batch[0] if isinstance(self.batch, tuple | list) else self.batch

    @property
    def grads(self) -> Evidence:
        """∂L/∂w of the batch for each prunable parameter, computed once and shared by all collectors."""
        if self.given_grads is not None:
            return self.given_grads
        if self._grads is None:
            tensors = list(self.params.values())
            with torch.enable_grad():
                found = torch.autograd.grad(self.evaluate(), tensors, allow_unused=True)
            self._grads = {
                name: torch.zeros_like(parameter) if grad is None else grad
                for (name, parameter), grad in zip(self.params.items(), found, strict=True)
            }
        return self._grads

    def own_grads(self) -> Evidence:
        """Like `grads`, but the caller may keep and overwrite them: the first caller gets the buffers, others copies."""
        if self.given_grads is None and not self._grads_owned:
            self._grads_owned = True
            return self.grads
        return {name: grad.clone() for name, grad in self.grads.items()}


@runtime_checkable
class Collector(Protocol):
    """Evidence in the making. `passes` says how often it wants to see the batches."""

    passes: int

    def update(self, probe: Probe) -> None:
        """Take in one batch."""
        ...

    def compute(self) -> Evidence:
        """Return one tensor per parameter; the tensors belong to the caller, who may overwrite them."""
        ...


Reduction = Callable[[Tensor], None]


def all_sum(tensor: Tensor) -> None:
    """Add the evidence of all ranks, in place: what a single process would have measured on all their batches."""
    dist.all_reduce(tensor)


def from_first_rank(tensor: Tensor) -> None:
    """Give every rank the evidence of rank 0, in place (for evidence that is drawn at random)."""
    dist.broadcast(tensor, src=0)


@dataclass(frozen=True)
class Measure:
    """A kind of evidence: what it is called in a score's signature, how it is collected, and what it needs.

    Attributes:
        name: the argument name by which a score asks for it.
        begin: parameters → a fresh `Collector`.
        needs: what a user must bring: "nothing", "inputs" (only their shape, for data-free measures) or "labels".
        train: mode of the model while measuring: True (batch statistics in BN), False (running statistics), or
            None (as found).
        reduction: how evidence is combined over ranks, in place; None where all ranks hold the same.
        online: whether the gradients that a training step left behind are enough, without a batch of its own.
    """

    name: str
    begin: Callable[[Params], Collector] = field(repr=False)
    needs: str = "labels"
    train: bool | None = None
    reduction: Reduction | None = field(default=all_sum, repr=False)
    online: bool = False


def observe(
    model: nn.Module,
    measures: Sequence[Measure],
    *,
    params: Params,
    generator: torch.Generator | None = None,
) -> dict[str, Evidence]:
    """Collect evidence from the gradients that the last training step left in `.grad`; no batch is run.

    Raises:
        SecateurError: a measure needs batches of its own.
    """
    found: dict[str, Evidence] = {}
    grads = {n: torch.zeros_like(p) if p.grad is None else p.grad.detach() for n, p in params.items()}
    for measure in measures:
        check_online(measure)
        collector = measure.begin(params)
        collector.update(Probe(model, params, None, F.cross_entropy, generator, given_grads=grads))
        found[measure.name] = collector.compute()
    return found


def check_online(measure: Measure) -> None:
    """Raise unless `measure` can be served by a training step's own gradients."""
    if not (measure.online or measure.needs == "nothing"):
        raise SecateurError(
            f"{measure.name!r} cannot be measured from a training step's gradients. Pass `batches` to the Pruner."
        )


def gather(
    model: nn.Module,
    batches: Iterable[Batch] | None,
    measures: Sequence[Measure],
    *,
    params: Params,
    loss: Loss | None = None,
    generator: torch.Generator | None = None,
) -> dict[str, Evidence]:
    """Run `batches` through `model` and return the evidence of every measure: `{measure: {parameter: tensor}}`.

    Afterwards the model is as it was found: train/eval mode of every module, buffers (BN running statistics), gradients,
    requires_grad flags and the global random state are restored, whether or not an error was raised on the way.
    Under torch.distributed the evidence is combined over all ranks, so every rank must call.

    Args:
        model: the model, unwrapped.
        batches: (inputs, targets) pairs or mappings; moved to the model's device. None if no measure needs any.
        measures: what to collect; two measures of one name are an error.
        params: the prunable parameters by name.
        loss: (output, target) → scalar; cross-entropy by default.
        generator: for measures that draw random numbers.

    Raises:
        SecateurError: a measure needs batches and there are none, or the loss is not a finite scalar.
    """
    names = [measure.name for measure in measures]
    if len(set(names)) != len(names):
        raise SecateurError(f"Each measure may be gathered once, got {names}.")
    _check_batches(batches, measures)
    found: dict[str, Evidence] = {}
    for train in dict.fromkeys(measure.train for measure in measures):
        group = [measure for measure in measures if measure.train is train]
        collectors = [measure.begin(params) for measure in group]
        with preserved(model, params, train=train):
            _run(model, batches, collectors, params, loss or F.cross_entropy, generator)
            for measure, collector in zip(group, collectors, strict=True):
                found[measure.name] = _reduced(collector.compute(), measure.reduction)
    return found


def _run(
    model: nn.Module,
    batches: Iterable[Batch] | None,
    collectors: Sequence[Collector],
    params: Params,
    loss: Loss,
    generator: torch.Generator | None,
) -> None:
    device = next(iter(params.values())).device
    for current in range(max(collector.passes for collector in collectors)):
        active = [collector for collector in collectors if collector.passes > current]
        count = 0
        for batch in _on(device, batches) if batches is not None else [None]:
            probe = Probe(model, params, batch, loss, generator, current)
            for collector in active:
                collector.update(probe)
            count += 1
        if count == 0:
            raise SecateurError("`batches` is empty: expected at least one batch. Is the loader exhausted?")


def _on(device: torch.device, batches: Iterable[Batch]) -> Iterator[Batch]:
    """Move every tensor of a batch to `device`."""

    def move(value: Any) -> Any:
        if isinstance(value, Tensor):
            return value.to(device)
        if isinstance(value, Mapping):
            return {key: move(item) for key, item in value.items()}
        if isinstance(value, tuple | list):
            return type(value)(move(item) for item in value) if type(value) in (tuple, list) else value
        return value

    for batch in batches:
        yield move(batch)


def _check_batches(batches: Iterable[Batch] | None, measures: Sequence[Measure]) -> None:
    if batches is not None:
        if isinstance(batches, Tensor) or (isinstance(batches, tuple) and len(batches) == 2 and _is_pair(batches)):
            raise SecateurError("`batches` must be a list of batches, got a single one. Did you mean batches=[batch]?")
        return
    for measure in measures:
        if measure.needs != "nothing":
            what = "(inputs, targets) pairs" if measure.needs == "labels" else "inputs, of which only the shape is used"
            raise SecateurError(
                f"This method measures {measure.name!r} and needs `batches`: a list of {what}. "
                "For example batches=[next(iter(loader))]."
            )


def _is_pair(batches: tuple[Any, ...]) -> bool:
    return all(isinstance(item, Tensor) for item in batches)


def _reduced(evidence: Evidence, reduction: Reduction | None) -> Evidence:
    if reduction is not None and dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1:
        for tensor in evidence.values():
            reduction(tensor)
    return evidence


def _scalar(loss: Tensor) -> Tensor:
    if loss.numel() != 1:
        raise SecateurError(f"`loss` must return a scalar, got shape {tuple(loss.shape)}. Take its mean.")
    if not torch.isfinite(loss.detach()).all():
        raise SecateurError(f"The loss of a scoring batch is {loss.item()}: scores would be meaningless. Check the batch.")
    return loss.reshape(())


@contextmanager
def swapped(params: Params, values: Mapping[str, Tensor]) -> Iterator[None]:
    """Let the parameters hold other values for a while (masked ones, absolute ones); the originals come back bit by bit.

    Only the storage behind each parameter is exchanged, so every module, tied or fused (RNN), sees the new values.
    """
    original = {name: params[name].data for name in values}
    try:
        for name, value in values.items():
            params[name].data = value
        yield
    finally:
        for name, data in original.items():
            params[name].data = data

"""One network dense, masked and sparse, side by side on this machine."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.optim import SGD, Optimizer

from secateur.holding import hold
from secateur.masks import Masks
from secateur.sparse.convert._sparsify import sparsify
from secateur.sparse.layers._linear import SparseLinear
from secateur.sparse.layers._onednn import OneDnnLinear, onednn_available
from secateur.sparse.layers._recurrent import SparseRecurrent
from secateur.sparse.measured._machine import Machine
from secateur.sparse.measured._timing import interleaved
from secateur.sparse.steps._compile import compile_step, why_no_fused_step

__all__ = ["Row", "compare"]

Parameters = Iterable[nn.Parameter]


@dataclass(frozen=True)
class Row:
    """One way to run the network. Times are medians in seconds; None where it does not apply.

    Attributes:
        name: what was run.
        step: one training step on the batch given: forward, loss, backward, update.
        latency_1: inference of one sample.
        latency_128: inference of 128 samples.
        parameter_bytes: the parameters, as stored while training.
        training_bytes: parameters, gradients, optimizer state and the indices of sparse weights together.
        note: why a figure is missing.
    """

    name: str
    step: float | None
    latency_1: float | None
    latency_128: float | None
    parameter_bytes: int
    training_bytes: int
    note: str = ""


@dataclass(frozen=True, eq=False)
class _Subject:
    """A way to run the network, ready to be timed."""

    name: str
    step: Callable[[], object]
    predict: Callable[[Tensor], Tensor] | None
    model: nn.Module
    optimizer: Optimizer
    parameter_bytes: int | None = None
    training_bytes: int | None = None


def sgd(parameters: Parameters) -> Optimizer:
    """Make the optimizer of the SNIP paper's MNIST runs: momentum 0.9."""
    return SGD(parameters, lr=1e-3, momentum=0.9)


def compare(
    model: nn.Module,
    masks: Masks,
    inputs: Tensor,
    targets: Tensor,
    *,
    optimizer: Callable[[Parameters], Optimizer] = sgd,
    seconds: float = 3.0,
    compiled: bool = False,
    machine: Machine | None = None,
) -> list[Row]:
    """Measure a network dense (torch's and the best), masked, sparsified and fused, interleaved.

    Args:
        model: any model; it is copied, never changed.
        masks: what survives.
        inputs: one training batch, [batch, …]. Inference takes its samples, repeated as needed.
        targets: class numbers for the batch, [batch].
        optimizer: makes the optimizer from parameters.
        seconds: about how long each of the three comparisons may take.
        compiled: also measure `torch.compile`, which may take minutes to compile.
        machine: measurements for `sparsify`; this machine's by default.
    """
    subjects, refused = _subjects(model, masks, inputs, targets, optimizer, compiled, machine)
    steps = interleaved({s.name: s.step for s in subjects}, seconds=seconds)
    latency = {n: _latencies(subjects, inputs, n, seconds / 2) for n in (1, 128)}
    rows = [
        Row(
            s.name,
            steps[s.name],
            latency[1].get(s.name),
            latency[128].get(s.name),
            _parameter_bytes(s.model) if s.parameter_bytes is None else s.parameter_bytes,
            _training_bytes(s.model, s.optimizer) if s.training_bytes is None else s.training_bytes,
        )
        for s in subjects
    ]
    if refused is not None:
        rows.append(Row("fused", None, None, None, 0, 0, refused))
    return rows


def _subjects(
    model: nn.Module,
    masks: Masks,
    inputs: Tensor,
    targets: Tensor,
    make: Callable[[Parameters], Optimizer],
    compiled: bool,
    machine: Machine | None,
) -> tuple[list[_Subject], str | None]:
    bare = copy.deepcopy(model)
    found = [_eager("dense, torch", copy.deepcopy(bare), inputs, targets, make)]
    if onednn_available():
        found.append(_eager("dense, oneDNN", _through_onednn(copy.deepcopy(bare)), inputs, targets, make))
    if compiled:
        whole: nn.Module = torch.compile(copy.deepcopy(bare))  # type: ignore[assignment]
        found.append(_eager("dense, torch.compile", whole, inputs, targets, make))
    masked = copy.deepcopy(bare)
    hold(masked, masks)
    found.append(_eager("masked", masked, inputs, targets, make))
    fast = sparsify(bare, masks, batch=max(1, len(inputs)), machine=machine)
    found.append(_eager("sparsified", fast, inputs, targets, make))
    fused = copy.deepcopy(bare)
    optimizer = make(fused.parameters())
    refused = why_no_fused_step(fused, masks, cross_entropy, optimizer)
    if refused is None:
        step = compile_step(fused, masks, cross_entropy, optimizer)
        subject = _Subject(
            "fused", lambda: step(inputs, targets), step.predict, fused, optimizer,
            step.parameter_bytes, step.training_bytes,
        )  # fmt: skip
        found.append(subject)
    return found, refused


def _eager(
    name: str, model: nn.Module, inputs: Tensor, targets: Tensor, make: Callable[[Parameters], Optimizer]
) -> _Subject:
    optimizer = make(model.parameters())

    def step() -> None:
        optimizer.zero_grad()
        cross_entropy(model(inputs), targets).backward()
        optimizer.step()

    return _Subject(name, step, model, model, optimizer)


def _through_onednn(model: nn.Module) -> nn.Module:
    for module in model.modules():
        if type(module) is nn.Linear:
            module.__class__ = OneDnnLinear
    return model


def _latencies(subjects: list[_Subject], inputs: Tensor, samples: int, seconds: float) -> dict[str, float]:
    repeats = -(-samples // len(inputs))
    x = inputs.repeat(repeats, *[1] * (inputs.dim() - 1))[:samples].contiguous()
    for subject in subjects:
        subject.model.eval()
    with torch.no_grad():
        return interleaved(
            {s.name: (lambda p=s.predict: p(x)) for s in subjects if s.predict is not None}, seconds=seconds
        )


def _parameter_bytes(model: nn.Module) -> int:
    return sum(p.numel() * p.element_size() for p in model.parameters())


def _training_bytes(model: nn.Module, optimizer: Optimizer) -> int:
    state = sum(
        value.numel() * value.element_size()
        for slots in optimizer.state.values()
        for value in slots.values()
        if isinstance(value, Tensor)
    )
    indices = sum(m.plan.index_bytes for m in model.modules() if isinstance(m, SparseLinear))
    indices += sum(p.index_bytes for m in model.modules() if isinstance(m, SparseRecurrent) for p in m.plans)
    return 2 * _parameter_bytes(model) + state + indices

"""One network dense, masked and sparse, side by side on this machine."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.optim import SGD, Optimizer

from secateur.holding import hold
from secateur.masks import Masks
from secateur.sparse.convert import sparsify
from secateur.sparse.layers import OneDnnLinear, SparseLinear, SparseRecurrent, onednn_available
from secateur.sparse.measured import Machine
from secateur.sparse.steps import compile_step, why_no_fused_step
from secateur.sparse.timing import interleaved

Parameters = Iterable[nn.Parameter]


@dataclass(frozen=True)
class BenchRow:
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
    """A way to run the network, ready to be timed. `sizes`: bytes of its parameters and of all that training keeps."""

    name: str
    step: Callable[[], object]
    predict: Callable[[Tensor], Tensor]
    model: nn.Module
    sizes: Callable[[], tuple[int, int]]


def sgd(parameters: Parameters) -> Optimizer:
    """Make the optimizer of the SNIP paper's MNIST runs: momentum 0.9."""
    return SGD(parameters, lr=1e-3, momentum=0.9)


def bench(
    model: nn.Module,
    masks: Masks,
    inputs: Tensor,
    targets: Tensor,
    *,
    optimizer: Callable[[Parameters], Optimizer] = sgd,
    seconds: float = 3.0,
    compiled: bool = False,
    machine: Machine | None = None,
) -> list[BenchRow]:
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
    models = _models(model, masks, inputs, compiled, machine)
    subjects = [_eager(name, one, inputs, targets, optimizer(one.parameters())) for name, one in models.items()]
    fused = copy.deepcopy(model)
    updates = optimizer(fused.parameters())
    refused = why_no_fused_step(fused, masks, cross_entropy, updates)
    if refused is None:
        step = compile_step(fused, masks, cross_entropy, updates)
        trained = partial(step, inputs, targets)
        subjects.append(
            _Subject("fused", trained, step.predict, fused, lambda: (step.parameter_bytes, step.training_bytes))
        )
    steps = interleaved({s.name: s.step for s in subjects}, seconds=seconds)
    one, many = (_latencies(subjects, inputs, samples, seconds / 2) for samples in (1, 128))
    rows = [BenchRow(s.name, steps[s.name], one[s.name], many[s.name], *s.sizes()) for s in subjects]
    return rows if refused is None else [*rows, BenchRow("fused", None, None, None, 0, 0, refused)]


def _models(
    model: nn.Module, masks: Masks, inputs: Tensor, compiled: bool, machine: Machine | None
) -> dict[str, nn.Module]:
    """Copy the model in each way that runs in an ordinary loop."""
    models = {"dense, torch": copy.deepcopy(model)}
    if onednn_available():
        models["dense, oneDNN"] = _through_onednn(copy.deepcopy(model))
    if compiled:
        models["dense, torch.compile"] = torch.compile(copy.deepcopy(model))  # type: ignore[assignment]
    models["masked"] = copy.deepcopy(model)
    hold(models["masked"], masks)
    models["sparsified"] = sparsify(model, masks, example_inputs=inputs, machine=machine)
    return models


def _eager(name: str, model: nn.Module, inputs: Tensor, targets: Tensor, optimizer: Optimizer) -> _Subject:
    def step() -> None:
        optimizer.zero_grad()
        cross_entropy(model(inputs), targets).backward()
        optimizer.step()

    def sizes() -> tuple[int, int]:
        return _parameter_bytes(model), _training_bytes(model, optimizer)

    return _Subject(name, step, model, model, sizes)


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
        return interleaved({s.name: partial(s.predict, x) for s in subjects}, seconds=seconds)


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

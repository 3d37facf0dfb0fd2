"""compile_step: a whole training step of a feed-forward chain in one native call."""

from __future__ import annotations

from collections.abc import Callable
from math import prod
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from secateur._base import door
from secateur._base.errors import SecateurError
from secateur.masks import Masks
from secateur.sparse.plans._linear import LayerPlan, plan_layer
from secateur.sparse.programs._chain import Chain, chain_of
from secateur.sparse.programs._network import is_network
from secateur.sparse.programs._recurrent import is_recurrent_network
from secateur.sparse.programs._trace import UnsupportedError
from secateur.sparse.steps._base import CompiledStep, refuse_inputs, refuse_targets
from secateur.sparse.steps._compact import compact
from secateur.sparse.steps._network import NetworkStep, supported_network
from secateur.sparse.steps._optimizers import refuse_optimizer, steps_of
from secateur.sparse.steps._recurrent import RecurrentStep, supported_recurrent
from secateur.sparse.steps._slices import Loss, Slice, make_slice, refuse_loss, refuse_parameter

__all__ = ["FusedStep", "compile_step", "why_no_fused_step"]

#: Layers that keep more than this are left to the engine as single weights even if they consist of whole blocks: it
#: multiplies them as full matrices, which beats blocks from here on (measured with LeNet-300-100 on one core).
_BLOCKS_BELOW = 0.6


def compile_step(
    model: nn.Module, masks: Masks, loss: Loss, optimizer: Optimizer
) -> FusedStep | NetworkStep | RecurrentStep:
    """Compile forward, loss, gradients and update of a masked feed-forward network into one native call.

    The step trains what `hold(model, masks)` and an ordinary loop would train, weight for weight within float
    tolerance: the surviving weights and the biases. They live in the engine; `write_back` brings model and
    optimizer up to date, `read_back` takes up what was loaded into them.

    Args:
        model: (flatten →) Linear → ReLU → … → Linear, as a Sequential or any model that traces to it; or a
            network of convolutions, batch normalisation, ReLU, pooling, residual sums and linear layers, which
            gives a `NetworkStep`; or (linear →) LSTM or GRU → last state → linear, which gives a `RecurrentStep`.
        masks: of the linear weights; a layer without a mask keeps all of its weights. Zeros are written over
            the pruned weights of `model`.
        loss: `torch.nn.functional.cross_entropy`, or an `nn.CrossEntropyLoss` with default options.
        optimizer: `torch.optim.SGD`, `Adam` or `AdamW` over exactly the model's parameters. Its options are
            read at every step, so learning-rate schedulers work; its `step` is not called.

    Raises:
        UnsupportedError: anything that would have to be approximated, with the reason.
        MaskError: masks that do not fit, or weights that are NaN or infinite.

    >>> model = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))
    >>> masks = Masks({"0.weight": torch.eye(3, 4) > 0})
    >>> why_no_fused_step(model, masks, nn.MSELoss(), torch.optim.SGD(model.parameters(), lr=0.1))
    '`loss` must be cross_entropy or a CrossEntropyLoss with default options, got MSELoss()'
    """
    if is_recurrent_network(model):
        classifier = supported_recurrent(model, masks, loss, optimizer)
        masks.apply_(model)
        return RecurrentStep(model, masks, optimizer, classifier)
    if is_network(model) or _masks_biases(model, masks):
        program = supported_network(model, masks, loss, optimizer)
        masks.apply_(model)
        return NetworkStep(model, masks, optimizer, program)
    chain = _supported(model, masks, loss, optimizer)
    masks.apply_(model)
    return FusedStep(model, masks, optimizer, chain)


def why_no_fused_step(model: nn.Module, masks: Masks, loss: Loss, optimizer: Optimizer) -> str | None:
    """Return why `compile_step` would refuse these, or None if it would not. Changes nothing."""
    supported: Callable[[nn.Module, Masks, Loss, Optimizer], object] = _supported
    if is_recurrent_network(model):
        supported = supported_recurrent
    elif is_network(model) or _masks_biases(model, masks):
        supported = supported_network
    try:
        supported(model, masks, loss, optimizer)
    except SecateurError as error:
        return str(error)
    return None


def _masks_biases(model: nn.Module, masks: Masks) -> bool:
    """Tell whether biases are pruned, as SNIP's own protocol does: only a network's step trains such chains."""
    return any(parameter.dim() == 1 for parameter in masks.parameters(model).values())


def _supported(model: nn.Module, masks: Masks, loss: Loss, optimizer: Optimizer) -> Chain:
    if door.native is None:
        raise UnsupportedError(f"the compiled kernels are not in use: {door.why_not}")
    owned = masks.parameters(model)
    chain = chain_of(model)
    weights = {id(layer.weight) for layer in chain.layers}
    for name, parameter in owned.items():
        if id(parameter) not in weights:
            raise UnsupportedError(f"{name!r} is masked but is not the weight of a linear layer in the chain")
    refuse_loss(loss)
    names = {id(p): n for n, p in model.named_parameters()}
    for key, name in names.items():
        if key not in {id(p) for layer in chain.layers for p in layer.parameters()}:
            raise UnsupportedError(f"the parameter {name!r} is not part of the chain")
    for layer in chain.layers:
        for parameter in layer.parameters():
            refuse_parameter(names[id(parameter)], parameter)
    refuse_optimizer(optimizer, names)
    steps_of(optimizer, list(model.parameters()))
    return chain


class FusedStep(CompiledStep):
    """A compiled training step; call it with a batch. Made by `compile_step`."""

    def __init__(self, model: nn.Module, masks: Masks, optimizer: Optimizer, chain: Chain) -> None:
        super().__init__(model, masks, optimizer)
        self._flattens, self._layers = chain.flattens, chain.layers
        self._features = chain.layers[0].in_features
        self._plans, pieces = _cut(chain, masks.parameters(model), masks, len(self._slots))
        self._slices = [piece for piece in pieces if piece is not None]
        self._engine = self._build(pieces)
        self.read_back()

    def __call__(self, x: Tensor, targets: Tensor) -> float:
        """Take one optimizer step on a batch; return its mean loss, computed before the update.

        Args:
            x: float32 on the CPU, [batch, …].
            targets: class numbers, int64, [batch].
        """
        x, samples = self._check(x, targets)
        self._send_options()
        loss = self._engine.step(x.data_ptr(), self._features, targets.data_ptr(), samples, torch.get_num_threads())
        self._note_step()
        return loss

    @property
    def training_bytes(self) -> int:
        """Bytes of weights, optimizer state and indices, with the full matrices of layers that keep most of theirs."""
        own = sum(len(piece.places) * (4 + 4 * len(piece.state) + 8) for piece in self._slices)
        return own + sum(plan.index_bytes for plan in self._plans) + self._engine.full_bytes

    @torch.no_grad()
    def predict(self, x: Tensor) -> Tensor:
        """Return the outputs for a batch with the weights as they are now, [batch, classes]."""
        x = self._inputs(x)
        out = x.new_empty((x.shape[0], self._plans[-1].rows))
        self._engine.predict(x.data_ptr(), self._features, x.shape[0], out.data_ptr(), torch.get_num_threads())
        return out

    @property
    def _trained(self) -> list[Slice]:
        return self._slices

    def _take_up(self, steps: int) -> None:
        self._engine.steps = steps

    def _build(self, pieces: list[Slice | None]) -> Any:
        native = door.native
        assert native is not None, "_supported has looked"
        engine = native.FusedStep([plan.layer for plan in self._plans])
        groups = self._group_of()
        for i, piece in enumerate(pieces):
            if piece is None:  # a layer without a bias
                rows = self._plans[i // 2].rows
                engine.add_parameter(0, 0, 0, rows, rows, 0)
                continue
            addresses = [t.data_ptr() for t in piece.state] + [0, 0]
            group = groups[id(piece.parameter)]
            engine.add_parameter(piece.value.data_ptr(), *addresses[:2], piece.active, len(piece.places), group)
        return engine

    def _check(self, x: Tensor, targets: Tensor) -> tuple[Tensor, int]:
        self._refuse_outside_changes()
        x = self._inputs(x)
        samples = x.shape[0]
        if samples == 0:
            raise SecateurError("the batch is empty; a step needs at least one sample")
        refuse_targets(targets, samples)
        return x, samples

    def _inputs(self, x: Tensor) -> Tensor:
        refuse_inputs(x)
        shape = x.shape
        flat = len(shape) == 2 or (len(shape) > 2 and self._flattens)
        if not flat or prod(shape[1:]) != self._features:
            raise SecateurError(f"the inputs must be [batch, {self._features}], got the shape {tuple(shape)}")
        # A step takes microseconds, so that even a reshape to the same shape is worth leaving out.
        if len(shape) != 2:
            x = x.reshape(shape[0], self._features)
        return x if x.is_contiguous() else x.contiguous()


def _cut(
    chain: Chain, owned: dict[str, nn.Parameter], masks: Masks, slots: int
) -> tuple[tuple[LayerPlan, ...], list[Slice | None]]:
    """Plan the layers without their idle units; return the plans, and weight and bias of each layer in turn."""
    by_id = {id(parameter): masks[name] for name, parameter in owned.items()}
    full = [by_id.get(id(layer.weight), torch.ones_like(layer.weight, dtype=torch.bool)) for layer in chain.layers]
    plans: list[LayerPlan] = []
    pieces: list[Slice | None] = []
    for layer, small in zip(chain.layers, compact(full), strict=True):
        plan = plan_layer(small.mask, blocks=float(small.mask.float().mean()) < _BLOCKS_BELOW)
        plans.append(plan)
        places = torch.cat([small.weights.reshape(-1)[plan.positions], small.idle_weights])
        pieces.append(make_slice(layer.weight, places, plan.kept, slots))
        rows = torch.cat([small.rows, small.idle_rows])
        pieces.append(None if layer.bias is None else make_slice(layer.bias, rows, plan.rows, slots))
    return tuple(plans), pieces

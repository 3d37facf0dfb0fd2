"""Masks of whole 4 × 1 blocks: their kernels against float64 dense torch and against those for single weights."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Iterator
from itertools import pairwise

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.optim import SGD

from secateur import Masks, densify, hold, methods, prune, sparsify
from secateur._base import door
from secateur.axes.structure import blocks
from secateur.sparse import SparseLinear, compile_step, report_of
from secateur.sparse.calls import sparse_chain
from secateur.sparse.measured import Machine
from secateur.sparse.plans import LayerPlan, plan_layer, whole_blocks
from secateur.sparse.programs._network import program_of
from secateur.sparse.steps._compact import CompactLayer, compact

NATIVE = door.native
ENGINES = ["torch"] if NATIVE is None else [*NATIVE.supported_isas(), "torch"]
BATCHES = [1, 2, 15, 16, 17, 33, 64, 100, 128, 129, 300]
SETTINGS = settings(
    max_examples=50,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.differing_executors],
)


@pytest.fixture(params=ENGINES)
def engine(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Run a test with each instruction set, and without the kernels."""
    if request.param == "torch":
        monkeypatch.setattr(door, "native", None)
        yield "torch"
        return
    assert NATIVE is not None
    before = NATIVE.isa()
    NATIVE.use_isa(request.param)
    yield request.param
    NATIVE.use_isa(before)


def block_mask(rows: int, columns: int, density: float, generator: torch.Generator) -> Tensor:
    """Random blocks of four rows, some columns empty; rows that fill no group of four are random by themselves."""
    groups = -(-rows // 4)
    mask = (torch.rand(groups, columns, generator=generator) < density).repeat_interleave(4, 0)[:rows]
    mask[:, torch.rand(columns, generator=generator) < 0.2] = False
    whole = rows - rows % 4
    mask[whole:] = torch.rand(rows - whole, columns, generator=generator) < density
    if rows >= 4 and not mask[:whole].any():
        mask[:4, 0] = True
    return mask


def run_chain(
    plans: list[LayerPlan], x: Tensor, weights: list[Tensor], biases: list[Tensor], dy: Tensor, threads: int
) -> list[Tensor]:
    """The output, that of a single sample, and the gradients: of the input, the dense weights and the biases."""
    values = [plan.gather(w).requires_grad_() for plan, w in zip(plans, weights, strict=True)]
    leaves = [x.requires_grad_(), *values, *(b.requires_grad_() for b in biases)]
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        y = sparse_chain(x, tuple(plans), tuple(values), tuple(biases))
        dx, *grads = torch.autograd.grad(y, leaves, dy)
        with torch.no_grad():
            single = sparse_chain(x[-1:], tuple(plans), tuple(values), tuple(biases))
    finally:
        torch.set_num_threads(before)
    dense = [plan.scatter(g) for plan, g in zip(plans, grads, strict=False)]
    return [y.detach(), single, dx, *dense, *grads[len(plans) :]]


def exact_chain(
    masks: list[Tensor], x: Tensor, weights: list[Tensor], biases: list[Tensor], dy: Tensor
) -> list[Tensor]:
    z = x.detach().double().requires_grad_()
    leaves = [z]
    full = [w.double().requires_grad_() for w in weights]
    shifts = [b.detach().double().requires_grad_() for b in biases]
    for i, (mask, w, b) in enumerate(zip(masks, full, shifts, strict=True)):
        z = z @ (w * mask).t() + b
        z = torch.relu(z) if i + 1 < len(masks) else z
    grads = torch.autograd.grad(z, [*leaves, *full, *shifts], dy.double())
    return [z.detach(), z[-1:].detach(), *grads]


def assert_close(found: list[Tensor], expected: list[Tensor], tolerance: float = 2e-5) -> None:
    for got, want in zip(found, expected, strict=True):
        assert got.shape == want.shape
        scale = max(1.0, float(want.abs().max())) if want.numel() else 1.0
        torch.testing.assert_close(got.double(), want.double(), rtol=0.0, atol=tolerance * scale)


def check_chain(masks: list[Tensor], batch: int, threads: int, generator: torch.Generator) -> None:
    plans = [plan_layer(mask, blocks=True) for mask in masks]
    assert [plan.blocks for plan in plans] == [len(mask) >= 4 for mask in masks]
    x = torch.randn(batch, masks[0].shape[1], generator=generator)
    weights = [torch.randn(mask.shape, generator=generator) for mask in masks]
    biases = [torch.randn(len(mask), generator=generator) for mask in masks]
    dy = torch.randn(batch, len(masks[-1]), generator=generator)
    found = run_chain(plans, x, weights, biases, dy, threads)
    assert_close(found, exact_chain(masks, x, weights, biases, dy))
    singles = [plan_layer(mask) for mask in masks]
    assert_close(found, run_chain(singles, x, weights, biases, dy, threads))


@SETTINGS
@given(
    rows=st.integers(1, 70),
    columns=st.integers(1, 70),
    batch=st.sampled_from(BATCHES),
    density=st.sampled_from([0.0, 0.02, 0.1, 0.3, 1.0]),
    threads=st.sampled_from([1, 2, 3]),
    seed=st.integers(0, 2**31),
)
def test_one_layer(engine: str, rows: int, columns: int, batch: int, density: float, threads: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    check_chain([block_mask(rows, columns, density, generator)], batch, threads, generator)


@SETTINGS
@given(
    widths=st.lists(st.integers(4, 40), min_size=3, max_size=5),
    batch=st.sampled_from(BATCHES),
    density=st.sampled_from([0.05, 0.3, 1.0]),
    threads=st.sampled_from([1, 2, 5]),
    seed=st.integers(0, 2**31),
)
def test_chains_with_relu_between(
    engine: str, widths: list[int], batch: int, density: float, threads: int, seed: int
) -> None:
    generator = torch.Generator().manual_seed(seed)
    check_chain([block_mask(o, i, density, generator) for i, o in pairwise(widths)], batch, threads, generator)


def test_wide_layers_are_cut_into_blocks_of_columns(engine: str) -> None:
    generator = torch.Generator().manual_seed(1)
    mask = block_mask(11, 4000, 0.2, generator)
    assert len(plan_layer(mask, blocks=True).edges) > 2
    check_chain([mask], 65, 2, generator)
    check_chain([block_mask(302, 784, 0.05, generator)], 100, 2, generator)


def test_storage_order() -> None:
    mask = torch.zeros(6, 3, dtype=torch.bool)
    mask[:4, 2] = mask[:4, 0] = mask[5, 1] = True
    plan = plan_layer(mask, blocks=True)
    assert plan.positions.tolist() == [0, 3, 6, 9, 2, 5, 8, 11, 16]
    assert torch.equal(plan.mask(), mask)
    again = pickle.loads(pickle.dumps(plan))
    assert again.blocks and torch.equal(again.positions, plan.positions)
    assert not plan_layer(mask).blocks and not plan_layer(mask[1:], blocks=True).blocks


@pytest.mark.skipif(NATIVE is None, reason="needs the compiled kernels")
@pytest.mark.parametrize(
    "positions", [[0, 3, 6, 10], [3, 6, 9, 12], [0, 3, 6], [2, 5, 8, 11, 0, 3, 6, 9], [0, 3, 6, 9, 18], [-3, 0, 3, 6]]
)
def test_bounds_are_checked_when_a_plan_is_made(positions: list[int]) -> None:
    with pytest.raises(ValueError, match="sorted by block of columns, group of four rows and column"):
        LayerPlan(6, 3, torch.tensor(positions), torch.tensor([0, 3]), True)


def test_blocks_take_fewer_indices() -> None:
    mask = torch.ones(400, 100, dtype=torch.bool)
    single, fours = plan_layer(mask), plan_layer(mask, blocks=True)
    assert fours.index_bytes < single.index_bytes / 3


def network() -> nn.Sequential:
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(30, 42), nn.ReLU(), nn.Linear(42, 20), nn.ReLU(), nn.Linear(20, 10))


def masks_of(model: nn.Module, density: float) -> Masks:
    generator = torch.Generator().manual_seed(2)
    return Masks({n: block_mask(*p.shape, density, generator) for n, p in model.named_parameters() if p.dim() == 2})


@pytest.mark.parametrize("density", [0.3, 0.03])
def test_sparsify_takes_blocks_and_gives_the_dense_model_back(density: float, sparse_machine: Machine) -> None:
    model = network()
    masks = masks_of(model, density)
    masks.apply_(model)
    fast = sparsify(model, masks, machine=sparse_machine)
    layers = [m for m in fast.modules() if isinstance(m, SparseLinear)]
    assert len(layers) == 3 and all(layer.plan.blocks for layer in layers)
    assert all(line.reason.endswith(", in blocks of four outputs") for line in report_of(fast).layers)
    x = torch.randn(33, 30)
    torch.testing.assert_close(fast(x), model(x), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(copy.deepcopy(fast)(x), fast(x))
    for name, value in densify(fast).state_dict().items():
        assert torch.equal(value, model.state_dict()[name])
        assert torch.equal(value, fast.state_dict()[name])


@pytest.mark.skipif(NATIVE is None, reason="needs the compiled kernels")
@pytest.mark.parametrize("density", [0.3, 0.05])
@pytest.mark.parametrize("threads", [1, 2])
def test_the_fused_step_trains_the_weights_of_the_eager_loop(density: float, threads: int) -> None:
    model, eager = network(), network()
    masks = masks_of(model, density)
    masks.apply_(eager)
    optimizers = [SGD(m.parameters(), lr=0.05, momentum=0.9, weight_decay=1e-3) for m in (model, eager)]
    step = compile_step(model, masks, cross_entropy, optimizers[0])
    generator = torch.Generator().manual_seed(5)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        for batch in (33, 150, 1, 100) * 10:
            x, y = torch.randn(batch, 30, generator=generator), torch.randint(0, 10, (batch,), generator=generator)
            optimizers[1].zero_grad()
            loss = cross_entropy(eager(x), y)
            loss.backward()
            for name, mask in masks.items():
                eager.get_parameter(name).grad.mul_(mask)
            optimizers[1].step()
            assert step(x, y) == pytest.approx(loss.item(), rel=1e-4, abs=1e-5)
    finally:
        torch.set_num_threads(before)
    step.write_back()
    for (name, p), q in zip(model.named_parameters(), eager.parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=1e-4, atol=1e-5, msg=lambda text, n=name: f"{n}: {text}")


@pytest.mark.skipif(NATIVE is None, reason="needs the compiled kernels")
@pytest.mark.parametrize("threads", [1, 2])
def test_linear_layers_behind_convolutions_use_them_too(threads: int) -> None:
    def convolutional() -> nn.Sequential:
        torch.manual_seed(3)
        return nn.Sequential(
            nn.Conv2d(1, 6, 3),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Flatten(),
            nn.Linear(54, 22),
            nn.ReLU(),
            nn.Linear(22, 10),
        )

    model, eager = convolutional(), convolutional()
    masks = prune(model, methods.magnitude(0.3, structure=blocks(4, 1)))
    hold(eager, masks)
    optimizers = [SGD(m.parameters(), lr=0.05, momentum=0.9) for m in (model, eager)]
    step = compile_step(model, masks, cross_entropy, optimizers[0])
    generator = torch.Generator().manual_seed(5)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        for _ in range(10):
            x, y = torch.randn(33, 1, 8, 8, generator=generator), torch.randint(0, 10, (33,), generator=generator)
            optimizers[1].zero_grad()
            loss = cross_entropy(eager(x), y)
            loss.backward()
            optimizers[1].step()
            assert step(x, y) == pytest.approx(loss.item(), rel=1e-4, abs=1e-5)
    finally:
        torch.set_num_threads(before)
    step.write_back()
    for (name, p), q in zip(model.named_parameters(), eager.parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=1e-4, atol=1e-5, msg=lambda text, n=name: f"{n}: {text}")


def test_idle_units_leave_in_whole_blocks() -> None:
    first = torch.ones(8, 3, dtype=torch.bool)
    first[4:, 1] = False
    last = torch.zeros(4, 8, dtype=torch.bool)
    last[:, 5] = True
    net = nn.Sequential(nn.Linear(first.shape[1], 8), nn.ReLU(), nn.Linear(8, 4))
    program = program_of(net)
    before, after = (module.weight for module in (net[0], net[2]))

    def placed(mask: Tensor) -> list[CompactLayer]:
        layers = compact(program, {id(before): mask, id(after): last}, full=True)
        return [layers[id(before)], layers[id(after)]]

    layers = placed(first)
    plan = layers[0].plan
    assert layers[0].rows[: plan.rows].tolist() == [4, 5, 6, 7] and whole_blocks(plan.mask())
    # Its columns are the rows before.
    assert layers[1].plan.mask().tolist() == [[False, True, False, False]] * 4
    full = placed(torch.ones(8, first.shape[1], dtype=torch.bool))
    assert full[0].rows[: full[0].plan.rows].tolist() == [5]  # nothing is cut to pieces where every weight stays

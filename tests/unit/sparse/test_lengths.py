"""What the kernels read or write is as long as they think, or the call is refused: layers, and bare native calls."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from secateur import Masks
from secateur._base import door
from secateur._base.zeros import zero_
from secateur.sparse import Machine, densify, sparsify
from secateur.sparse.calls import Arena, addresses, build_network
from secateur.sparse.plans import plan_layer, plan_recurrent
from secateur.sparse.programs import program_of

pytestmark = pytest.mark.skipif(door.native is None, reason="needs the compiled kernels")


def sparse(model: nn.Module, machine: Machine) -> nn.Module:
    torch.manual_seed(0)
    masks = Masks({n: torch.rand(p.shape) < 0.3 for n, p in model.named_parameters() if p.dim() > 1})
    return sparsify(model, masks, machine=machine)


MODELS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...], str]] = {
    "linear": (lambda: nn.Linear(8, 6), (3, 8), ""),
    "chain": (lambda: nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 6)), (3, 8), "2."),
    "convolution": (lambda: nn.Conv2d(4, 6, 3), (3, 4, 5, 5), ""),
    "convolutions": (
        lambda: nn.Sequential(nn.Conv1d(4, 6, 3), nn.BatchNorm1d(6), nn.ReLU(), nn.Conv1d(6, 6, 2)), (3, 4, 9), "3.",
    ),
    "lstm": (lambda: nn.LSTM(5, 4), (6, 3, 5), ""),
    "gru": (lambda: nn.GRU(5, 4), (6, 3, 5), ""),
}  # fmt: skip


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("name", MODELS)
def test_parameters_of_another_length_are_refused_by_name(name: str, training: bool, sparse_machine: Machine) -> None:
    build, shape, prefix = MODELS[name]
    fast = sparse(build(), sparse_machine).train(training)
    x = torch.randn(shape)
    with torch.set_grad_enabled(training):
        fast(x)
    for key, parameter in dict(fast.named_parameters()).items():
        if not key.startswith(prefix):
            continue
        before = parameter.data
        for length in (0, 1, len(before) - 1, len(before) + 1):
            parameter.data = torch.zeros(length)
            short = key.removeprefix(prefix).removesuffix("_l0")
            with pytest.raises(ValueError, match=rf"`{short}`.* must have {len(before)} numbers, got {length}"):
                fast(x)
        parameter.data = before
    fast(x)


@pytest.mark.parametrize("name", MODELS)
def test_layers_of_other_types_compute_densely_or_torch_refuses(name: str, sparse_machine: Machine) -> None:
    build, shape, _ = MODELS[name]
    fast = sparse(build(), sparse_machine)
    x = torch.randn(shape)
    fast(x)
    for kind in (torch.float64, torch.bfloat16):
        fast.to(kind)
        own = kind is torch.bfloat16 and name in ("linear", "chain")  # linear layers have kernels for it
        with nullcontext() if own else pytest.warns(UserWarning, match="computes densely"):
            got = fast(x.to(kind))
        want = densify(fast)(x.to(kind))
        for a, b in ((got, want),) if isinstance(got, Tensor) else ((got[0], want[0]),):
            torch.testing.assert_close(a, b, rtol=2e-2, atol=2e-2)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*computes densely")
            with pytest.raises((RuntimeError, ValueError)):
                fast(x)
    assert torch.isfinite(torch.as_tensor(fast.float()(x)[0])).all()


def test_layers_set_anew_and_options_are_noticed_by_a_run(sparse_machine: Machine) -> None:
    """What is compiled for a run of layers is not used for other layers in their places."""
    model = nn.Sequential(nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.Conv2d(6, 6, 3))
    fast = sparse(model, sparse_machine)
    x = torch.randn(5, 3, 8, 8)

    def compare(*modes: bool) -> None:
        for training in modes or (True, False):
            dense = densify(fast).train(training)
            with torch.no_grad():
                torch.testing.assert_close(fast.train(training)(x), dense(x), rtol=1e-4, atol=1e-5)
            for name, buffer in dense.named_buffers():
                torch.testing.assert_close(fast.get_buffer(name), buffer, rtol=1e-4, atol=1e-5)

    assert isinstance(fast, nn.Sequential)
    compare()
    fast[1] = nn.BatchNorm2d(6, momentum=0.7)
    compare()
    fast[1].momentum, fast[1].eps = 0.3, 0.1
    compare()
    for _ in range(2):
        fast[0].bias.data = torch.randn(6)
        compare(False)
    fast.eval()
    fast[1].train()  # one normalisation that goes on learning in a network that does not
    dense = densify(fast)
    with torch.no_grad():
        torch.testing.assert_close(fast(x), dense(x), rtol=1e-4, atol=1e-5)


def lengths_off(given: list[int]) -> list[list[int]]:
    """Addresses and lengths, with each length wrong in turn, and one tensor too few."""
    wrong = [replaced(given, i, given[i] + 1) for i in range(1, len(given), 2)]
    return [*wrong, given[:-2], given[:-1]]


def refused(call: Callable[..., Any], *arguments: Any) -> None:
    with pytest.raises((ValueError, TypeError)):
        call(*arguments)


def replaced(arguments: list[Any], index: int, value: Any) -> list[Any]:
    return [*arguments[:index], value, *arguments[index + 1 :]]


def refuse_each(
    call: Callable[..., Any], arguments: list[Any], lists: set[int], lengths: set[int], needed: set[int]
) -> None:
    """Refused with any list of tensors off, a length one less, or nothing where something is needed; else done."""
    for index in lists:
        for wrong in lengths_off(arguments[index]):
            refused(call, *replaced(arguments, index, wrong))
    for index in lengths:
        refused(call, *replaced(arguments, index, arguments[index] - 1))
    for index in needed | lengths:
        refused(call, *replaced(arguments, index, 0))
    call(*arguments)


def test_calls_of_a_chain() -> None:
    native: Any = door.native
    plan = plan_layer(torch.ones(4, 6, dtype=torch.bool))
    chain = native.SparseChain([plan.layer])
    x, values, bias, out = torch.ones(20, 6), torch.ones(24), torch.ones(4), torch.empty(20, 4)
    work, dv, db, dx = torch.empty(chain.work_floats(20)), torch.empty(24), torch.empty(4), torch.empty(20, 6)
    of_values, of_bias = addresses(values), addresses(bias)
    place = x.data_ptr()
    arguments = [of_values, of_bias, place, 6, 20, 6, *addresses(work, out), 1]
    refuse_each(chain.forward, arguments, {0, 1}, {5, 7, 9}, {2, 4, 8})
    assert torch.equal(out, torch.full((20, 4), 7.0))
    refuse_each(chain.forward_vector, [of_values, of_bias, place, 6, out.data_ptr(), 4, 1], {0, 1}, {3, 5}, {2, 4})
    sums = addresses(dv), addresses(db), *addresses(dx)
    arguments = [of_values, *addresses(work), out.data_ptr(), 4, 20, 4, *sums, False, 1]
    refuse_each(chain.backward, arguments, {0, 7, 8}, {2, 6, 10}, {1, 3, 5})
    assert torch.equal(db, out.sum(0))
    once = dv.clone()
    chain.backward(*replaced(arguments, 11, True))
    assert torch.equal(dv, 2 * once) and torch.equal(db, 2 * out.sum(0))


@pytest.mark.parametrize("single", [False, True])
def test_calls_of_a_network(single: bool) -> None:
    model = nn.Sequential(nn.Conv2d(2, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(36, 3))
    network = build_network(program_of(model), (2, 5, 5), {}, Arena(), few=2 if single else 0)
    tensors = [m.get_parameter(name) for m, name in network.slots]
    held = [t.detach().contiguous() for t in tensors]
    n = 2 if single else 3
    x, out = torch.randn(n, 2, 5, 5), torch.empty(n, 3)
    work = torch.zeros(network.native.work_floats(n, True))
    shortest = network.native.work_floats(n, False)
    arguments = [addresses(*held), *addresses(x), n, False, work.data_ptr(), shortest, *addresses(out), 1, False]
    refuse_each(network.native.forward, arguments, {0}, {2, 3, 6, 8}, {1, 5, 7})
    refused(network.native.forward, *replaced(arguments, 0, [0, 0, *addresses(*held)[2:]]))
    torch.testing.assert_close(out, model(x).detach(), rtol=1e-4, atol=1e-5)
    if not single:
        found, dx = [torch.zeros_like(t) for t in held], torch.empty_like(x)
        refuse_each(
            network.native.backward,
            [addresses(*held), addresses(*found), *addresses(out), n, True, *addresses(work, dx), 1, False],
            {0, 1}, {3, 4, 7, 9}, {2, 6},
        )  # fmt: skip
        torch.testing.assert_close(found[3], out.sum(0))


@pytest.mark.parametrize("kind", ["SparseNet", "PlaneNet"])
def test_networks_that_are_not_finished_compute_nothing(kind: str) -> None:
    native: Any = door.native
    net = native.SparseNet(2, 3, 3) if kind == "SparseNet" else native.PlaneNet(2, 3, 3, 1)
    x, out, work = torch.ones(1, 18), torch.ones(1, 18), torch.zeros(4000)
    net.copy(0, False)
    call = [[], *addresses(x), 1, False, *addresses(work, out), 1, False]
    with pytest.raises(ValueError, match="the network is not finished"):
        net.forward(*call)
    if kind == "SparseNet":
        with pytest.raises(ValueError, match="the network is not finished"):
            net.backward([], [], *addresses(out), 1, False, *addresses(work, x), 1, False)
        with pytest.raises(ValueError, match="the network is not finished"):
            native.NetStep(net)
    net.finish(1, False)
    net.forward(*call)
    assert torch.equal(out, x)


@pytest.mark.parametrize("gru", [False, True])
def test_calls_of_a_recurrent_layer(gru: bool) -> None:
    gates, units = (3 if gru else 4), 4
    plan = plan_recurrent(torch.ones(gates * units, 5) > 0, torch.ones(gates * units, units) > 0, gru=gru)
    layer = plan.layer
    weights = [torch.ones(gates * units * 5), torch.ones(gates * units**2), *torch.ones(2, gates * units).unbind()]
    x, out = torch.ones(6, 3, 5), torch.empty(6, 3, units)
    h, c = torch.empty(3, units), torch.empty(0 if gru else 3, units)
    work = torch.empty(layer.work_floats(6, 3))
    strides, outer = [x.data_ptr(), 15, 5, 5], [out.data_ptr(), 12, 4, 4]
    states = [0, 0, 0, 0]
    arguments = [addresses(*weights), strides, 6, 3, False, states, *addresses(work), 1, 1, outer, addresses(h, c)]
    refuse_each(layer.forward, arguments, {0, 11}, {7}, {2, 3, 8})
    for index, wrong in (
        (1, [x.data_ptr(), 15, 5, 4]),
        (1, [0, 15, 5, 5]),
        (10, [0, 0, 0, 0]),
        (10, [out.data_ptr(), 12, 4, 5]),
    ):
        refused(layer.forward, *replaced(arguments, index, wrong))
    refused(layer.forward, *replaced(arguments, 5, [h.data_ptr(), 1, 0, 0]))
    refused(layer.forward, *replaced(arguments, 8, 2))  # more chunks than tiles
    found, dx, dh = [torch.empty_like(w) for w in weights], torch.empty_like(x), torch.empty(3, units)
    arguments = [
        addresses(*weights), *addresses(work), 6, 3, False, 1, 1, outer, states, addresses(*found),
        [dx.data_ptr(), 15, 5, 5], addresses(dh, None),
    ]  # fmt: skip
    refuse_each(layer.backward, arguments, {0, 10, 12}, {2}, {1, 3, 4, 6})
    refused(layer.backward, *replaced(arguments, 11, [dx.data_ptr(), 15, 5, 4]))


def test_calls_of_selection_and_zeros() -> None:
    native: Any = door.native
    scores, mask, counts = torch.randn(10), torch.empty(10, dtype=torch.bool), np.zeros((1, 1 << 16), dtype=np.int64)
    where, sizes = [scores.data_ptr()], [10]
    refused(native.count_digits, where, [10, 1], 4, 16, 0, counts)
    refused(native.count_digits, where, sizes, 4, 16, 0, counts[:, :-1].copy())
    refused(native.count_digits, where, sizes, 4, 16, 0, counts.astype(np.int32))
    refused(native.count_digits, where, sizes, 4, 17, 0, counts)
    refused(native.count_digits, where, sizes, 4, -1, 0, counts)
    refused(native.count_digits, [0], sizes, 4, 16, 0, counts)
    native.count_digits(where, sizes, 4, 16, 0, counts)
    assert counts.sum() == 10
    refused(native.fill_masks, where, sizes, 4, 0, 0, [mask.data_ptr()], [9], 1)
    refused(native.fill_masks, where, sizes, 4, 0, 0, [0], [10], 1)
    refused(native.fill_masks, where, sizes, 4, 0, 0, [mask.data_ptr()], [10], 0)
    values, flags = torch.ones(10), torch.ones(10, dtype=torch.bool)
    refused(native.zero, values.data_ptr(), 10, flags.data_ptr(), 9, True, 4, 1)
    refused(native.zero, values.data_ptr(), 10, 0, 10, True, 4, 1)
    refused(native.zero, values.data_ptr(), 10, flags.data_ptr(), 10, True, 1, 1)
    with pytest.raises((RuntimeError, ValueError)):
        zero_(torch.ones(10), flags[:9])
    assert bool((values == 1).all())

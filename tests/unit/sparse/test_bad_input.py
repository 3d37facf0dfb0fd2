"""Bad input: a clear error or a stated dense fallback, never a wrong number."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from secateur import MaskError, Masks
from secateur.sparse import Choice, Machine, SparseLinear, densify, report_of, sparsify


def pair(machine: Machine, generator: torch.Generator) -> tuple[nn.Linear, SparseLinear]:
    layer = nn.Linear(8, 6)
    masks = Masks({"weight": torch.rand(6, 8, generator=generator) < 0.4})
    masks.apply_(layer)
    fast = sparsify(layer, masks, machine=machine)
    assert isinstance(fast, SparseLinear)
    return layer, fast


def test_masks_that_do_not_fit(sparse_machine: Machine) -> None:
    model = nn.Linear(3, 2)
    with pytest.raises(MaskError, match="the model has no parameter 'wait'"):
        sparsify(model, Masks({"wait": torch.ones(2, 3, dtype=torch.bool)}), machine=sparse_machine)
    with pytest.raises(MaskError, match="shape"):
        sparsify(model, Masks({"weight": torch.ones(3, 2, dtype=torch.bool)}), machine=sparse_machine)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_weights_that_are_not_finite(bad: float, sparse_machine: Machine) -> None:
    model = nn.Linear(3, 2)
    with torch.no_grad():
        model.weight[0, 0] = bad
    keep = torch.ones(2, 3, dtype=torch.bool)
    with pytest.raises(MaskError, match="'weight' has 1 NaN or infinite surviving weights"):
        sparsify(model, Masks({"weight": keep}), machine=sparse_machine)
    keep[0, 0] = False  # a pruned weight may be anything: it is left behind
    fast = sparsify(model, Masks({"weight": keep.clone()}), machine=sparse_machine)
    assert torch.isfinite(fast(torch.ones(1, 3))).all()


def test_batch_below_one(sparse_machine: Machine) -> None:
    masks = Masks({"weight": torch.ones(2, 3, dtype=torch.bool)})
    with pytest.raises(ValueError, match="`batch` must be at least 1, got 0"):
        sparsify(nn.Linear(3, 2), masks, batch=0, machine=sparse_machine)


def test_empty_batch_gives_empty_output_and_zero_gradients(sparse_machine: Machine, generator: torch.Generator) -> None:
    _, fast = pair(sparse_machine, generator)
    y = fast(torch.empty(0, 8))
    assert y.shape == (0, 6)
    y.sum().backward()
    assert fast.values.grad is not None and not fast.values.grad.any()


def test_wrong_number_of_features(sparse_machine: Machine, generator: torch.Generator) -> None:
    _, fast = pair(sparse_machine, generator)
    with pytest.raises(ValueError, match="must have 8 features, got 7"):
        fast(torch.ones(2, 7))


def test_other_types_run_densely_and_say_so(sparse_machine: Machine, generator: torch.Generator) -> None:
    layer, fast = pair(sparse_machine, generator)
    x = torch.randn(5, 8, generator=generator)
    layer, fast = layer.double(), fast.double()
    with pytest.warns(UserWarning, match=r"SparseLinear computes densely: .* got float64 on cpu"):
        y = fast(x.double())
    torch.testing.assert_close(y, layer(x.double()))
    with pytest.warns(UserWarning, match="float16"):
        y = fast.half()(x.half())
    torch.testing.assert_close(y, layer.half()(x.half()))
    with pytest.warns(UserWarning, match="bfloat16 on meta"):
        assert fast.bfloat16().to("meta")(x.to("meta").bfloat16()).shape == (5, 6)


def test_models_in_half_precision_stay_dense(sparse_machine: Machine) -> None:
    model = nn.Linear(4, 4).half()
    fast = sparsify(model, Masks({"weight": torch.eye(4) > 0}), machine=sparse_machine)
    assert type(fast) is nn.Linear
    (line,) = report_of(fast).layers
    assert line.choice is Choice.UNTOUCHED and line.reason.startswith("its weights are float16 on cpu")
    assert report_of(fast).not_held == ("weight",)
    assert fast.weight.count_nonzero() == 4  # its zeros are written nevertheless


def test_strided_inputs_and_weights(sparse_machine: Machine, generator: torch.Generator) -> None:
    layer, fast = pair(sparse_machine, generator)
    for x in (torch.randn(8, 10, generator=generator).t(), torch.randn(10, 16, generator=generator)[:, ::2]):
        torch.testing.assert_close(fast(x), layer(x))
    spaced = torch.zeros(2 * fast.values.numel())
    spaced[::2] = fast.values.detach()
    fast.values.data = spaced[::2]
    assert not fast.values.is_contiguous()
    x = torch.randn(10, 8, generator=generator, requires_grad=True)
    torch.testing.assert_close(fast(x), layer(x))
    fast(x).sum().backward()
    assert x.grad is not None
    torch.testing.assert_close(x.grad, layer.weight.detach().sum(0).expand(10, 8))


def test_weights_changed_between_forward_and_backward(sparse_machine: Machine, generator: torch.Generator) -> None:
    _, fast = pair(sparse_machine, generator)
    y = fast(torch.randn(3, 8, generator=generator)).sum()
    with torch.no_grad():
        fast.values.add_(1.0)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        y.backward()


def test_more_threads_than_cores(sparse_machine: Machine, generator: torch.Generator) -> None:
    model = nn.Linear(300, 400)
    fast = sparsify(model, Masks({"weight": torch.rand(400, 300, generator=generator) < 0.3}), machine=sparse_machine)
    x = torch.randn(200, 300, generator=generator)
    want = fast(x)
    before = torch.get_num_threads()
    torch.set_num_threads(19)
    try:
        torch.testing.assert_close(fast(x), want)
    finally:
        torch.set_num_threads(before)


def test_what_cannot_be_swapped_is_left_with_a_reason(sparse_machine: Machine) -> None:
    class Special(nn.Linear):
        """Somebody's own layer."""

    model = nn.Sequential(nn.ConvTranspose2d(1, 2, 3), Special(4, 4), nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 4))
    model[3].weight = model[2].weight
    keep = torch.eye(4) > 0
    masks = Masks(
        {
            "0.weight": torch.rand(1, 2, 3, 3) < 0.5,
            "1.weight": keep,
            "2.weight": keep,
            "4.weight": keep,
            "4.bias": torch.tensor([True, False, True, True]),
        }
    )
    fast = sparsify(model, masks, machine=sparse_machine)
    reasons = {layer.name: layer.reason for layer in report_of(fast).layers}
    assert reasons == {
        "1.weight": "it is a Special, not a plain nn.Linear",
        "2.weight": "its parameters are shared with another layer",
        "4.weight": "its bias is masked too",
        "0.weight": "no sparse kernel for this kind of parameter; keep its zeros with secateur.hold",
        "4.bias": "no sparse kernel for this kind of parameter; keep its zeros with secateur.hold",
    }
    assert set(report_of(fast).not_held) == set(masks)
    for name in masks:
        assert not fast.get_parameter(name)[~masks[name]].any()
    assert not any(isinstance(m, SparseLinear) for m in fast.modules())
    densify(fast)


def test_another_default_type_and_device(sparse_machine: Machine, generator: torch.Generator) -> None:
    layer, _ = pair(sparse_machine, generator)
    x = torch.randn(10, 8, generator=generator, requires_grad=True)
    masks = Masks({"weight": layer.weight.detach() != 0})
    torch.set_default_dtype(torch.float64)
    try:
        with torch.device("meta"):
            fast = sparsify(layer, masks, machine=sparse_machine)
            y = fast(x)
            y.sum().backward()
    finally:
        torch.set_default_dtype(torch.float32)
    torch.testing.assert_close(y, layer(x))
    assert x.grad is not None
    torch.testing.assert_close(x.grad, layer.weight.detach().sum(0).expand(10, 8))

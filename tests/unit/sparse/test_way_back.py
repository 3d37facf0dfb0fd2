"""From a timed sparsified model back to a dense one, and models of which nothing is to be trained."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from secateur import Masks, densify, hold, sparsify
from secateur.holding import held
from secateur.sparse import SparseLinear
from secateur.sparse.convert import _timed as layers_timed
from secateur.sparse.convert._inputs import Use
from secateur.sparse.convert._timed import timed
from secateur.sparse.convert._whole import whole_verdict
from secateur.sparse.timing import Verdict

DENSE = Verdict(1.0, 2.0, 2.0, 0.1, "2026-01-01")


@pytest.fixture(autouse=True)
def _dense(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("SECATEUR_CACHE", str(tmp_path))
    monkeypatch.setattr(layers_timed, "remembered_verdict", lambda kind, measure: (DENSE, "torch"))


def mlp() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(12, 16), nn.ReLU(), nn.Linear(16, 4))


def masks_of(model: nn.Module) -> Masks:
    generator = torch.Generator().manual_seed(3)
    return Masks(
        {n: torch.rand(p.shape, generator=generator) < 0.5 for n, p in model.named_parameters() if p.dim() > 1}
    )


@pytest.mark.parametrize("held_before", [False, True])
def test_a_densified_model_is_held_by_nobody(held_before: bool) -> None:
    """Its layers that stayed dense were held; who trains it densely gets a dense network, or holds it himself."""
    model = mlp()
    masks = masks_of(model)
    if held_before:
        hold(model, masks)
    back = densify(sparsify(model, masks, example_inputs=torch.rand(3, 12)))
    assert held(back) == ()
    optimizer = torch.optim.SGD(back.parameters(), lr=0.1)
    back(torch.rand(3, 12)).square().sum().backward()
    optimizer.step()
    assert any(bool(back.get_parameter(name)[~mask].any()) for name, mask in masks.items())
    hold(back, masks).check()


def test_frozen_models_and_outputs_without_gradients_are_timed_forward() -> None:
    class Labels(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = mlp()

        def forward(self, x: Tensor) -> Tensor:
            return self.net(x).argmax(1)

    x = torch.rand(3, 12)
    for model in (mlp().requires_grad_(False), Labels()):
        masks = masks_of(model)
        fast = sparsify(model, masks, example_inputs=x)
        masks.apply_(model)
        torch.testing.assert_close(fast(x), model(x))


def test_masks_of_another_pattern_are_another_kind(monkeypatch: pytest.MonkeyPatch) -> None:
    """An eighth of the weights everywhere, or one row of them: as dense, and not as fast."""
    kinds: list[str] = []
    monkeypatch.setattr(
        layers_timed, "remembered_verdict", lambda kind, measure: (kinds.append(kind), (DENSE, "torch"))[1]
    )
    layer, scattered, rows = nn.Linear(8, 8), torch.eye(8).repeat(1, 1) > 0, torch.arange(64).reshape(8, 8) < 8
    for mask in (scattered, rows, rows.T):
        timed(layer, SparseLinear.from_dense(layer, mask), Use((4, 8), training=False))
    assert len(set(kinds)) == 3
    assert "0.125 in 8 rows and 8 columns" in kinds[0] and "0.125 in 1 rows and 8 columns" in kinds[1]


def test_a_dense_weight_built_in_inference_mode_serves_a_gradient_of_the_input() -> None:
    layer = nn.Linear(8, 4).requires_grad_(False)
    sparse = SparseLinear.from_dense(layer, torch.ones(4, 8) > 0)
    sparse.compute_dense = True
    with torch.inference_mode():
        sparse(torch.rand(2, 8))
    x = torch.rand(2, 8, requires_grad=True)
    before = sparse.multiplied()[0]
    sparse(x).sum().backward()
    assert x.grad is not None and sparse.multiplied()[0] is before  # frozen: built once
    torch.testing.assert_close(x.grad, layer.weight.sum(0).expand(2, 8))


def test_whole_models_are_timed_with_the_hooks_that_hold_their_zeros() -> None:
    model = mlp()
    masks = masks_of(model)
    hold(model, masks)
    seen: list[str] = []
    for name, parameter in model.named_parameters():
        parameter.register_post_accumulate_grad_hook(lambda _, name=name: seen.append(name))
    whole_verdict(model, mlp(), torch.rand(3, 12), training=True)
    assert set(seen) == {name for name, _ in model.named_parameters()}
    assert all(parameter.grad is None for parameter in model.parameters())

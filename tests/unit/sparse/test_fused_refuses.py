"""What the fused step cannot do exactly it refuses, with the reason."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.optim import SGD, Adam, RMSprop

from secateur import MaskError, Masks
from secateur._base import door
from secateur.sparse import UnsupportedError, compile_step, why_no_fused_step
from secateur.sparse.programs._network import program_of

pytestmark = pytest.mark.skipif(door.native is None, reason="needs the compiled kernels")


class Net(nn.Module):
    """Two layers whose forward is given."""

    def __init__(self, forward: Callable[[Net, Tensor], Tensor]) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(6, 5), nn.Linear(5, 4)
        self.how = forward

    def forward(self, x: Tensor) -> Tensor:
        return self.how(self, x)


def plain() -> nn.Sequential:
    return nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 4))


def half(mask_shape: tuple[int, int] = (5, 6)) -> Tensor:
    return torch.rand(mask_shape, generator=torch.Generator().manual_seed(0)) < 0.5


MASKS = Masks({"0.weight": half()})


@pytest.mark.parametrize(
    "forward",
    [
        lambda m, x: m.b(torch.relu(m.a(x))),
        lambda m, x: m.b(m.a(x).relu()),
        lambda m, x: m.b(nn.functional.relu(m.a(torch.flatten(x, 1)))),
        lambda m, x: m.b(nn.functional.relu(m.a(x.flatten(1)))),
        lambda m, x: m.b(torch.relu(m.a(x.view(x.size(0), -1)))),
        lambda m, x: m.b(torch.relu(m.a(x.reshape(x.shape[0], -1)))),
    ],
)
def test_chains_are_found_in_any_plain_module(forward: Callable[[Net, Tensor], Tensor]) -> None:
    assert [o.name for o in program_of(Net(forward)).operations] == ["a", "b"]


@pytest.mark.parametrize(
    ("forward", "says"),
    [
        (lambda m, x: m.b(torch.tanh(m.a(x))), "'tanh' has no sparse kernel"),
        (lambda m, x: m.b(torch.relu(m.a(x))) + 1, "is not a sum of two layers' outputs"),
        (lambda m, x: m.b(torch.relu(m.a(x.flatten()))), "is not a flatten of all but the batch"),
        (lambda m, x: m.b(torch.relu(m.a(x.view(-1, 6)))), "is not a flatten of all but the batch"),
        (lambda m, x: m.b(torch.relu(m.a(x))) if x.sum() > 0 else m.b(x), "cannot be traced"),
        (lambda m, x: (m.b(torch.relu(m.a(x))), x), "must return one layer's output and nothing else"),
        (lambda m, x: x, "the model has no convolution and no linear layer"),
    ],
)
def test_other_models(forward: Callable[[Net, Tensor], Tensor], says: str) -> None:
    with pytest.raises(UnsupportedError, match=says):
        program_of(Net(forward))


def test_layers_of_other_kinds_hooks_and_shared_weights() -> None:
    with pytest.raises(UnsupportedError, match="'1' is a Dropout, which has no sparse kernel"):
        program_of(nn.Sequential(nn.Linear(6, 5), nn.Dropout(), nn.ReLU(), nn.Linear(5, 4)))
    shared = nn.Linear(6, 6)
    with pytest.raises(UnsupportedError, match="used twice"):
        program_of(nn.Sequential(shared, nn.ReLU(), shared))
    hooked = plain()
    hooked[0].register_forward_hook(lambda *_: None)
    with pytest.raises(UnsupportedError, match="'0' has a hook"):
        program_of(hooked)


@pytest.mark.parametrize(
    ("loss", "says"),
    [
        (nn.MSELoss(), "got MSELoss"),
        (nn.functional.nll_loss, "got nll_loss"),
        (nn.CrossEntropyLoss(label_smoothing=0.1), "with default options"),
        (nn.CrossEntropyLoss(reduction="sum"), "with default options"),
        (nn.CrossEntropyLoss(weight=torch.ones(4)), "with default options"),
    ],
)
def test_other_losses(loss: Callable[[Tensor, Tensor], Tensor], says: str) -> None:
    model = plain()
    reason = why_no_fused_step(model, MASKS, loss, SGD(model.parameters(), lr=0.1))
    assert reason is not None and says in reason


def test_other_optimizers() -> None:
    model = plain()
    stray = nn.Parameter(torch.zeros(3))
    groups = [{"params": [model[0].weight, model[0].bias], "momentum": 0.9}, {"params": model[2].parameters()}]
    for optimizer, says in [
        (RMSprop(model.parameters()), "must be torch.optim's SGD, Adam or AdamW, got RMSprop"),
        (Adam(model.parameters(), amsgrad=True), "the optimizer has amsgrad=True"),
        (SGD(model[0].parameters(), lr=0.1), r"the optimizer does not hold '2\.weight'"),
        (SGD([*model.parameters(), stray], lr=0.1), r"also holds a parameter of shape \(3,\)"),
        (SGD(groups, lr=0.1), "groups with and groups without momentum"),
    ]:
        with pytest.raises(UnsupportedError, match=says):
            compile_step(model, MASKS, cross_entropy, optimizer)


def test_other_parameters_and_masks() -> None:
    model = plain()
    optimizer = SGD(model.parameters(), lr=0.1)
    with pytest.raises(MaskError, match=r"no parameter '9\.weight'"):
        compile_step(model, Masks({"9.weight": half()}), cross_entropy, optimizer)
    model[2].weight.requires_grad_(False)
    with pytest.raises(UnsupportedError, match=r"'2\.weight' does not require a gradient"):
        compile_step(model, MASKS, cross_entropy, optimizer)
    model[2].weight.requires_grad_(True)
    model[0].weight.data = torch.zeros(6, 5).t()
    with pytest.raises(UnsupportedError, match=r"'0\.weight' must be contiguous float32 on cpu"):
        compile_step(model, MASKS, cross_entropy, optimizer)
    model[0].weight.data = torch.full((5, 6), float("nan"))
    with pytest.raises(MaskError, match=r"'0\.weight' has NaN or infinite weights"):
        compile_step(model, MASKS, cross_entropy, optimizer)


def test_refusal_changes_nothing() -> None:
    model = plain()
    before = [p.detach().clone() for p in model.parameters()]
    assert why_no_fused_step(model, MASKS, nn.MSELoss(), SGD(model.parameters(), lr=0.1)) is not None
    with pytest.raises(UnsupportedError):
        compile_step(model, MASKS, nn.MSELoss(), SGD(model.parameters(), lr=0.1))
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))
    assert why_no_fused_step(model, MASKS, cross_entropy, SGD(model.parameters(), lr=0.1)) is None
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))


def test_without_the_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(door, "native", None)
    monkeypatch.setattr(door, "why_not", "switched off by SECATEUR_NATIVE")
    model = plain()
    reason = why_no_fused_step(model, MASKS, cross_entropy, SGD(model.parameters(), lr=0.1))
    assert reason == "the compiled kernels are not in use: switched off by SECATEUR_NATIVE"

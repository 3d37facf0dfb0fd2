"""What layers see and say, against loops over every position in plain numpy."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from secateur import prunable
from secateur._base.errors import ScoreError, SecateurError
from secateur.measures import Call, Measure, activity, gather, gram, input_norm, watched

CONVOLUTIONS = {
    "1d": (nn.Conv1d(3, 4, 3), (3, 9)),
    "plain": (nn.Conv2d(3, 4, 3), (3, 6, 5)),
    "stride and padding": (nn.Conv2d(3, 4, (3, 2), stride=(2, 1), padding=(1, 2)), (3, 6, 5)),
    "dilation": (nn.Conv2d(2, 4, 3, dilation=(2, 1), padding="same"), (2, 7, 6)),
    "grouped": (nn.Conv2d(6, 4, 3, groups=2, padding=1), (6, 5, 5)),
    "depthwise": (nn.Conv2d(3, 6, 3, groups=3), (3, 5, 5)),
    "circular": (nn.Conv2d(3, 4, 3, padding=1, padding_mode="circular"), (3, 4, 5)),
    "reflect": (nn.Conv1d(2, 4, 3, padding=2, padding_mode="reflect"), (2, 7)),
    "3d": (nn.Conv3d(2, 4, 2, stride=2, groups=2), (2, 4, 4, 5)),
}


def _gather(model: nn.Module, batches: list, measure: Measure) -> dict[str, Tensor]:
    return gather(model, batches, [measure], params=prunable(model))[measure.name]


def _columns(layer: nn.Module, x: Tensor) -> np.ndarray:
    """Every output position's patch, one row each: (groups, samples · positions, entries). By loops."""
    pads = [(0, 0), (0, 0), *_padding(layer)]
    modes = {"zeros": "constant", "circular": "wrap", "reflect": "reflect"}
    padded = np.pad(x.double().numpy(), pads, mode=modes[layer.padding_mode])  # type: ignore[call-overload]
    sizes = [
        range(0, length - dilation * (size - 1), stride)
        for length, size, stride, dilation in zip(
            padded.shape[2:], layer.kernel_size, layer.stride, layer.dilation, strict=True
        )
    ]
    per_group = layer.in_channels // layer.groups
    rows: list[list[np.ndarray]] = [[] for _ in range(layer.groups)]
    for sample, group in itertools.product(range(len(padded)), range(layer.groups)):
        for corner in itertools.product(*sizes):
            window = tuple(
                slice(start, start + dilation * (size - 1) + 1, dilation)
                for start, size, dilation in zip(corner, layer.kernel_size, layer.dilation, strict=True)
            )
            block = padded[(sample, slice(group * per_group, (group + 1) * per_group), *window)]
            rows[group].append(block.flatten())
    return np.array(rows)


def _padding(layer: nn.Module) -> list[tuple[int, int]]:
    if layer.padding == "same":
        total = [d * (k - 1) for d, k in zip(layer.dilation, layer.kernel_size, strict=True)]
        return [(t // 2, t - t // 2) for t in total]
    return [(p, p) for p in layer.padding]


@pytest.mark.parametrize("kind", CONVOLUTIONS)
def test_convolutions_see_their_patches(kind: str) -> None:
    layer, shape = CONVOLUTIONS[kind]
    batches = [torch.randn(3, *shape), torch.randn(2, *shape)]
    columns = np.concatenate([_columns(layer, x) for x in batches], axis=1)
    # The patches are the convolution's own: the weight times them is its output.
    weight = layer.weight.detach().double().numpy().reshape(layer.groups, -1, columns.shape[-1])
    output = np.concatenate(
        [(layer(x).detach() - layer.bias.detach().view(-1, *[1] * (x.dim() - 2))).flatten(2).numpy() for x in batches]
    )
    mine = np.einsum("gof,gpf->gop", weight, columns).reshape(layer.out_channels, len(output), -1)
    np.testing.assert_allclose(mine.transpose(1, 0, 2), output, rtol=1e-4, atol=1e-5)

    norms = _gather(layer, batches, input_norm())["weight"]
    wanted = np.linalg.norm(columns, axis=1).reshape(layer.groups, *layer.weight.shape[1:])
    expanded = np.repeat(wanted, layer.out_channels // layer.groups, axis=0)
    np.testing.assert_allclose(norms.expand_as(layer.weight).numpy(), expanded, rtol=1e-12)

    found = _gather(layer, batches, gram())["weight"].numpy()
    moments = np.einsum("gpf,gph->gfh", columns, columns)
    np.testing.assert_allclose(found if layer.groups > 1 else found[None], moments, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("leading", [(5,), (5, 3), (2, 3, 4), ()])
def test_linear_layers_with_any_leading_dimensions(leading: tuple[int, ...]) -> None:
    layer, x = nn.Linear(4, 3), torch.randn(*leading, 4)
    rows = x.double().reshape(-1, 4).numpy()
    norms = _gather(layer, [(x,)], input_norm())["weight"]
    assert norms.shape == (1, 4) and norms.dtype == torch.float64
    np.testing.assert_allclose(norms[0].numpy(), np.linalg.norm(rows, axis=0), rtol=1e-12)
    np.testing.assert_allclose(_gather(layer, [(x,)], gram())["weight"].numpy(), rows.T @ rows, rtol=1e-12)
    outputs = rows @ layer.weight.detach().double().numpy().T + layer.bias.detach().double().numpy()
    np.testing.assert_allclose(_gather(layer, [(x,)], activity())["weight"].numpy(), (outputs > 0).mean(0))


class Conv1D(nn.Module):
    """GPT-2's layer as transformers writes it: a linear layer whose weight is (in, out)."""

    def __init__(self) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.randn(4, 3)), nn.Parameter(torch.zeros(3))

    def forward(self, x: Tensor) -> Tensor:
        return x @ self.weight + self.bias


def test_a_transposed_linear_layer_follows_its_weight() -> None:
    x, layer = torch.randn(2, 5, 4), Conv1D()
    twin = nn.Linear(4, 3)
    with torch.no_grad():
        twin.weight.copy_(layer.weight.T)
        twin.bias.zero_()
    for measure in (gram(), activity()):
        assert torch.equal(_gather(layer, [x], measure)["weight"], _gather(twin, [x], measure)["weight"])
    norms = _gather(layer, [x], input_norm())["weight"]
    assert norms.shape == (4, 1)
    assert torch.equal(norms.T, _gather(twin, [x], input_norm())["weight"])


def test_activity_of_channels_counts_positions() -> None:
    layer, x = nn.Conv2d(2, 5, 3), [torch.randn(3, 2, 6, 6), torch.randn(4, 2, 6, 6)]
    outputs = torch.cat([layer(part) for part in x]).detach().numpy()
    np.testing.assert_allclose(_gather(layer, x, activity())["weight"].numpy(), (outputs > 0).mean((0, 2, 3)))


def test_activity_is_one_minus_the_zeros_behind_a_relu() -> None:
    net = nn.Sequential(nn.Linear(4, 6), nn.ReLU(inplace=True), nn.Linear(6, 2))
    x = torch.randn(20, 4)
    zeros = (net[:2](x) == 0).double().mean(0)
    torch.testing.assert_close(_gather(net, [x], activity())["0.weight"], 1 - zeros)


def test_batches_are_one_stream() -> None:
    net = nn.Sequential(nn.Conv2d(2, 3, 3), nn.ReLU(), nn.Flatten(), nn.Linear(12, 2)).double()
    x = torch.randn(9, 2, 4, 4, dtype=torch.float64)
    for measure in (input_norm(), gram(), activity()):
        whole, parts = _gather(net, [x], measure), _gather(net, [x[:2], x[2:3], x[3:]], measure)
        for name in whole:
            torch.testing.assert_close(whole[name], parts[name], rtol=1e-12, atol=0)


def test_large_batches_are_cut_without_a_trace(monkeypatch: pytest.MonkeyPatch) -> None:
    import secateur.measures._signals as inputs

    layer, x = nn.Conv2d(2, 3, 3).double(), torch.randn(7, 2, 6, 6, dtype=torch.float64)
    whole = [_gather(layer, [x], measure)["weight"] for measure in (input_norm(), gram())]
    monkeypatch.setattr(inputs, "_CHUNK", 1)
    for wanted, measure in zip(whole, (input_norm(), gram()), strict=True):
        near = 1e-14 * float(wanted.abs().max())  # sums of both signs, in another order
        torch.testing.assert_close(_gather(layer, [x], measure)["weight"], wanted, rtol=1e-12, atol=near)


def test_a_shared_weight_sees_all_its_layers() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(4, 4, bias=False), nn.Linear(4, 4, bias=False)
            self.b.weight = self.a.weight

        def forward(self, x: Tensor) -> Tensor:
            return self.b(self.a(self.a(x)))

    net, x = Twice().double(), torch.randn(6, 4, dtype=torch.float64)
    seen = torch.cat([x, net.a(x), net.a(net.a(x))]).detach()
    torch.testing.assert_close(_gather(net, [x], gram())["a.weight"], seen.T @ seen)


def test_the_layers_of_a_transformer_are_seen_where_they_are_called() -> None:
    """In eval mode without gradients torch would run the whole layer in one fused call, past every hook."""
    layer = nn.TransformerEncoderLayer(6, 2, 8, batch_first=True).eval()
    x = torch.randn(3, 4, 6)
    params = prunable(layer, only=["linear1.weight", "linear2.weight"])
    found = gather(layer, [x], [input_norm()], params=params)["input_norm"]
    inner = layer.norm1(x + layer.self_attn(x, x, x)[0]).detach().double()
    torch.testing.assert_close(found["linear1.weight"][0], inner.flatten(0, 1).norm(dim=0), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("model", "what"),
    [
        (nn.LSTM(4, 3), r"'weight_ih_l0' \(LSTM\)"),
        (nn.GRUCell(4, 3), r"'weight_ih' \(GRUCell\)"),
        (nn.ConvTranspose2d(2, 3, 3), r"'weight' \(ConvTranspose2d\)"),
        (nn.Bilinear(2, 3, 4), r"'weight' \(Bilinear\)"),
        (nn.MultiheadAttention(4, 2), r"'in_proj_weight' \(MultiheadAttention\)"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_layers_whose_inputs_cannot_be_seen_are_refused(model: nn.Module, what: str) -> None:
    with pytest.raises(SecateurError, match=rf"The inputs that {what} multiplies cannot be seen: .*`only=`"):
        _gather(model, [torch.zeros(1)], input_norm())
    if isinstance(model, nn.MultiheadAttention):
        with pytest.raises(SecateurError, match=r"'out_proj.weight' \(MultiheadAttention\)"):
            gather(model, [torch.zeros(1)], [gram()], params=prunable(model, only="out_proj.weight"))


def test_biases_are_refused() -> None:
    model = nn.Linear(3, 2)
    with pytest.raises(SecateurError, match=r"'bias' \(Linear\)"):
        gather(model, [torch.zeros(1, 3)], [input_norm()], params=prunable(model, biases=True))


def test_a_weight_used_behind_the_layers_back_is_named() -> None:
    class Behind(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(3, 2)

        def forward(self, x: Tensor) -> Tensor:
            return F.linear(x, self.fc.weight)

    with pytest.raises(ScoreError, match=r"no 'input_norm' of fc\.weight: .*without calling the layer"):
        _gather(Behind(), [torch.ones(1, 3)], input_norm())


# --- the hooks themselves --------------------------------------------------------------------------------------------


def test_outputs_and_their_gradients_are_seen_before_what_works_in_place() -> None:
    net = nn.Sequential(nn.Conv2d(2, 3, 3), nn.ReLU(inplace=True), nn.Flatten(), nn.Linear(12, 2)).double()
    x, y = torch.randn(5, 2, 4, 4, dtype=torch.float64), torch.arange(5) % 2
    calls: dict[str, Call] = {}
    with watched(net, prunable(net), lambda call: calls.update({call.name: call})):
        F.cross_entropy(net(x), y).backward()
    for name in ("0", "3"):
        call = calls[f"{name}.weight"]
        assert call.grad is not None and not call.inputs.requires_grad and not call.outputs.requires_grad
        torch.testing.assert_close(call.outputs, net.get_submodule(name)(call.inputs).detach())
        # ∂L/∂W is what inputs and output gradients make of each other, by the chain rule.
        columns = call.patches().reshape(-1, call.weight[0].numel())
        by_hand = (call.units(call.grad).T @ columns).view_as(call.weight)
        torch.testing.assert_close(by_hand, net.get_parameter(call.name).grad)
    plain = nn.Sequential(net[0], nn.ReLU(), net[2], net[3])
    params = list(net.parameters())
    wanted = torch.autograd.grad(F.cross_entropy(plain(x), y), params)
    assert all(torch.equal(p.grad, g) for p, g in zip(params, wanted, strict=True) if p.grad is not None)


def test_hooks_are_gone_whatever_happens() -> None:
    class Breaks(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(3, 2)

        def forward(self, x: Tensor) -> Tensor:
            self.fc(x)
            raise RuntimeError("out of luck")

    model = Breaks()
    with pytest.raises(RuntimeError, match="out of luck"):
        _gather(model, [torch.ones(1, 3)], gram())
    assert not model.fc._forward_hooks
    fine = nn.Linear(3, 2)
    _gather(fine, [torch.ones(1, 3)], gram())
    assert not fine._forward_hooks


def test_half_precision_is_summed_in_double() -> None:
    layer, x = nn.Linear(2, 2).to(torch.bfloat16), torch.full((4096, 2), 1.0, dtype=torch.bfloat16)
    assert _gather(layer, [x] * 3, input_norm())["weight"].tolist() == [[(3 * 4096) ** 0.5] * 2]
    assert _gather(layer, [x] * 3, gram())["weight"].tolist() == [[3 * 4096.0] * 2] * 2

"""Fisher and Gauss-Newton diagonals against loops over samples, sums over all labels, and autograd's own Hessian."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from secateur import Measure, SecateurError, UnfitModelError, gather, methods, prunable, prune
from secateur.curvature import categorical, empirical_fisher, gaussian, ggn_diag, per_sample, true_fisher
from secateur.curvature._outer import outer_squares, summed_cross_entropy
from secateur.measures import Probe
from secateur.testing import MODELS, case


def net() -> nn.Sequential:
    with torch.random.fork_rng():
        torch.manual_seed(5)
        layers = [nn.Conv2d(2, 4, 3, groups=2), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(36, 3)]
        return nn.Sequential(*layers).double()


def batches(count: int = 2) -> list[tuple[Tensor, Tensor]]:
    drawn = torch.Generator().manual_seed(1)
    return [(torch.randn(5, 2, 5, 5, dtype=torch.float64, generator=drawn), torch.arange(5) % 3) for _ in range(count)]


def found(model: nn.Module, measure: Measure, data: list, **options) -> dict[str, Tensor]:  # type: ignore[no-untyped-def]
    return gather(model, data, [measure], params=prunable(model, "*weight"), **options)[measure.name]


def by_loop(model: nn.Module, data: list, term) -> dict[str, Tensor]:  # type: ignore[no-untyped-def]
    """Σ over samples of what `term` makes of one sample."""
    params = prunable(model)
    total = {name: torch.zeros_like(p) for name, p in params.items()}
    model.eval()
    for inputs, targets in data:
        for n in range(len(inputs)):
            for loss, weight in term(model(inputs[n : n + 1]), targets[n : n + 1]):
                grads = torch.autograd.grad(loss, list(params.values()), retain_graph=True)
                for name, grad in zip(params, grads, strict=True):
                    total[name] += weight * grad.square()
    return total


def test_empirical_fisher_squares_each_sample_and_not_the_mean() -> None:
    model, data = net(), batches()
    wanted = by_loop(model, data, lambda output, target: [(F.cross_entropy(output, target), 1.0)])
    model.train()
    for name, value in found(model, empirical_fisher(), data).items():
        torch.testing.assert_close(value, wanted[name])
    assert model.training


@pytest.mark.parametrize("model", MODELS)
def test_samples_together_and_one_by_one_agree(model: str) -> None:
    given = case(model)
    probe = Probe(given.model.eval(), prunable(given.model), given.batch, None)
    ways = [torch.cat([_flat(part) for part in per_sample(probe, vectorise=way)]) for way in (True, False)]
    assert ways[0].shape[0] == 12
    torch.testing.assert_close(ways[0], ways[1], rtol=1e-4, atol=1e-6)
    torch.testing.assert_close(ways[0].mean(0), _flat({n: g[None] for n, g in probe.grads.items()})[0])


def _flat(grads: dict[str, Tensor]) -> Tensor:
    return torch.cat([grads[name].flatten(1) for name in sorted(grads)], 1)


def test_batches_of_mappings_are_taken_apart_too() -> None:
    class Named(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(3, 2).double()

        def forward(self, x: Tensor) -> dict[str, Tensor]:
            return {"logits": self.layer(x)}

    model, x, y = Named(), torch.randn(4, 3, dtype=torch.float64), torch.tensor([0, 1, 1, 0])
    named = found(model, empirical_fisher(), [{"x": x, "labels": y}])
    torch.testing.assert_close(named["layer.weight"], found(model.layer, empirical_fisher(), [(x, y)])["weight"])
    drawn = found(model, true_fisher(draws=3), [{"x": x}], generator=torch.Generator().manual_seed(2))
    assert bool((drawn["layer.weight"] > 0).all())


def test_ggn_is_the_fisher_of_all_labels_and_the_mean_of_drawn_ones() -> None:
    model, data = net(), batches(1)

    def all_labels(output: Tensor, target: Tensor) -> list[tuple[Tensor, float]]:
        chances = output.detach().softmax(1)[0]
        return [(F.cross_entropy(output, torch.tensor([c])), float(chances[c])) for c in range(3)]

    wanted = by_loop(model, data, all_labels)
    exact = found(model, ggn_diag(), data)
    for name in wanted:
        torch.testing.assert_close(exact[name], wanted[name])
    # 600 draws: the mean of each entry is within a few standard errors, and the whole within two per cent.
    drawn = found(model, true_fisher(draws=600), [data[0][0]], generator=torch.Generator().manual_seed(0))
    for name in wanted:
        ratio = float(drawn[name].sum() / wanted[name].sum())
        assert abs(ratio - 1) < 0.06, (name, ratio)


def test_ggn_is_the_hessian_where_the_network_is_piecewise_linear() -> None:
    model = nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 2)).double()
    x, y = torch.randn(6, 4, dtype=torch.float64), torch.randn(6, 2, dtype=torch.float64)
    loss = gaussian().loss
    exact = found(model, ggn_diag(likelihood=gaussian()), [(x, y)], loss=loss)
    for name, p in prunable(model).items():

        def at(value: Tensor, name: str = name) -> Tensor:
            return loss(torch.func.functional_call(model, {name: value}, (x,)), y)

        hessian = torch.autograd.functional.hessian(at, p.detach()).reshape(p.numel(), p.numel())
        torch.testing.assert_close(exact[name].flatten(), hessian.diagonal())
    # Of a linear layer: the sum of squared inputs, whatever the labels.
    line = nn.Linear(4, 2).double()
    squares = found(line, ggn_diag(likelihood=gaussian()), [(x, y)], loss=loss)["weight"]
    torch.testing.assert_close(squares, x.square().sum(0).expand(2, 4))


def test_positions_are_drawn_each_for_itself() -> None:
    model = nn.Conv1d(2, 3, 1, bias=False).double()
    x = torch.randn(2, 2, 4, dtype=torch.float64)
    exact = found(model, ggn_diag(), [x])["weight"][:, :, 0]
    p, want = model(x).detach().softmax(1), torch.zeros(3, 2, dtype=torch.float64)
    for n in range(2):  # the Gauss-Newton matrix adds up over positions, with their own H
        for t in range(4):
            h = torch.diag(p[n, :, t]) - torch.outer(p[n, :, t], p[n, :, t])
            want += h.diagonal()[:, None] * x[n, :, t].square()
    torch.testing.assert_close(exact, want)
    labels = categorical().draw(model(x), torch.Generator().manual_seed(0))
    assert labels.shape == (2, 4)


def test_what_cannot_be_taken_apart_is_refused_and_nothing_changes() -> None:
    model, (batch,) = net(), batches(1)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    pruned = methods.obd(0.5, curvature=empirical_fisher())
    nan = batch[0].clone()
    nan[0, 0, 0, 0] = torch.nan
    for data, loss, said in (
        ([(batch[0], batch[1][:3])], None, "one row for each sample"),
        ([batch[0]], None, "needs labels"),
        ([(nan, batch[1])], None, "loss of a scoring batch is nan"),
        ([batch], lambda output, target: output, "must return a scalar"),
    ):
        with pytest.raises(SecateurError, match=said):
            prune(model, pruned, data, loss=loss)
    with pytest.raises(SecateurError, match=r"likelihood=curvature\.gaussian\(\)"):
        prune(model, methods.obd(0.5, curvature=true_fisher()), [batch], loss=F.mse_loss)
    with pytest.raises(SecateurError, match="not finite"):
        prune(model, methods.obd(0.5, curvature=true_fisher()), [nan])
    norm: Any = model[1]
    norm.track_running_stats, norm.running_mean, norm.running_var = False, None, None
    with pytest.raises(UnfitModelError, match="batch norm '1' takes the statistics of the batch"):
        prune(model, pruned, [batch])
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


def test_a_layer_that_never_runs_is_named() -> None:
    class Idle(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.used, self.idle = nn.Linear(3, 2), nn.Linear(3, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.used(x)

    for measure in (empirical_fisher(), true_fisher(), ggn_diag()):
        with pytest.raises(SecateurError, match=r"idle\.weight: no batch reached them"):
            found(Idle(), measure, [(torch.randn(2, 3), torch.tensor([0, 1]))])


def test_half_precision_and_frozen_weights() -> None:
    model = nn.Linear(4, 3)
    x, y = torch.randn(6, 4), torch.arange(6) % 3
    want = found(model, empirical_fisher(), [(x, y)])["weight"]
    model.weight.requires_grad_(False)
    torch.testing.assert_close(found(model, empirical_fisher(), [(x, y)])["weight"], want)
    half = found(model.bfloat16(), true_fisher(draws=2), [x.bfloat16()])["weight"]
    assert half.dtype == torch.float64 and bool((half >= 0).all()) and model.weight.dtype == torch.bfloat16


def test_linear_layers_need_no_gradients_and_mixing_samples_is_noticed() -> None:
    class Mixed(nn.Module):
        """Each sample looks at the mean of all: alone it is another one."""

        def __init__(self) -> None:
            super().__init__()
            self.layer, self.head = nn.Linear(4, 5).double(), nn.Linear(5, 3).double()

        def forward(self, x: Tensor) -> Tensor:
            h = self.layer(x).tanh()
            return self.head(h + h.mean(0))

    plain = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3)).double()
    x, y = torch.randn(6, 4, dtype=torch.float64), torch.arange(6) % 3
    for model in (plain, Mixed()):
        wanted = by_loop(model, [(x, y)], lambda output, target: [(F.cross_entropy(output, target), 1.0)])
        for name, value in found(model, empirical_fisher(), [(x, y)]).items():
            torch.testing.assert_close(value, wanted[name])
        probe = Probe(model, prunable(model), (x, y), summed_cross_entropy)
        assert (outer_squares(probe) is None) == isinstance(model, Mixed)
    # A layer that is called twice, or sees more rows than samples, is taken sample by sample as well.
    twice = nn.Sequential(plain[0], nn.Tanh(), nn.Linear(5, 4).double(), plain[0], nn.Linear(5, 3).double())
    wanted = by_loop(twice, [(x, y)], lambda output, target: [(F.cross_entropy(output, target), 1.0)])
    for name, value in found(twice, empirical_fisher(), [(x, y)]).items():
        torch.testing.assert_close(value, wanted[name])

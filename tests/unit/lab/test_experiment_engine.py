"""Two engines behind one seam: the same training within rounding, chosen by the run alone, never changed midway."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from secateur._base import door
from secateur._base.errors import LeakError, SecateurError
from secateur.lab import data
from secateur.lab.comparing import grid
from secateur.lab.experiment import Adam, Constant, Engine, Experiment, Ramp, Recipe, Sgd
from secateur.lab.running import Choice, Progress, build_optimizer, choose, run, sparse_below, start
from secateur.masks import Masks

needs_kernels = pytest.mark.skipif(door.native is None, reason=f"no compiled kernels: {door.why_not}")
BASE = Experiment("lenet-300-100", "digits", "snip", 0.05, Recipe(20, Ramp(0.1, 20), batch=50, evaluate_every=10))


@pytest.fixture(scope="module")
def digits() -> data.Dataset:
    return data.load("digits", seed=0)


def stack(density: float, generator: torch.Generator) -> tuple[nn.Sequential, Masks]:
    model = nn.Sequential(nn.Flatten(), nn.Linear(12, 9), nn.ReLU(), nn.Linear(9, 4))
    masks = Masks({name: torch.rand(p.shape, generator=generator) < density for name, p in model.named_parameters()})
    return model, Masks({name: mask for name, mask in masks.items() if name.endswith("weight")})


@needs_kernels
@pytest.mark.parametrize(
    "recipe",
    [
        BASE.recipe,
        replace(BASE.recipe, optimizer=Sgd(momentum=0.0, weight_decay=0.01)),
        replace(BASE.recipe, optimizer=Sgd(nesterov=True)),
        replace(BASE.recipe, optimizer=Adam(weight_decay=1e-3), rate=Constant(1e-3)),
    ],
    ids=["momentum", "plain", "nesterov", "adam"],
)
def test_engines_agree(recipe: Recipe, digits: data.Dataset, tmp_path: Path) -> None:
    found = {}
    for wanted in (Engine.TORCH, Engine.SPARSE):
        result = run(replace(BASE, recipe=recipe, engine=wanted), root=tmp_path, dataset=digits)
        assert result.facts["engine"] == {"name": str(wanted), "why": "asked for"}
        found[wanted] = result, load_file(result.directory / "weights.safetensors")
    (eager, one), (sparse, other) = found.values()
    for name in one:
        torch.testing.assert_close(other[name], one[name], rtol=1e-3, atol=1e-5)
    losses = [[point["loss"] for point in result.facts["curve"]] for result in (eager, sparse)]
    assert losses[1] == pytest.approx(losses[0], rel=1e-3)


@needs_kernels
def test_auto_takes_sparse_where_it_computes_the_step(generator: torch.Generator) -> None:
    model, masks = stack(0.1, generator)
    assert choose(Engine.AUTO, model, masks, Sgd()) == Choice(Engine.SPARSE, "it computes this step")
    assert choose(Engine.TORCH, model, masks, Sgd()) == Choice(Engine.TORCH, "asked for")


@needs_kernels
def test_auto_says_why_not(generator: torch.Generator) -> None:
    model, masks = stack(0.97, generator)
    assert choose(Engine.AUTO, model, masks, Sgd()) == Choice(Engine.TORCH, "more than 90 % of the weights stay")
    assert choose(Engine.AUTO, model, None, Sgd()) == Choice(Engine.TORCH, "nothing was pruned")
    odd = nn.Sequential(nn.Linear(4, 3), nn.Softplus(), nn.Linear(3, 2))
    few = Masks({"0.weight": torch.zeros(3, 4).bool()})
    choice = choose(Engine.AUTO, odd, few, Sgd())
    assert choice.engine is Engine.TORCH and choice.why
    with pytest.raises(SecateurError, match=r"`engine` sparse does not fit this run: .*Use --engine auto or torch\."):
        choose(Engine.SPARSE, odd, few, Sgd())


def test_how_much_may_stay_depends_on_the_network() -> None:
    small, large = nn.Linear(1000, 999, bias=False), nn.Linear(1000, 1000, bias=False)
    stacked = nn.Sequential(small, nn.GRU(4, 4))
    assert [sparse_below(model) for model in (small, large, stacked)] == [0.9, 0.25, 0.4]


def test_without_kernels_auto_is_torch(generator: torch.Generator, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(door, "native", None)
    monkeypatch.setattr(door, "why_not", "switched off")
    model, masks = stack(0.1, generator)
    choice = choose(Engine.AUTO, model, masks, Sgd())
    assert choice.engine is Engine.TORCH and "switched off" in choice.why


@needs_kernels
def test_a_run_keeps_the_engine_it_began_with(
    digits: data.Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class CutError(Exception):
        pass

    def cut(news: Progress) -> None:
        if news.step == 10:
            raise CutError

    def without_kernels(*ignored: object, bf16: bool) -> Choice:
        return Choice(Engine.TORCH, "no kernels on that day")

    with monkeypatch.context() as patch, pytest.raises(CutError):
        patch.setattr("secateur.lab.running._work.choose", without_kernels)
        run(BASE, root=tmp_path, dataset=digits, save_every=0.0, on_progress=cut)
    resumed = run(BASE, root=tmp_path, dataset=digits)
    assert resumed.facts["engine"] == {"name": "torch", "why": "no kernels on that day"}


@pytest.mark.parametrize("wanted", [Engine.TORCH, pytest.param(Engine.SPARSE, marks=needs_kernels)])
def test_predictions_are_those_of_the_weights_handed_back(wanted: Engine, generator: torch.Generator) -> None:
    model, masks = stack(0.3, generator)
    model.insert(1, nn.BatchNorm1d(12)) if wanted is Engine.TORCH else None  # a layer whose mode matters
    masks = masks if wanted is Engine.SPARSE else Masks({"2.weight": masks["1.weight"], "4.weight": masks["3.weight"]})
    masks.apply_(model)
    stepper = start(Choice(wanted, "asked for"), model, masks, Sgd())
    x, y = torch.rand(8, 12, generator=generator), torch.randint(4, (8,), generator=generator)
    for _ in range(3):
        stepper.step(x, y, 0.1)
    predicted, training = stepper.predict(x), model.training
    stepper.sync()
    assert model.training == training and not predicted.requires_grad
    torch.testing.assert_close(predicted, model.eval()(x).detach())
    stepper.close()


def test_dense_beside_a_sparse_engine_gets_auto() -> None:
    snip, dense = grid(replace(BASE, engine=Engine.SPARSE), ["snip", "dense"], [0])
    assert (snip.engine, dense.engine) == (Engine.SPARSE, Engine.AUTO)


@pytest.mark.parametrize("wanted", [Engine.TORCH, pytest.param(Engine.SPARSE, marks=needs_kernels)])
def test_a_leak_is_found(wanted: Engine, generator: torch.Generator, monkeypatch: pytest.MonkeyPatch) -> None:
    model, masks = stack(0.1, generator)
    masks.apply_(model)
    stepper = start(Choice(wanted, "asked for"), model, masks, Sgd())
    stepper.step(torch.rand(5, 12, generator=generator), torch.tensor([0, 1, 2, 3, 0]), 0.1)
    stepper.verify()
    monkeypatch.setattr(stepper, "sync", lambda: None)
    if wanted is Engine.SPARSE:
        monkeypatch.setattr(stepper.fused, "write_back", lambda: None)  # type: ignore[attr-defined]
    with torch.no_grad():
        model[1].weight[~masks["1.weight"]] = 1.0
    with pytest.raises(LeakError, match=r"1\.weight"):
        stepper.verify()
    stepper.close()


def test_memory_of_a_foreign_model_is_refused(generator: torch.Generator) -> None:
    model, masks = stack(0.1, generator)
    stepper = start(Choice(Engine.TORCH, "asked for"), model, masks, Sgd())
    with pytest.raises(SecateurError, match=r"holds 'momentum_buffer' of 'x\.weight', which the model does not have"):
        stepper.restore({"momentum_buffer/x.weight": torch.zeros(1)})
    stepper.close()


def test_optimizers_are_those_of_the_recipe() -> None:
    model = nn.Linear(2, 1)
    sgd = build_optimizer(model, Sgd(momentum=0.8, weight_decay=0.1, nesterov=True))
    adam = build_optimizer(model, Adam(beta1=0.5, beta2=0.6, epsilon=1e-3, weight_decay=0.2))
    assert isinstance(sgd, torch.optim.SGD) and isinstance(adam, torch.optim.Adam)
    assert [sgd.defaults[key] for key in ("momentum", "weight_decay", "nesterov")] == [0.8, 0.1, True]
    assert [adam.defaults[key] for key in ("betas", "eps", "weight_decay")] == [(0.5, 0.6), 1e-3, 0.2]

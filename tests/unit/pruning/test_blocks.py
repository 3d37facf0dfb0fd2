"""Block by block: each behind the pruned ones before it, against the loop written out; and what is refused."""

from __future__ import annotations

import copy
import types
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from secateur import (
    Masks,
    SecateurError,
    UnfitModelError,
    measured,
    methods,
    prune,
    repairs,
    schedule,
    scope,
    structure,
)
from secateur import method as made
from secateur.axes import Method
from secateur.measures import Params, input_norm


class Block(nn.Module):
    """As a decoder's layer: the states by place, the rest by keyword, a tuple out."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.norm, self.up, self.down = nn.LayerNorm(size), nn.Linear(size, 2 * size), nn.Linear(2 * size, size)
        self.drop = nn.Dropout(0.5)

    def forward(self, states: Tensor, *, mask: Tensor, past: Any = None) -> tuple[Tensor, None]:
        return states + mask * self.drop(self.down(torch.relu(self.up(self.norm(states))))), None


class Decoder(nn.Module):
    """Embedding, blocks, head; `bent` puts something between the blocks."""

    def __init__(self, *, bent: bool = False, size: int = 12) -> None:
        super().__init__()
        self.config = types.SimpleNamespace(use_cache=True)
        self.embed, self.head = nn.Linear(6, size), nn.Linear(size, 5)
        self.layers = nn.ModuleList([Block(size) for _ in range(3)])
        self.bent = bent
        self.cached: list[bool] = []

    def forward(self, x: Tensor) -> Tensor:
        states = self.embed(x)
        self.cached.append(self.config.use_cache)
        for number, layer in enumerate(self.layers):
            states = layer(states, mask=torch.full_like(states, 1 + number))[0]
            states = torch.tanh(states) if self.bent else states
        return self.head(states)


@pytest.fixture
def batches() -> list[Tensor]:
    drawn = torch.Generator().manual_seed(1)
    return [torch.randn(count, 4, 6, generator=drawn) for count in (9, 5)]


def _decoder(*, bent: bool = False) -> Decoder:
    torch.manual_seed(0)
    return Decoder(bent=bent)


def _by_hand(model: Decoder, method: Method, batches: list[Tensor]) -> dict[str, Tensor]:
    """Prune one block after the other, each on what the model so far gives it."""
    found: dict[str, Tensor] = {}
    model.eval()
    for number in range(3):
        names = [f"layers.{number}.up.weight", f"layers.{number}.down.weight"]
        found |= prune(model, method, batches, only=names)
    return found


@pytest.mark.parametrize("bent", [False, True])
@pytest.mark.parametrize("factory", [methods.wanda, methods.sparsegpt, methods.obc])
def test_it_is_the_loop_over_blocks(factory: Any, bent: bool, batches: list[Tensor]) -> None:
    model, plain = _decoder(bent=bent), _decoder(bent=bent)
    masks = prune(model, factory(0.5), batches, blocks="layers.*")
    assert dict(masks).keys() == _by_hand(plain, factory(0.5), batches).keys()
    for name, parameter in plain.named_parameters():
        torch.testing.assert_close(model.get_parameter(name), parameter)
    assert all(torch.equal(model.get_parameter(name) != 0, bits) for name, bits in masks.items())


def test_it_differs_from_all_at_once(batches: list[Tensor]) -> None:
    one, other = _decoder().eval(), _decoder().eval()
    by_blocks = prune(one, methods.wanda(0.3), batches, blocks=["layers.0", "layers.1", "layers.2"])
    at_once = prune(other, methods.wanda(0.3), batches, only="layers.*")
    assert by_blocks["layers.0.up.weight"].equal(at_once["layers.0.up.weight"])
    assert by_blocks != at_once


def test_the_model_is_left_as_found_but_for_its_blocks(batches: list[Tensor]) -> None:
    model = _decoder().train()
    model.layers[1].eval()
    modes = [module.training for module in model.modules()]
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    state = torch.get_rng_state()
    masks = prune(model, methods.wanda(0.5), batches, blocks="layers.*")
    assert torch.equal(state, torch.get_rng_state()) and modes == [module.training for module in model.modules()]
    assert model.config.use_cache and model.cached == [False, False]  # the model itself ran once on each batch
    assert not any(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules())
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter, before[name] * masks.get(name, torch.tensor(True)))


def test_one_blocks_evidence_is_held_at_a_time(batches: list[Tensor]) -> None:
    asked: list[set[str]] = []
    usual = input_norm()

    def begin(params: Params) -> Any:
        asked.append({name.rpartition(".")[0].rpartition(".")[0] for name in params})
        return usual.begin(params)

    noted = type(usual)("input_norm", begin, needs=usual.needs, reduction=usual.reduction)
    score = measured(lambda weight, input_norm: weight.abs() * input_norm, {"input_norm": noted})
    own = made("own", score, structure=structure.weights(), scope=scope.per_row(), schedule=schedule.once(0.5))
    prune(_decoder(), own, batches, blocks="layers.*")
    assert asked == [{"layers.0"}, {"layers.1"}, {"layers.2"}]


def test_each_block_may_have_a_method_of_its_own_and_go_on_from_masks(batches: list[Tensor]) -> None:
    model = _decoder()
    first = prune(
        model, methods.wanda(0.5), batches, blocks={"layers.0": methods.wanda(0.8), "layers.*": methods.wanda(0.5)}
    )
    assert round(first["layers.0.down.weight"].float().mean().item(), 2) == 0.79  # 19 of 24
    assert first["layers.2.down.weight"].float().mean() == 0.5
    again = prune(model, methods.wanda(0.25), batches, blocks="layers.*", masks=first)
    assert not any(bool((again[name] & ~first[name]).any()) for name in first)
    assert again["layers.0.down.weight"].float().mean() == 0.25


# --- against the dense block's outputs --------------------------------------------------------------------------------


def _distance(model: nn.Module, dense: nn.Module, batches: list[Tensor]) -> float:
    with torch.no_grad():
        return float(sum((model.eval()(x) - dense.eval()(x)).square().sum() for x in batches))


@pytest.mark.parametrize("bent", [False, True])
def test_survivors_trained_on_the_dense_outputs_come_nearer(bent: bool, batches: list[Tensor]) -> None:
    dense = _decoder(bent=bent)
    found = []
    for repair in (repairs.sweep(), repairs.then(repairs.sweep(), repairs.tuned(150, learning_rate=3e-3))):
        model = _decoder(bent=bent)
        masks = prune(model, methods.sparsegpt(0.4, repair=repair), batches, blocks="layers.*")
        assert all(bool((model.get_parameter(name)[~bits] == 0).all()) for name, bits in masks.items())
        assert all(p.grad is None for p in model.parameters())
        found.append(_distance(model, dense, batches))
    assert found[1] < 0.7 * found[0]


def test_a_loss_is_that_of_the_dense_blocks_outputs(batches: list[Tensor]) -> None:
    dense, seen = _decoder().eval(), []

    class Spy:
        measures: tuple[Any, ...] = ()
        always, targets = False, True

        def __call__(self, model: nn.Module, masks: Masks, moment: Any) -> None:
            seen.append(([target for _, target in moment.batches], moment.loss))

    spying = made(
        "spying",
        lambda weight: weight.abs(),
        structure=structure.weights(),
        scope=scope.layerwise(),
        schedule=schedule.once(0.5),
        repair=Spy(),
    )
    prune(_decoder(), spying, batches, blocks="layers.*")
    with torch.no_grad():
        for index, x in enumerate(batches):
            states = dense.embed(x)
            for number, layer in enumerate(dense.layers):
                states = layer(states, mask=torch.full_like(states, 1 + number))[0]
                torch.testing.assert_close(seen[number][0][index], states)
    assert float(seen[0][1](torch.zeros(3), torch.full((3,), 2.0))) == 4.0


# --- refused ----------------------------------------------------------------------------------------------------------


def _refused(model: nn.Module, match: str, batches: Any, kind: type[Exception] = SecateurError, **given: Any) -> None:
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(kind, match=match):
        prune(model, given.pop("method", methods.sparsegpt(0.5)), batches, **given)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert not any(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules())


def test_what_cannot_be_is_refused_by_name(batches: list[Tensor]) -> None:
    _refused(_decoder(), r"`blocks`: no module is called 'layer\.\*'", batches, blocks="layer.*")
    _refused(_decoder(), r"'layers.0.up' is inside of 'layers.0'", batches, blocks=["layers.0", "layers.0.up"])
    _refused(_decoder(), "need `batches`", None, blocks="layers.*")
    _refused(_decoder(), "`batches` is empty", [], blocks="layers.*")
    _refused(_decoder(), "Nothing to prune in the blocks layers.0", batches, blocks=["layers.0"], only="head.weight")
    once = nn.Linear(6, 6)
    _refused(nn.Sequential(once, nn.ReLU(), once), "called once each", batches, UnfitModelError, blocks=["0"])


def test_a_layer_that_never_runs_is_named(batches: list[Tensor]) -> None:
    model = _decoder()
    model.layers[1].spare = nn.Linear(3, 3)
    _refused(model, r"no 'gram' of layers\.1\.spare\.weight", batches, blocks="layers.*")
    model.spare = Block(12)
    _refused(model, "spare never ran", batches, UnfitModelError, blocks=["layers.0", "spare"])


def test_a_block_that_fails_gives_back_those_before_it(batches: list[Tensor]) -> None:
    model = _decoder()
    with torch.no_grad():
        model.layers[2].up.bias[3] = float("nan")
    before = [p.detach().clone() for p in model.parameters()]
    with pytest.raises(SecateurError, match=r"'layers\.2\.down\.weight': .*look for NaN"):
        prune(model, methods.sparsegpt(0.5), batches, blocks="layers.*")
    assert all(
        torch.equal(p, old) or bool(old.isnan().any()) for p, old in zip(model.parameters(), before, strict=True)
    )


def test_an_iterator_serves_all_blocks(batches: list[Tensor]) -> None:
    once = prune(_decoder(bent=True), methods.sparsegpt(0.5), iter(batches), blocks="layers.*")
    assert once == prune(_decoder(bent=True), methods.sparsegpt(0.5), batches, blocks="layers.*")

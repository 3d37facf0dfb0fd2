"""Stages, barriers, criteria, frozen weights, forgetting, and tickets that travel."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from online_cases import adam, batch, mlp, sgd
from online_cases import step as train_step
from secateur import Masks, programs, prunable, tickets
from secateur._base.errors import MaskError, SecateurError
from secateur.tickets import Forgetting, Stage, error_barrier, instability, mask_distance, run_stage, shorter, transfer


def staged(model: nn.Module, stage: Stage) -> dict[str, Tensor]:
    """Ordinary training by SGD with momentum, which goes on where an earlier stage ended."""
    optimizer = sgd(model)
    named = dict(model.named_parameters())
    for name, value in (stage.state or {}).items():
        optimizer.state[named[name]]["momentum_buffer"] = value.clone()
    for number in range(stage.start, stage.stop):
        train_step(model, optimizer, number)
    return {n: optimizer.state[p]["momentum_buffer"] for n, p in named.items()}


# --- stages -------------------------------------------------------------------------------------------------------


def test_a_training_in_parts_is_the_whole_one() -> None:
    whole, parts = mlp(), mlp()
    run_stage(staged, whole, Stage(0, 12, 12))
    memory = run_stage(staged, parts, Stage(0, 5, 12))
    run_stage(staged, parts, Stage(5, 12, 12, memory))
    assert all(torch.equal(p, whole.state_dict()[n]) for n, p in parts.state_dict().items())
    assert run_stage(staged, parts, Stage(12, 12, 12, memory)) is memory


def test_a_stage_outside_of_training_is_refused() -> None:
    for wrong in ((3, 2, 5), (0, 6, 5), (-1, 2, 5)):
        with pytest.raises(SecateurError, match="must not lie behind the end of training"):
            Stage(*wrong)


def test_a_training_that_returns_nothing_is_undone_and_says_what_to_return() -> None:
    model, before = mlp(), mlp().state_dict()

    def forgetful(network: nn.Module, stage: Stage) -> None:
        staged(network, stage)

    with pytest.raises(SecateurError, match=r"must return what its optimizer remembers.*got NoneType.*Return \{\}"):
        run_stage(forgetful, model, Stage(0, 2, 2))  # type: ignore[arg-type]
    assert all(torch.equal(p, before[n]) for n, p in model.state_dict().items())


@pytest.mark.parametrize("program", [programs.imp, programs.deconstructed])
def test_a_training_that_replaces_parameters_is_undone(program) -> None:
    model = mlp()
    own, before = dict(model.named_parameters()), mlp().state_dict()

    def replacing(network: nn.Module) -> None:
        network[0].weight = nn.Parameter(torch.ones(20, 12, dtype=torch.float64))  # type: ignore[index]

    with pytest.raises(SecateurError, match=r"another parameter in the place of 'weight' \(1 in all\).*copy_"):
        program(model, train=replacing, density=0.5)
    assert all(p is own[n] and torch.equal(p, before[n]) for n, p in model.named_parameters())


def test_a_shorter_stage_ends_at_the_share_of_the_examples_rounded_up() -> None:
    found = shorter(Stage(7, 100, 100), some=30, whole=70, among=torch.arange(30))
    assert (found.start, found.stop, found.of) == (3, 43, 43)  # ⌈100 · 30 / 70⌉ = 43


# --- distances ----------------------------------------------------------------------------------------------------


def test_the_barrier_is_zero_between_a_network_and_itself_and_symmetric() -> None:
    one, two = mlp(), mlp()
    run_stage(staged, two, Stage(0, 10, 10))
    inputs, targets = batch(50)

    def loss(network: nn.Module) -> float:
        return float(F.cross_entropy(network(inputs), targets).detach())

    a, b = one.state_dict(), two.state_dict()
    assert error_barrier(one, a, a, loss) == 0
    assert error_barrier(one, a, b, loss, points=7) == pytest.approx(error_barrier(one, b, a, loss, points=7))
    assert error_barrier(one, a, b, loss, points=2) == pytest.approx(abs(loss(one) - loss(two)) / 2)
    by_hand = []
    for k in range(5):
        probe = mlp()
        probe.load_state_dict({n: a[n] + k / 4 * (b[n] - a[n]) for n in a})
        by_hand.append(loss(probe))
    assert error_barrier(one, a, b, loss, points=5) == pytest.approx(max(by_hand) - (by_hand[0] + by_hand[4]) / 2)
    with pytest.raises(SecateurError, match="`points` must be at least 2"):
        error_barrier(one, a, b, loss, points=1)
    with pytest.raises(SecateurError, match="they differ at '0\\.bias'"):
        error_barrier(one, a, {n: p for n, p in b.items() if n != "0.bias"}, loss)


def test_instability() -> None:
    assert instability(0.9, 0.9) == 0 and instability(0.5, 0.0) == 1 and instability(0.8, 0.9) < 0
    for wrong in ((0.0, 0.0), (90.0, 0.5), (0.5, -0.1)):
        with pytest.raises(SecateurError):
            instability(*wrong)


def test_mask_distance_is_hammings_at_one_half() -> None:
    g = torch.Generator().manual_seed(0)
    one, two = (Masks({"w": torch.randperm(40, generator=g) < 20}) for _ in range(2))
    assert mask_distance(one, two) == pytest.approx(float((one["w"] ^ two["w"]).sum()) / 40)
    assert mask_distance(one, one) == 0 and mask_distance(one, ~one) == 1


# --- criteria and actions -----------------------------------------------------------------------------------------


def test_criteria_by_hand() -> None:
    initial, final = torch.tensor([1.0, -2.0, 0.5]), torch.tensor([-3.0, -1.0, 0.5])
    found = {name: rule(initial, final).tolist() for name, rule in tickets.CRITERIA.items()}
    assert found["large_final"] == [3, 1, 0.5] and found["small_final"] == [-3, -1, -0.5]
    assert found["large_init"] == [1, 2, 0.5] and found["small_init"] == [-1, -2, -0.5]
    assert found["magnitude_increase"] == [2, -1, 0] and found["movement"] == [4, 1, 0]
    alpha = 3.5 / 4.5
    assert found["large_init_large_final"] == pytest.approx([1, alpha, 0.5 * alpha])
    assert found["small_init_small_final"] == pytest.approx([-3 * alpha, -2, -0.5])
    signs = tickets.same_sign(tickets.large_final)(initial, final)
    assert signs.argsort(descending=True).tolist() == [1, 2, 0]
    assert tickets.towards_zero(initial, final).tolist() == [False, True, False]


def test_large_final_is_imp_layer_by_layer_and_movement_ties_without_training() -> None:
    from secateur import scope

    def run(network: nn.Module) -> None:
        staged(network, Stage(0, 5, 5))

    one, two = mlp(), mlp()
    masks = programs.deconstructed(one, train=run, density=0.2, rounds=3)
    assert masks == programs.imp(two, train=run, density=0.2, rounds=3, scope=scope.layerwise())
    assert all(torch.equal(p, two.state_dict()[n]) for n, p in one.state_dict().items())
    still = programs.deconstructed(mlp(), train=lambda _: None, density=0.25, rounds=1, criterion=tickets.movement)
    assert still["0.weight"].flatten().nonzero()[:, 0].tolist() == list(range(60))  # the exact count, by index


def test_starts_of_survivors() -> None:
    initial, g = torch.randn(30, 20, generator=torch.Generator().manual_seed(0)), torch.Generator().manual_seed(1)
    mask = torch.rand(30, 20, generator=g) < 0.3
    whole = tickets.reinitialised(initial, mask, g)
    assert not torch.equal(whole, initial) and torch.equal(whole.flatten().sort()[0], initial.flatten().sort()[0])
    among = tickets.reshuffled(initial, mask, g)
    assert torch.equal(among[mask].sort()[0], initial[mask].sort()[0]) and not torch.equal(among[mask], initial[mask])
    constant = tickets.signed_constant(initial, mask, g)
    sigma = float(initial.std(correction=0))
    assert constant.unique().tolist() == pytest.approx([-sigma, sigma]) and torch.equal(constant > 0, initial > 0)
    assert torch.equal(tickets.rewound(initial, mask, g), initial)


@pytest.mark.parametrize("make", [sgd, adam])
def test_frozen_weights_keep_their_values_and_the_others_train(make) -> None:
    model, values = mlp(), {n: torch.full_like(p, 0.3) for n, p in prunable(mlp()).items()}
    masks = Masks({n: torch.arange(p.numel()).reshape(p.shape) % 3 == 0 for n, p in prunable(model).items()})
    optimizer, before = make(model), {n: p.detach().clone() for n, p in prunable(model).items()}
    with tickets.frozen(model, masks, values):
        for number in range(5):
            train_step(model, optimizer, number)
    for name, mask in masks.items():
        now = model.get_parameter(name).detach()
        assert bool((now[~mask] == 0.3).all()) and not bool((now[mask] == before[name][mask]).any())
    train_step(model, optimizer, 9)
    assert not bool((model.get_parameter("0.weight")[~masks["0.weight"]] == 0.3).all())
    with pytest.raises(MaskError), tickets.frozen(model, Masks({"no": torch.ones(1).bool()}), values):
        pass


# --- forgetting ---------------------------------------------------------------------------------------------------


def test_forgetting_events_of_scripted_sequences() -> None:
    seen = Forgetting(4)
    script = ["1100", "0101", "1100", "0101", "1101"]
    for line in script:
        seen.look(torch.tensor([letter == "1" for letter in line]))
    assert seen.events.tolist() == [2, 0, 0, 1]
    assert seen.critical().tolist() == [True, False, True, True]
    with pytest.raises(SecateurError, match="`right` must be 4 booleans"):
        seen.look(torch.ones(3).bool())
    with pytest.raises(SecateurError, match="`count` must be at least 1"):
        Forgetting(0)


def test_predictions_leave_modes_alone() -> None:
    model = nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.Dropout(0.5), nn.Linear(6, 3)).train()
    model[1].eval()
    x = torch.randn(2500, 4)
    found = tickets.predicted(model, x)
    assert [module.training for module in model] == [True, False, True, True]
    model.eval()
    assert torch.equal(found, model(x).argmax(1))


# --- transfer -----------------------------------------------------------------------------------------------------


def net(classes: int, seed: int) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, classes))


def test_a_ticket_travels_with_its_weights_and_leaves_the_head_behind() -> None:
    source, target = net(5, 0), net(5, 1)
    masks = Masks({n: torch.rand(p.shape) < 0.5 for n, p in prunable(source).items()})
    assert transfer(target, masks, source.state_dict()) == masks
    for name, value in source.state_dict().items():
        kept = masks[name] if name in masks else torch.ones_like(value, dtype=torch.bool)
        assert torch.equal(target.state_dict()[name], torch.where(kept, value, torch.zeros_like(value)))
    other, fresh = net(3, 2), net(3, 2).state_dict()
    carried = transfer(other, masks, source.state_dict(), head=tickets.drawn_head)
    assert set(carried) == {"0.weight"} and torch.equal(other.state_dict()["3.weight"], fresh["3.weight"])


def test_other_classes_without_a_rule_are_refused_and_nothing_is_written() -> None:
    source, target = net(5, 0), net(3, 1)
    masks = Masks({n: torch.ones_like(p).bool() for n, p in prunable(source).items()})
    with pytest.raises(SecateurError, match=r"'3\.weight' has shape \(3, 8\) here and \(5, 8\).*drawn_head"):
        transfer(target, masks, source.state_dict())
    with pytest.raises(SecateurError, match="have different tensors"):
        transfer(nn.Sequential(nn.Linear(6, 8)), masks, source.state_dict())
    assert all(torch.equal(p, net(3, 1).state_dict()[n]) for n, p in target.state_dict().items())

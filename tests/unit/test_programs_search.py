"""Search by any proposer, and try-and-learn: rewards, the policy gradient, and what an agent finds."""

from __future__ import annotations

import copy
import itertools
import math
from collections.abc import Sequence

import pytest
import torch
from torch import Tensor, nn

from secateur import Masks, SecateurError, catalogue, programs
from secateur.programs import FilterAgent, Trial, policy_loss, search, try_and_learn
from secateur.programs._try_and_learn import reward


def _net(hidden: int = 12) -> nn.Sequential:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(4, hidden), nn.BatchNorm1d(hidden), nn.ReLU(), nn.Linear(hidden, 3))


class Halves:
    """Proposes the first half of the rows, then the other, in turns, and keeps what it is told."""

    def __init__(self) -> None:
        self.turn, self.told = 0, list[float]()

    def propose(self, generator: torch.Generator) -> Masks:
        rows = torch.arange(12) // 6 == self.turn % 2
        self.turn += 1
        return Masks({"0.weight": rows[:, None].expand(12, 4)})

    def feedback(self, trials: Sequence[Trial]) -> None:
        self.told += [trial.value for trial in trials]


def test_each_trial_begins_with_the_model_as_it_was_and_leaves_it_so() -> None:
    net = _net().train()
    net[1].eval()
    before = copy.deepcopy(net.state_dict())
    proposer, seen = Halves(), list[Tensor]()

    def train(model: nn.Module) -> None:
        seen.append(model.get_parameter("0.weight").detach().clone())
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
        for _ in range(2):
            model.train()
            optimizer.zero_grad()
            model(torch.randn(8, 4)).square().sum().backward()
            optimizer.step()

    def evaluate(model: nn.Module, masks: Masks) -> float:
        assert not bool(model.get_parameter("0.weight")[~masks["0.weight"]].any()), "zeros must be held in training"
        return float(model.get_parameter("0.weight").detach().sum())

    trials = search(net, proposer=proposer, evaluate=evaluate, train=train, rounds=3, samples=2)
    assert [trial.value for trial in trials] == proposer.told and len(trials) == 6
    for turn, weight in enumerate(seen):
        assert torch.equal(weight, before["0.weight"] * trials[turn].masks["0.weight"])
    after = net.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert net[0].training and not net[1].training
    assert not any(module._forward_pre_hooks or module._forward_hooks for module in net.modules())


def test_a_search_that_fails_leaves_the_model_as_it_was() -> None:
    net = _net()
    before = copy.deepcopy(net.state_dict())
    with pytest.raises(SecateurError, match="finite number, got nan"):
        search(net, proposer=Halves(), evaluate=lambda model, masks: float("nan"))
    with pytest.raises(ZeroDivisionError):
        search(net, proposer=Halves(), evaluate=lambda model, masks: 1 / 0)
    with pytest.raises(SecateurError, match="`rounds` and `samples`"):
        search(net, proposer=Halves(), evaluate=lambda model, masks: 0.0, rounds=0)
    with pytest.raises(SecateurError, match=r"0\.weight"):  # masks of another model
        search(_net(5), proposer=Halves(), evaluate=lambda model, masks: 0.0)
    assert all(torch.equal(before[name], value) for name, value in net.state_dict().items())


# --- the reward and the policy ---------------------------------------------------------------------------------------


def test_the_reward_is_nothing_for_keeping_all_or_losing_what_is_allowed_and_grows_with_what_goes() -> None:
    assert reward(0.9, 0.9, drop=0.02, filters=10, kept=10) == 0
    assert reward(0.88, 0.9, drop=0.02, filters=10, kept=3) == pytest.approx(0, abs=1e-12)
    assert reward(0.8, 0.9, drop=0.02, filters=10, kept=3) < 0
    falling = [reward(0.9, 0.9, drop=0.02, filters=10, kept=kept) for kept in range(1, 11)]
    assert falling == sorted(falling, reverse=True) and falling[0] == pytest.approx(math.log(10))
    assert reward(0.89, 0.9, drop=0.02, filters=8, kept=4) == pytest.approx(0.5 * math.log(2))


def test_the_policy_loss_points_where_the_expected_reward_rises() -> None:
    """Over all actions, weighted by their probability, the gradient of E[R] is that of E[R log π]: REINFORCE's law."""
    logits = torch.tensor([0.3, -0.7], dtype=torch.float64, requires_grad=True)
    actions = torch.tensor(list(itertools.product([0.0, 1.0], repeat=2)), dtype=torch.float64)
    rewards = torch.tensor([0.5, -1.0, 2.0, 0.1], dtype=torch.float64)
    log_pi = -nn.functional.binary_cross_entropy_with_logits(logits.expand(4, 2), actions, reduction="none").sum(1)
    (exact,) = torch.autograd.grad((log_pi.exp() * rewards).sum(), logits, retain_graph=True)
    drawn = torch.multinomial(log_pi.exp().detach(), 40_000, True, generator=torch.Generator().manual_seed(0))
    (found,) = torch.autograd.grad(policy_loss(log_pi[drawn], rewards[drawn]), logits)
    spread = rewards[drawn].std(correction=0)
    assert torch.allclose(-found * spread, exact, atol=0.02)


def test_equal_rewards_teach_nothing() -> None:
    log_pi = torch.zeros(5, requires_grad=True)
    policy_loss(log_pi, torch.full((5,), 3.0)).backward()
    assert not bool(log_pi.grad.any())  # type: ignore[union-attr]


def test_an_agent_learns_a_bandit() -> None:
    weight = torch.randn(6, 4, generator=torch.Generator().manual_seed(1))
    wanted = torch.tensor([True, False, True, False, False, True])
    masks = Masks({"w": torch.ones(6, 4, dtype=torch.bool)})
    drawn = torch.Generator().manual_seed(2)
    agent = FilterAgent("w", weight, masks, None, 0.1, drawn)
    proposals = list[Masks]()
    for _ in range(150):
        proposals = [agent.propose(drawn) for _ in range(5)]
        agent.feedback([Trial(one, float((one["w"].all(1) == wanted).sum())) for one in proposals])
    assert ((agent.logits() > 0) == wanted).all()
    assert all(bool((one["w"].all(1) == one["w"].any(1)).all()) for one in proposals)


def test_an_agent_of_a_transposed_layer_cuts_its_outputs_and_never_all() -> None:
    layer = nn.ConvTranspose2d(3, 5, 2)
    from secateur.masks import layouts

    masks = Masks({"weight": torch.ones(3, 5, 2, 2, dtype=torch.bool)})
    drawn = torch.Generator().manual_seed(0)
    agent = FilterAgent("weight", layer.weight, masks, layouts(layer)["weight"], 0.1, drawn)
    with torch.no_grad():
        agent.bias.fill_(-100)
    found = agent.propose(drawn)["weight"]
    assert found.any() and int(found.transpose(0, 1).flatten(1).all(1).sum()) == 1 == int(
        found.transpose(0, 1).flatten(1).any(1).sum()
    )


# --- the program -----------------------------------------------------------------------------------------------------


def test_filters_that_do_nothing_go_and_those_that_matter_stay() -> None:
    net = _net()
    with torch.no_grad():
        net[3].weight[:, 4:] = 0  # type: ignore[index,union-attr]  # eight of twelve hidden units are read by nobody
    x = torch.randn(400, 4, generator=torch.Generator().manual_seed(1))
    wanted = net.eval()(x).argmax(1)

    def evaluate(model: nn.Module) -> float:
        with torch.no_grad():
            return float((model.eval()(x).argmax(1) == wanted).double().mean())

    drawn = torch.Generator().manual_seed(3)
    masks = try_and_learn(
        net, train=lambda model: None, evaluate=evaluate, only=["0.weight"], rounds=40, rate=0.1, generator=drawn
    )
    stays = masks["0.weight"].any(1)
    assert int(stays[4:].sum()) <= 4 and evaluate(net) > 0.98
    assert bool((net.get_parameter("0.weight")[~masks["0.weight"]] == 0).all())


def test_where_every_cut_costs_too_much_all_stays() -> None:
    net = _net()
    before = copy.deepcopy(net.state_dict())

    def evaluate(model: nn.Module) -> float:
        return 1.0 if bool(model.get_parameter("0.weight").any(1).all()) else 0.0

    masks = try_and_learn(net, train=lambda model: None, evaluate=evaluate, only=["0.weight"], rounds=3)
    assert masks["0.weight"].all()
    assert all(torch.equal(before[name], value) for name, value in net.state_dict().items())


@pytest.mark.parametrize("wrong", [{"drop": 0.0}, {"samples": 1}, {"rate": 0.0}, {"rounds": 0}])
def test_bad_input_is_refused_unchanged(wrong: dict[str, float]) -> None:
    net = _net()
    before = copy.deepcopy(net.state_dict())
    with pytest.raises(SecateurError, match=f"`{next(iter(wrong))}`"):
        try_and_learn(net, train=lambda model: None, evaluate=lambda model: 1.0, **wrong)  # type: ignore[arg-type]
    with pytest.raises(SecateurError, match="no option `density`"):
        programs.try_and_learn(net, train=lambda model: None, evaluate=lambda model: 1.0, density=0.5)  # type: ignore[call-arg]  # pyright: ignore
    assert all(torch.equal(before[name], value) for name, value in net.state_dict().items())


def test_only_what_has_a_family_is_a_method() -> None:
    rows = {name for name, entry in catalogue().items() if "program" in entry.tags}
    assert {"imp", "try_and_learn"} <= rows and not rows & {"search", "policy_loss", "Trial"}

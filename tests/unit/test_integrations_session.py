"""What trainers' callbacks are made of, in a plain loop, with no trainer installed."""

from __future__ import annotations

import copy
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from secateur import CheckpointWarning, Masks, Pruner, SecateurError, held, methods, prune, scope
from secateur.integrations.trainers import Session

STEPS, STOP = 8, 5
CASES: dict[str, Callable[[nn.Module], Any]] = {
    "agp": lambda model: methods.agp(0.2, begin=0, end=7, every=1),
    "rigl": lambda model: methods.rigl(density=0.3, until=6, every=2),
    "masks": lambda model: prune(model, methods.magnitude(density=0.3, scope=scope.layerwise())),
    "pruner": lambda model: Pruner(model, methods.movement(density=0.3, begin=1, end=6, every=1)),
}


def network(seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(6, 20), nn.ReLU(), nn.Linear(20, 1))


def made(case: str) -> tuple[nn.Module, Session, torch.optim.Optimizer]:
    model = network()
    generator = torch.Generator().manual_seed(1) if case == "rigl" else None
    session = Session(CASES[case](model), generator=generator)
    return model, session, torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)


def train(model: nn.Module, optimizer: torch.optim.Optimizer, steps: range) -> None:
    for step in steps:
        inputs = torch.randn(8, 6, generator=torch.Generator().manual_seed(step))
        optimizer.zero_grad()
        (model(inputs) - inputs[:, :1].sign()).square().mean().backward()
        optimizer.step()


@pytest.mark.parametrize("case", CASES)
def test_a_session_goes_on_in_the_same_bits(case: str) -> None:
    model, session, optimizer = made(case)
    session.begin(model)
    train(model, optimizer, range(STOP))
    weights, state, memory = copy.deepcopy((model.state_dict(), session.state_dict(), optimizer.state_dict()))
    other, again, other_optimizer = made(case)
    other.load_state_dict(weights)
    other_optimizer.load_state_dict(memory)
    again.begin(other, state)
    assert again.step == session.step == (None if case == "masks" else STOP)
    train(other, other_optimizer, range(STOP, STEPS))
    train(model, optimizer, range(STOP, STEPS))
    masks = session.finish()
    assert again.finish() == masks == session.masks
    assert masks.density == pytest.approx(0.2 if case == "agp" else 0.3, abs=0.02)
    for name, value in model.state_dict().items():
        assert torch.equal(value, other.state_dict()[name]), name
    assert not held(model) and not held(other)


def test_figures_are_counted_from_the_masks() -> None:
    model = network()
    masks = Masks(
        {"0.weight": torch.arange(120).reshape(20, 6) % 4 == 0, "2.weight": torch.zeros(1, 20, dtype=torch.bool)}
    )
    session = Session(masks)
    session.begin(model)
    assert session.figures() == {"density": 30 / 140, "sparsity": 1 - 30 / 140, "kept": 30.0, "emptied": 1.0}


def test_dense_weights_loaded_in_between_obey_the_masks_at_the_end() -> None:
    # load_best_model_at_end: the weights are of an earlier step than the masks.
    model, session, _ = made("masks")
    session.begin(model)
    model.load_state_dict(network().state_dict())
    masks = session.finish()
    assert all(not model.get_parameter(name)[~mask].any() for name, mask in masks.items())


def test_what_is_refused() -> None:
    model = network()
    gated = methods.movement(density=0.3, end=6)
    with pytest.raises(SecateurError, match=r"movement puts gates on the model.*PrunerCallback\(pruner\)"):
        Session(gated)
    masks = prune(model, methods.magnitude(density=0.3, scope=scope.layerwise()))
    with pytest.raises(SecateurError, match="`loss` is for a method, and a Masks was given"):
        Session(masks, loss=nn.MSELoss())
    session = Session(masks)
    with pytest.raises(SecateurError, match="training has not begun"):
        session.finish()
    assert session.state_dict() == {}
    with pytest.raises(SecateurError, match=r"has the key 'masks', got \['step'\]"):
        session.begin(model, {"step": 3})
    with pytest.raises(SecateurError, match=r"\d+ of '0.weight' are pruned in it and not zero in the model"):
        session.begin(network(1), {"masks": dict(masks)})
    assert not held(model)
    with pytest.raises(SecateurError, match="not the one that this Pruner"):
        Session(Pruner(network(), gated)).begin(network())
    session.begin(model)
    with pytest.raises(SecateurError, match="one callback prunes one training"):
        session.begin(model)
    session.finish()
    with pytest.raises(SecateurError, match="one callback prunes one training"):
        session.begin(model)


def test_masks_of_the_checkpoint_are_held_with_a_warning() -> None:
    model = network()
    masks = prune(model, methods.magnitude(density=0.3, scope=scope.layerwise()))
    session = Session(Masks({name: torch.ones_like(mask) for name, mask in masks.items()}))
    with pytest.warns(CheckpointWarning, match="not those that were given"):
        session.begin(model, {"masks": dict(masks)})
    assert session.masks == masks


def test_a_run_that_broke_off_goes_on_with_the_same_session() -> None:
    model, session, optimizer = made("agp")
    session.begin(model)
    train(model, optimizer, range(STOP))
    session.begin(model, session.state_dict())
    assert session.step == STOP and len(held(model)) == 1


def test_no_trainer_is_imported_before_a_callback_is_made() -> None:
    asked = "import sys, secateur.integrations.transformers, secateur.integrations.lightning as own; "
    asked += "sys.exit(any(name in sys.modules for name in ('transformers', 'lightning', 'pytorch_lightning')))"
    subprocess.run([sys.executable, "-c", asked], check=True)

"""Recurrent networks through the sparse engine: the same training as in eager torch, within rounding."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from secateur._base import door
from secateur.lab import data
from secateur.lab.experiment import Constant, Engine, Experiment, Recipe
from secateur.lab.running import run


@pytest.mark.skipif(door.native is None, reason="needs the compiled kernels")
@pytest.mark.parametrize(("model", "biases"), [("lstm-s", False), ("gru-s", True)])
def test_engines_agree(model: str, biases: bool, tmp_path: Path) -> None:
    digits, found = data.load("digits", seed=0), {}
    recipe = Recipe(6, Constant(0.1), batch=40, evaluate_every=3)
    for engine, name in ((Engine.TORCH, "torch"), (Engine.AUTO, "sparse")):
        experiment = Experiment(model, "digits", "snip", 0.05, recipe, engine=engine, biases=biases)
        result = run(experiment, root=tmp_path, dataset=digits)
        assert result.facts["engine"]["name"] == name
        found[name] = load_file(result.directory / "weights.safetensors")
    for name, tensor in found["torch"].items():
        torch.testing.assert_close(found["sparse"][name], tensor, rtol=1e-4, atol=1e-5)

"""Experiments that say how much stays of each layer; LeNet-5 with other widths, by name."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from secateur._base.errors import SecateurError
from secateur.lab import models
from secateur.lab.experiment import Constant, Experiment, Recipe, check
from secateur.lab.running import run

BASE = Experiment("mlp-64-30-20-10", "digits", "random", 0.3, Recipe(4, Constant(0.1), batch=50))


def test_each_layer_keeps_what_was_said_and_the_network_trains(tmp_path: Path) -> None:
    wanted = replace(BASE, layers=(0.1, 0.55, 1.0))
    check(wanted)
    facts = run(wanted, root=tmp_path).facts
    assert [layer["kept"] for layer in facts["layers"]] == [192, 330, 200]
    assert facts["steps"] == 4 and 0 <= facts["test_error"] <= 1


def test_layers_are_part_of_an_experiment_s_name_and_its_file() -> None:
    wanted = replace(BASE, layers=(0.1, 0.5, 1.0))
    assert Experiment.from_json(wanted.to_json()) == wanted and "layers" not in BASE.to_json()
    assert wanted.hash != BASE.hash != replace(BASE, layers=(0.1, 0.5, 0.9)).hash


def test_layers_that_do_not_fit_are_refused() -> None:
    with pytest.raises(SecateurError, match=r"`layers` must have a number for each of the 3 prunable .*, got 2"):
        check(replace(BASE, layers=(0.1, 0.5)))
    with pytest.raises(SecateurError, match=r"`layers` say what stays .*, and the method rigl takes no scope"):
        check(replace(BASE, method="rigl", layers=(0.1, 0.5, 1.0)))
    with pytest.raises(SecateurError, match="`layers` are for a method that prunes weights"):
        replace(BASE, method="dense", density=1.0, layers=(0.1, 0.5, 1.0))


def test_a_lenet_5_of_other_widths_is_one_with_relu() -> None:
    narrow = models.build("lenet-5-3-7-68", generator=torch.Generator().manual_seed(0))
    wide = models.build("lenet-5-20-50-500", generator=torch.Generator().manual_seed(0))
    known = models.build("lenet-5-caffe-relu", generator=torch.Generator().manual_seed(0))
    assert all(torch.equal(one, other) for one, other in zip(wide.parameters(), known.parameters(), strict=True))
    assert [tuple(p.shape) for n, p in narrow.named_parameters() if n.endswith("weight")] == [
        (3, 1, 5, 5),
        (7, 3, 5, 5),
        (68, 112),
        (10, 68),
    ]
    for wrong in ("lenet-5-3-7", "lenet-5-3-0-68"):
        with pytest.raises(SecateurError, match="lenet-5-FILTERS-FILTERS-HIDDEN"):
            models.check(wrong)

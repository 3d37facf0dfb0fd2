"""Which batch norm reads which layer's output, and what is known of a layer that none reads."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from secateur import gather, prunable, scope
from secateur.measures import norm_scale, normalised


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.plain, self.plain_norm = nn.Conv2d(2, 4, 1), nn.BatchNorm2d(4)
        self.shared, self.shared_norm = nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4)
        self.read_twice, self.one_norm = nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4)
        self.bare, self.bare_norm = nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4, affine=False)
        self.up, self.up_norm = nn.ConvTranspose2d(4, 6, 2), nn.BatchNorm2d(6)
        self.head = nn.Linear(6, 3)

    def forward(self, x):  # type: ignore[no-untyped-def]
        x = self.plain_norm(self.plain(x))
        x = self.shared_norm(self.shared(x))
        x = self.shared_norm(self.shared(x))  # both are called twice
        y = self.read_twice(x)
        x = self.one_norm(y) + y  # what the norm scales is not all that is passed on
        x = self.bare_norm(self.bare(x))
        return self.head(torch.relu(self.up_norm(self.up(x))).mean((2, 3)))


class Looking(Net):
    def forward(self, x):  # type: ignore[no-untyped-def]
        return super().forward(x if float(x.sum()) > 0 else -x)


def test_a_norm_belongs_to_the_one_layer_whose_output_it_alone_reads() -> None:
    model = Net()
    found = normalised(model, prunable(model))
    assert {name: id(scale) for name, scale in found.items()} == {
        "plain.weight": id(model.plain_norm.weight),
        "up.weight": id(model.up_norm.weight),
    }
    assert normalised(Looking(), prunable(Looking())) == {}, "what cannot be traced is not known"


def test_the_measure_is_the_size_of_the_scale_and_the_highest_number_elsewhere() -> None:
    model = Net()
    with torch.no_grad():
        model.plain_norm.weight.copy_(torch.tensor([0.5, -2.0, 0.0, 1.0]))
    evidence = gather(model, None, [norm_scale()], params=prunable(model))["norm_scale"]
    assert evidence["plain.weight"].tolist() == [0.5, 2.0, 0.0, 1.0]
    top = torch.finfo(torch.float32).max
    assert evidence["head.weight"].tolist() == [top] * 3
    sizes = {name: len(units) for name, units in evidence.items()}
    assert sizes == {name: 6 if name.startswith("up") else 4 for name in evidence} | {"head.weight": 3}


def test_layers_of_which_nothing_is_known_stay_whole_and_do_not_count() -> None:
    def keep(density: float, alive: dict[str, Tensor] | None = None) -> dict[str, Tensor]:
        top = torch.finfo(torch.float32).max
        scores = {"a": torch.tensor([3.0, 1.0]), "b": torch.tensor([2.0, 9.0]), "head": torch.full((5,), top)}
        return scope.sparing(scope.everywhere())(scores, {}, density, alive=alive)

    assert {name: bits.tolist() for name, bits in keep(0.5).items()} == {
        "a": [True, False], "b": [False, True], "head": [True] * 5,
    }  # fmt: skip
    alive = {
        "a": torch.tensor([True, False]),
        "b": torch.ones(2) > 0,
        "head": torch.tensor([True, False, True, True, True]),
    }
    found = keep(0.75, alive)
    assert torch.equal(found["head"], alive["head"]) and found["a"].tolist() == [True, False]

"""Which modules are residual blocks: those that are their shortcut when their weights are zero, and no others."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from secateur import SecateurError
from secateur.coupling import ResidualBlock, Shortcut, dead_blocks, remove_, residual_blocks


class Block(nn.Module):
    """x + two convolutions with batch norm; then a ReLU called as a function, a module, or nothing."""

    def __init__(self, width: int, after: str = "function", given: str = "plain") -> None:
        super().__init__()
        self.one, self.two = (nn.Conv2d(width, width, 3, padding=1, bias=False) for _ in range(2))
        self.norm_one, self.norm_two = nn.BatchNorm2d(width), nn.BatchNorm2d(width)
        self.act = nn.SiLU() if after == "module" else nn.Identity()
        self.after, self.given, self.ratio = after, given, 4

    def forward(self, x: Tensor) -> Tensor | tuple[Tensor, None]:
        out = self.act(x + self.norm_two(self.two(self.norm_one(self.one(x)).relu())))
        out = out.relu() if self.after == "function" else out
        return (out, None) if self.given == "tuple" else out


class Post(nn.Module):
    """Layer norm after the sum."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.norm = nn.Sequential(nn.Linear(6, 6), nn.ReLU(), nn.Linear(6, 6)), nn.LayerNorm(6)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(x + self.inner(x))


def test_what_stands_after_the_sum_is_found() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 4, 1), Block(4), Block(4, "module"), Block(4, "nothing"))
    found = residual_blocks(net, torch.randn(2, 3, 5, 5))
    assert [(each.path, each.after) for each in found] == [("1", "*"), ("2", "act"), ("3", "")]


def test_projections_and_norms_after_the_sum_are_none_and_said_to_be_so() -> None:
    with pytest.raises(SecateurError, match=r"Sequential has no residual block.*0 gives out something else"):
        residual_blocks(nn.Sequential(Post(), Post()), torch.randn(2, 6))
    with pytest.raises(SecateurError, match="`example_inputs` must be what the model is called with"):
        residual_blocks(nn.Sequential(Post()), torch.randn(2, 7))


def test_shared_weights_are_no_block() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(Block(3), Block(3), Block(3))
    net[2].one.weight = net[0].one.weight
    assert [each.path for each in residual_blocks(net, torch.randn(2, 3, 5, 5))] == ["1"]


def test_of_nested_ones_the_innermost() -> None:
    layer = nn.TransformerEncoderLayer(8, 2, 12, norm_first=True, batch_first=True)
    net = nn.TransformerEncoder(layer, 3, enable_nested_tensor=False)
    assert [each.path for each in residual_blocks(net, torch.randn(1, 4, 8))] == [f"layers.{k}" for k in range(3)]


def test_a_shortcut_is_the_block_without_its_weights() -> None:
    torch.manual_seed(0)
    for after in ("function", "module", "nothing"):
        for given in ("plain", "tuple"):
            block, x = Block(4, after, given).eval(), torch.randn(2, 4, 5, 5)
            (found,) = _one(block, x)
            empty = copy.deepcopy(block)
            for parameter in empty.parameters():
                nn.init.zeros_(parameter)
            short = Shortcut(block, found)
            one, other = empty(x), short(x)
            assert type(one) is type(other)
            assert torch.equal(_first(one), _first(other))
            assert short.ratio == 4 and not list(short.parameters())


def _one(block: nn.Module, x: Tensor) -> tuple[ResidualBlock, ...]:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.block = block

        def forward(self, x: Tensor) -> Tensor:
            return _first(self.block(x))

    return residual_blocks(Net(), x)


def _first(value: Tensor | tuple[Tensor, None]) -> Tensor:
    return value if isinstance(value, Tensor) else value[0]


def test_a_branch_is_dead_through_its_last_weights_alone() -> None:
    torch.manual_seed(0)
    net, x = nn.Sequential(Block(4), Block(4), Block(4)).eval(), torch.randn(2, 4, 5, 5)
    blocks = residual_blocks(net, x)
    with torch.no_grad():
        nn.init.normal_(net[0].norm_two.bias)
        nn.init.zeros_(net[0].two.weight)  # its shift is left
        nn.init.zeros_(net[1].norm_two.weight)  # nothing is
        nn.init.zeros_(net[2].one.weight[:2])  # half of a layer is no block
    dead = dead_blocks(net, blocks, (x,), {})
    zeros = {block.path: names for block, names in dead.items()}
    assert zeros == {"0": ("0.norm_two.bias", "0.norm_two.weight"), "1": ()}
    exact = dead_blocks(net, blocks, (x,), {}, close=False)
    assert [block.path for block in exact] == ["1"]
    remove_(net, exact)
    assert isinstance(net[1], Shortcut)

"""Whole residual blocks go: proved, written down, opened again, undone, and in the middle of a run."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from secateur import Masks, SecateurError, hold, load, methods, prune, shrink, structure
from secateur.axes.structure import residual_blocks
from secateur.coupling import Shortcut
from secateur.coupling import residual_blocks as found_in
from secateur.holding import held
from secateur.shrinking import Shrunk


class Block(nn.Module):
    def __init__(self, width: int, drop: float = 0.0) -> None:
        super().__init__()
        self.one, self.two = nn.Conv2d(width, width, 3, padding=1), nn.Conv2d(width, width, 3, padding=1)
        self.norm_one, self.norm_two = nn.BatchNorm2d(width), nn.BatchNorm2d(width)
        self.drop = nn.Dropout(drop)

    def forward(self, x: Tensor) -> Tensor:
        return (x + self.drop(self.norm_two(self.two(self.norm_one(self.one(x)).relu())))).relu()


class Net(nn.Module):
    def __init__(self, blocks: int = 4) -> None:
        super().__init__()
        self.stem, self.blocks = nn.Conv2d(3, 6, 3), nn.Sequential(*(Block(6, 0.1) for _ in range(blocks)))
        self.head = nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.blocks(self.stem(x).relu()).mean((2, 3)))


def lively(seed: int = 0) -> Net:
    """A net none of whose norms is at its first values."""
    torch.manual_seed(seed)
    net = Net()
    with torch.no_grad():
        for module in net.modules():
            if isinstance(module, nn.BatchNorm2d):
                for tensor in (module.weight, module.running_var):
                    tensor.uniform_(0.5, 1.5)
                for tensor in (module.bias, module.running_mean):
                    tensor.normal_()
    return net


X = torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(1))
BATCH = (X, torch.arange(4) % 3)


def without(net: Net, gone: set[int]) -> nn.Module:
    """By hand: blocks left out of a list; ReLU of what is positive already is nothing."""
    twin = copy.deepcopy(net)
    twin.blocks = nn.Sequential(*(block for k, block in enumerate(twin.blocks) if k not in gone))
    return twin.eval()


def gone_of(shrunk: Shrunk) -> set[int]:
    return {int(block.path.rpartition(".")[2]) for block in shrunk.manifest.removed}


def test_the_blocks_that_turn_least_go_and_the_model_is_that_without_them() -> None:
    net = lively()
    before = copy.deepcopy(net.state_dict())
    shrunk = shrink(net, methods.depth(0.5), X, batches=[BATCH])
    seen: dict[int, Tensor] = {}
    for k, block in enumerate(net.blocks):
        block.register_forward_hook(lambda _, args, out, k=k: seen.update({k: _turned(args[0], out)}))
    with torch.no_grad():
        net.eval()(X)
    influence = [float(seen[k]) for k in range(4)]
    assert gone_of(shrunk) == set(sorted(range(4), key=lambda k: influence[k])[:2])
    with torch.no_grad():
        torch.testing.assert_close(shrunk.model.eval()(X), without(net, gone_of(shrunk))(X))
    assert {each.mode for each in shrunk.certificate.comparisons} == {"eval", "train"}
    assert shrunk.certificate.after.params == sum(p.numel() for p in without(net, gone_of(shrunk)).parameters())
    assert all(torch.equal(before[name], value) for name, value in net.state_dict().items())


def _turned(x: Tensor, y: Tensor) -> Tensor:
    x, y = x.double(), y.double()
    lengths = (x.square().sum(1) * y.square().sum(1)).sqrt()
    return 1 - ((x * y).sum(1) / lengths)[lengths > 0].mean()  # a vector of zeros has no direction


def test_any_score_ranks_blocks() -> None:
    net = lively()
    with torch.no_grad():
        for p in net.blocks[2].parameters():
            p.mul_(1e-3)
    shrunk = shrink(net, methods.l1_filters(0.75, structure=residual_blocks()), X)
    assert gone_of(shrunk) == {2}
    assert "rank 4 of 4 residual blocks" in shrunk.manifest.why("blocks.2.one", 1)
    assert shrunk.manifest.new_index("blocks.2.one.weight", 1) is None


def test_prune_writes_zeros_that_shrink_takes_out() -> None:
    net = lively()
    method = methods.depth(0.5, structure=structure.residual_blocks(found_in(net, X)))
    with pytest.warns(UserWarning, match="lost all their weights"):
        masks = prune(net, method, [BATCH])
    shrunk = shrink(net, masks, X)
    assert len(gone_of(shrunk)) == 2
    assert shrunk.certificate.closing is not None
    assert shrunk.certificate.closing.change > 0  # the shifts behind the zeros went too
    assert "without blocks." in str(shrunk.certificate)


def test_zeros_of_the_last_weights_are_enough_and_exact() -> None:
    """Zero-init residual: the last scale and shift are zero, and the masks that say so close nothing else."""
    net = lively()
    names = ("blocks.1.norm_two.weight", "blocks.1.norm_two.bias")
    masks = Masks({name: torch.zeros(6, dtype=torch.bool) for name in names})
    shrunk = shrink(net, masks, X, close=False)
    assert gone_of(shrunk) == {1}
    half = Masks({"blocks.1.one.weight": torch.arange(6).reshape(6, 1, 1, 1).expand(6, 6, 3, 3) % 2 == 0})
    assert gone_of(shrink(lively(), half, X, modes=("eval",))) == set()


def test_units_of_what_stays_go_as_well() -> None:
    net = lively()
    masks = dict(
        prune(copy.deepcopy(net), methods.l1_filters(0.5), only=["blocks.0.one.weight", "blocks.2.one.weight"])
    )
    dead = {name: torch.zeros_like(p, dtype=torch.bool) for name, p in net.named_parameters() if "blocks.3" in name}
    shrunk = shrink(net, Masks({**masks, **dead}), X)
    assert gone_of(shrunk) == {3}
    assert shrunk.model.blocks[0].one.out_channels == 3
    full = shrunk.manifest.undo(shrunk.model, net)
    with torch.no_grad():
        torch.testing.assert_close(full.eval()(X), shrunk.model.eval()(X))


def test_it_opens_in_the_original_constructor_and_joins_with_the_next_cut(tmp_path: Path) -> None:
    net = lively()
    first = shrink(net, methods.depth(0.5), X, batches=[BATCH])
    first.save(tmp_path / "small")
    opened = load(tmp_path / "small", Net())
    assert gone_of(first) == {2, 3}
    assert opened.manifest is not None and opened.manifest.removed == first.manifest.removed
    with torch.no_grad():
        assert torch.equal(opened.model.eval()(X), first.model.eval()(X))
    with pytest.raises(SecateurError, match=r"`model` has no block 'blocks\.\d' as that which the cut removed"):
        load(tmp_path / "small", Net(2))
    second = shrink(first.model, methods.depth(0.5), X, batches=[BATCH])
    joined = first.manifest.then(second.manifest)
    assert len(joined.removed) == 3
    with torch.no_grad():
        torch.testing.assert_close(joined.undo(second.model, net).eval()(X), second.model.eval()(X))


@pytest.mark.parametrize(
    "make", [lambda p: torch.optim.SGD(p, 0.1, momentum=0.9), lambda p: torch.optim.AdamW(p, 0.01)]
)
def test_in_the_middle_of_a_run_the_next_step_is_that_of_what_stays(make: object) -> None:
    net = lively().double()
    for block in net.blocks:
        block.drop.p = 0.0
    x, y = X.double(), BATCH[1]
    optimizer = make(net.parameters())

    def step(model: nn.Module, by: torch.optim.Optimizer) -> None:
        by.zero_grad()
        nn.functional.cross_entropy(model.train()(x), y).backward()
        by.step()

    step(net, optimizer)
    twin = copy.deepcopy(net)
    theirs = make(twin.parameters())
    theirs.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    shrunk = shrink(net, methods.depth(0.5), x, batches=[(x, y)], optimizer=optimizer)
    assert shrunk.model is net
    held = [p for k in gone_of(shrunk) for p in twin.blocks[k].parameters()]
    with torch.no_grad():
        for p in held:
            p.zero_()
    for _ in range(2):
        step(net, optimizer)
        step(twin, theirs)
        with torch.no_grad():
            for p in held:
                p.zero_()
    mine, whole = dict(net.named_parameters()), dict(twin.named_parameters())
    for name, value in mine.items():
        torch.testing.assert_close(value, whole[name], rtol=1e-9, atol=1e-12)
    assert len(optimizer.state) == len(mine)


def test_masks_that_are_held_go_on_where_their_blocks_stay() -> None:
    net = lively()
    masks = prune(net, methods.magnitude(0.5))
    hold(net, masks)
    shrunk = shrink(net, methods.depth(0.5), X, batches=[BATCH], modes=("eval",))
    (kept,) = held(shrunk.model)
    assert not any(f"blocks.{k}." in name for name in kept.masks for k in gone_of(shrunk))


def test_a_pre_norm_encoder_of_torch_loses_its_first_layer_too() -> None:
    """TransformerEncoder reads an attribute of its first layer's attention: the shortcut still has it."""
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(8, 2, 12, norm_first=True, batch_first=True, dropout=0.1)
    net, x = nn.TransformerEncoder(layer, 3, enable_nested_tensor=False), torch.randn(2, 5, 8)
    names = [name for name, _ in net.named_parameters() if name.startswith("layers.0.")]
    masks = Masks({name: torch.zeros_like(net.get_parameter(name), dtype=torch.bool) for name in names})
    small = shrink(net, masks, x).model
    assert isinstance(small.layers[0], Shortcut)
    with torch.no_grad():
        by_hand = net.layers[2].eval()(net.layers[1].eval()(x))
        torch.testing.assert_close(small.eval()(x), by_hand)


def test_what_does_not_fit_is_refused_by_name() -> None:
    plain = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 2))
    with pytest.raises(SecateurError, match="Sequential has no residual block"):
        shrink(plain, methods.depth(0.5), torch.randn(2, 4), batches=[torch.randn(2, 4)])
    with pytest.raises(SecateurError, match="batches"):
        shrink(lively(), methods.depth(0.5), X)
    with pytest.raises(SecateurError, match="`multiples` and `minimum` are for"):
        shrink(lively(), methods.depth(0.5), X, batches=[BATCH], multiples=2)
    with pytest.raises(SecateurError, match="leaves no weight at all"):
        blocks = nn.Sequential(Block(3))
        everything = {name: torch.zeros_like(p, dtype=torch.bool) for name, p in blocks.named_parameters()}
        shrink(blocks, Masks(everything), torch.randn(2, 3, 5, 5))
    with pytest.raises(SecateurError, match="l1_filters left nothing of 1, which still changes what runs through it"):
        net, by_norm = nn.Sequential(_Scaled(), _Scaled()), methods.l1_filters(0.5, structure=residual_blocks())
        nn.init.zeros_(net[1].inner.weight)
        shrink(net, by_norm, X[:, 0, 0, :4])


class _Scaled(nn.Module):
    """A branch with a scale of its own, which no method prunes."""

    def __init__(self) -> None:
        super().__init__()
        self.inner, self.scale = nn.Linear(4, 4), nn.Parameter(torch.ones(4))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.inner(x) + self.scale * x


class _Torchvision(nn.Module):
    """A basic block as torchvision writes it: in place, and with its own stochastic depth."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(width, width, 3, padding=1, bias=False), nn.BatchNorm2d(width)
        self.conv2, self.bn2 = nn.Conv2d(width, width, 3, padding=1, bias=False), nn.BatchNorm2d(width)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        out = self.bn2(self.conv2(self.relu(self.bn1(self.conv1(x)))))
        if self.training:
            out = out * torch.empty(len(x), 1, 1, 1, dtype=x.dtype).bernoulli_(0.5).div_(0.5)
        out += x
        return self.relu(out)


def test_blocks_that_work_in_place_or_drop_branches_at_random_go_and_leave_their_input_alone() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 6, 3), *(_Torchvision(6) for _ in range(3)), nn.Flatten(2), nn.Linear(36, 2))
    masks = Masks({f"1.conv{k}.weight": torch.zeros(6, 6, 3, 3, dtype=torch.bool) for k in (1, 2)})
    small = shrink(net, masks, X).model.eval()  # proved in train mode too
    assert isinstance(small[1], Shortcut)
    x = small[0](X).detach()
    before = x.clone()
    torch.testing.assert_close(small[1](x), x.relu())
    assert torch.equal(x, before) and bool((x < 0).any()), "others may read what runs into the block"
    assert net[1].relu.inplace, "the model's own block stays as it is"

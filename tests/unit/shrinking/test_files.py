"""Files of models: dense, masked, held, sparsified and shrunk come back bit for bit; what does not fit is refused."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

import attention_nets
import coupling_nets
import secateur as sc
from secateur import Masks

CASES = {**coupling_nets.CASES, **attention_nets.CASES}
QUICK: dict[str, Any] = {"draws": 0, "modes": ("eval",)}


def net(seed: int = 0, width: int = 6) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(3, width), nn.BatchNorm1d(width), nn.ReLU(), nn.Linear(width, 4), nn.Linear(4, 2))


def assert_equal(one: nn.Module, other: nn.Module) -> None:
    mine, theirs = one.state_dict(), other.state_dict()
    assert list(mine) == list(theirs)
    assert all(
        torch.equal(tensor, theirs[name]) and tensor.dtype == theirs[name].dtype for name, tensor in mine.items()
    )


def outputs(model: nn.Module, inputs: tuple[Tensor, ...]) -> list[Tensor]:
    with torch.no_grad():
        return sc.coupling.tensors_of(model.eval()(*inputs))


@pytest.mark.filterwarnings("ignore:LSTM with projections")  # of torch, where oneDNN would run it
@pytest.mark.parametrize("name", CASES)
def test_a_shrunk_model_opens_in_its_original_constructor(name: str, tmp_path: Path) -> None:
    model, inputs = CASES[name]()
    fresh, _ = CASES[name]()
    shrunk = sc.shrink(model, 0.5, inputs, **QUICK)
    shrunk.save(tmp_path / "small.safetensors")
    found, masks, manifest = sc.load(tmp_path / "small.safetensors", fresh)

    assert found is fresh and masks is None
    assert_equal(fresh, shrunk.model)
    assert manifest.kept == shrunk.manifest.kept
    for mine, theirs in zip(outputs(fresh, inputs), outputs(shrunk.model, inputs), strict=True):
        assert torch.equal(mine, theirs)
    assert [p.requires_grad for p in fresh.parameters()] == [p.requires_grad for p in shrunk.model.parameters()]


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_dense_and_masked_models_come_back_bit_for_bit(dtype: torch.dtype, tmp_path: Path) -> None:
    path, model = tmp_path / "net.safetensors", net().to(dtype)
    sc.save(model, None, path)
    loaded = sc.load(path, net(1).to(dtype))
    assert_equal(loaded.model or net(), model)
    assert (loaded.kind, loaded.masks, loaded.manifest) == ("dense", None, None)

    masks = Masks({"0.weight": torch.rand(6, 3) > 0.5, "3.weight": torch.zeros(4, 6, dtype=torch.bool)})
    masks.apply_(model)
    sc.save(model, masks, path)
    loaded = sc.load(path, net(1).to(dtype))
    assert_equal(loaded.model or net(), model)
    assert loaded.kind == "masked" and loaded.masks == masks
    assert loaded.model is not None and not sc.held(loaded.model)


def test_masks_by_names_of_a_wrapped_model(tmp_path: Path) -> None:
    masks = Masks({"module.0.weight": torch.ones(6, 3, dtype=torch.bool)})
    sc.save(nn.DataParallel(net()), masks, tmp_path / "net")
    loaded = sc.load(tmp_path / "net", nn.DataParallel(net(1)))
    assert loaded.masks is not None and list(loaded.masks) == ["0.weight"]
    assert isinstance(loaded.model, nn.DataParallel)
    assert_equal(loaded.model.module, net())


def test_a_masked_file_is_small(tmp_path: Path) -> None:
    model = nn.Linear(1000, 1000, bias=False)
    masks = sc.prune(model, sc.methods.magnitude(0.05))
    sc.save(model, masks, tmp_path / "net")
    assert (tmp_path / "net").stat().st_size < 50_000 * 4 + 125_000 + 2_000


def test_a_held_model_is_held_again(tmp_path: Path) -> None:
    model = net()
    masks = sc.prune(model, sc.methods.magnitude(0.5))
    sc.hold(model, masks)
    sc.save(model, None, tmp_path / "net")
    fresh, found, _ = sc.load(tmp_path / "net", net(1))
    (held,) = sc.held(fresh)

    assert found == masks and held.masks == masks
    assert_equal(fresh, model)
    optimizer = torch.optim.SGD(fresh.parameters(), lr=0.1, momentum=0.9)
    for _ in range(3):
        optimizer.zero_grad()
        fresh(torch.randn(5, 3)).square().sum().backward()
        optimizer.step()
    held.check()


def test_a_sparsified_model_is_sparsified_again(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Linear(256, 256), nn.ReLU(), nn.Linear(256, 8))
    masks = sc.prune(model, sc.methods.magnitude(0.05))
    fast = sc.sparsify(model, masks)
    sc.save(fast, masks, tmp_path / "net")
    fresh = nn.Sequential(nn.Linear(256, 256), nn.ReLU(), nn.Linear(256, 8))
    loaded = sc.load(tmp_path / "net", fresh, into=sc.sparsify)

    x = torch.randn(4, 256)
    assert loaded.kind == ("sparse" if fast is not model and _is_sparse(fast) else "masked")
    assert loaded.model is not None and _is_sparse(loaded.model) == _is_sparse(fast)
    torch.testing.assert_close(loaded.model(x), model(x), rtol=1e-4, atol=1e-5)


def _is_sparse(model: nn.Module) -> bool:
    return any(getattr(module, "stores_survivors", False) for module in model.modules())


def test_shrunk_with_scattered_zeros_keeps_both(tmp_path: Path) -> None:
    model, x = net(), torch.randn(4, 3)
    bits = {"0.weight": torch.rand(6, 3) > 0.4, "3.weight": torch.rand(4, 6) > 0.4}
    bits["0.weight"][2] = bits["3.weight"][1] = False
    shrunk = sc.shrink(model, Masks(bits), x, **QUICK)
    assert shrunk.masks is not None
    sc.save(shrunk, None, tmp_path / "net")
    fresh, masks, _ = sc.load(tmp_path / "net", net(1))
    assert masks == shrunk.masks
    assert_equal(fresh, shrunk.model)


def test_constants_that_made_a_bias(tmp_path: Path) -> None:
    def make(seed: int) -> nn.Module:
        torch.manual_seed(seed)
        return nn.Sequential(nn.Linear(3, 6), nn.ReLU(), nn.Linear(6, 4, bias=False))

    model = make(0)
    with torch.no_grad():
        model.get_parameter("0.weight")[2] = 0.0
        model.get_parameter("0.bias")[2] = 1.0
    shrunk = sc.shrink(model, Masks.from_zeros(model), torch.randn(4, 3), close=False, draws=0)
    assert shrunk.manifest.added == ("2.bias",)
    shrunk.save(tmp_path / "net")
    fresh, _, _ = sc.load(tmp_path / "net", make(1))
    assert_equal(fresh, shrunk.model)


def test_joined_cuts_open_at_once(tmp_path: Path) -> None:
    model, x = net(), torch.randn(4, 3)
    middle, _, first = sc.shrink(model, 0.7, x, **QUICK)
    small, certificate, second = sc.shrink(middle, 0.5, x, **QUICK)
    sc.save(type(sc.shrink(model, 0.7, x, **QUICK))(small, certificate, first.then(second)), None, tmp_path / "net")
    assert_equal(sc.load(tmp_path / "net", net(1)).model or net(), small)


def test_tied_weights_and_a_model_on_meta(tmp_path: Path) -> None:
    def make() -> nn.Module:
        one = nn.Linear(6, 6)
        return nn.Sequential(one, nn.ReLU(), one, nn.Linear(6, 2))

    model = make()
    sc.save(model, None, tmp_path / "net")
    assert "2.weight" in sc.load(tmp_path / "net").state
    with torch.device("meta"):
        fresh = make()
    sc.load(tmp_path / "net", fresh)
    assert fresh[0].weight is fresh[2].weight  # pyright: ignore[reportIndexIssue]
    assert_equal(fresh, model)


def test_without_a_model_it_is_a_state_dict(tmp_path: Path) -> None:
    shrunk = sc.shrink(net(), 0.5, torch.randn(4, 3), **QUICK)
    shrunk.save(tmp_path / "net")
    loaded = sc.load(tmp_path / "net")
    assert loaded.model is None and loaded.manifest is not None
    shrunk.model.load_state_dict(dict(loaded.state))


def test_the_same_model_is_the_same_bytes(tmp_path: Path) -> None:
    for name in "ab":
        sc.save(net(), None, tmp_path / name)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    assert [path.name for path in sorted(tmp_path.iterdir())] == ["a", "b"]  # no drafts


def test_in_a_fresh_process(tmp_path: Path) -> None:
    shrunk = sc.shrink(net(), 0.5, torch.randn(4, 3), **QUICK)
    shrunk.save(tmp_path / "net")
    save_file({"y": outputs(shrunk.model, (torch.ones(1, 3),))[0]}, tmp_path / "y")
    code = (
        "import sys, torch; from torch import nn; import secateur as sc; from safetensors.torch import load_file\n"
        "net = nn.Sequential(nn.Linear(3, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.Linear(6, 4), nn.Linear(4, 2))\n"
        "small = sc.load(sys.argv[1] + '/net', net).model.eval()\n"
        "assert torch.equal(small(torch.ones(1, 3)), load_file(sys.argv[1] + '/y')['y']), small\n"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=True)

"""Archives of models: they open as whatever the model is to be, and every byte of them is counted."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import attention_nets
import coupling_nets
import secateur as sc
from secateur import Masks, archive
from secateur._base.errors import LeakError, MaskError, SecateurError
from secateur.sparse.measured import BreakEven, Machine
from secateur.testing import MODELS, case

SHRUNK = {**coupling_nets.CASES, **attention_nets.CASES}


def pruned(name: str, density: float = 0.3) -> tuple[nn.Module, Masks]:
    torch.manual_seed(0)
    model = case(name).model
    return model, sc.prune(model, sc.methods.magnitude(density))


def assert_equal(one: nn.Module, other: nn.Module) -> None:
    mine, theirs = one.state_dict(), other.state_dict()
    assert list(mine) == list(theirs)
    assert all(torch.equal(mine[name], theirs[name]) and mine[name].dtype == theirs[name].dtype for name in mine)


@pytest.mark.parametrize("name", MODELS)
def test_models_come_back_bit_for_bit_dense_masked_and_held(name: str, tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    model, masks = pruned(name)
    dense = case(name).model
    for given, mine, kind in ((dense, None, "dense"), (model, masks, "masked")):
        report = sc.compress(given, mine, path)
        assert report.bytes == path.stat().st_size and report.kind == kind
        torch.manual_seed(1)
        fresh = case(name).model
        found = sc.load(path, fresh)
        assert found.model is fresh and found.kind == kind and found.manifest is None
        assert (found.masks is None) == (mine is None) and (mine is None or found.masks == mine)
        assert_equal(fresh, given)
        state = sc.load(path).state
        assert all(torch.equal(state[name], tensor) for name, tensor in given.state_dict().items())
    sc.hold(model, masks)
    sc.compress(model, None, path)
    fresh = case(name).model
    assert sc.load(path, fresh).kind == "held" and len(sc.held(fresh)) == 1
    assert sc.held(fresh)[0].masks == masks


def test_a_model_opens_sparsified_and_a_sparsified_one_is_written(tmp_path: Path) -> None:
    path, machine = tmp_path / "a", Machine("always sparse", False, (BreakEven(64, 128, 0.6),))
    model, masks = pruned("lstm")
    sc.compress(model, masks, path)
    fast = sc.load(path, case("lstm").model, into=partial(sc.sparsify, machine=machine)).model
    assert fast is not None and any(getattr(module, "stores_survivors", False) for module in fast.modules())
    sc.compress(fast, masks, path)
    fresh = case("lstm").model
    assert sc.load(path, fresh).kind == "sparse"
    assert_equal(fresh, model)


@pytest.mark.filterwarnings("ignore:LSTM with projections")
@pytest.mark.parametrize("name", sorted(SHRUNK)[::4])
def test_a_shrunk_model_opens_in_its_original_constructor(name: str, tmp_path: Path) -> None:
    model, inputs = SHRUNK[name]()
    fresh, _ = SHRUNK[name]()
    quick: dict[str, Any] = {"draws": 0, "modes": ("eval",)}
    shrunk = sc.shrink(model, 0.5, inputs, **quick)
    sc.compress(shrunk, None, tmp_path / "small")
    found, masks, manifest = sc.load(tmp_path / "small", fresh)
    assert found is fresh and masks is None and manifest.kept == shrunk.manifest.kept
    assert_equal(fresh, shrunk.model)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16], ids=str)
def test_other_types_and_memory_that_is_not_plain(dtype: torch.dtype, tmp_path: Path) -> None:
    path = tmp_path / "a"
    model, masks = pruned("mlp")
    sc.compress(model.to(dtype), masks, path)
    fresh = case("mlp").model.to(dtype)
    fresh[0].weight.data = fresh[0].weight.data.t().contiguous().t()  # not contiguous
    sc.load(path, fresh)
    assert_equal(fresh, model)
    wide = case("mlp").model.to(torch.float64)
    sc.load(path, wide)
    assert torch.equal(wide[0].weight, model[0].weight.double())
    with torch.device("meta"):
        hollow = case("mlp").model.to(dtype)
    sc.load(path, hollow)
    assert_equal(hollow, model)


def test_tied_weights_are_written_once_and_stay_tied(tmp_path: Path) -> None:
    def make() -> nn.Sequential:
        net = nn.Sequential(nn.Linear(9, 9), nn.Linear(9, 9))
        net[1].weight = net[0].weight
        return net

    net, path = make(), tmp_path / "a"
    masks = sc.prune(net, sc.methods.magnitude(0.4))
    report = sc.compress(net, masks, path)
    assert [row.name for row in report.tensors if row.masked] == ["0.weight"]
    fresh = make()
    sc.load(path, fresh)
    assert fresh[0].weight is fresh[1].weight
    assert_equal(fresh, net)


def test_only_masked_weights_lose_and_what_they_lose_is_told(tmp_path: Path) -> None:
    path = tmp_path / "a"
    model, masks = pruned("conv_bn")
    report = sc.compress(model, masks, path, values=archive.shared(2))
    fresh = case("conv_bn").model
    sc.load(path, fresh)
    mine, theirs = model.state_dict(), fresh.state_dict()
    for row in report.tensors:
        if not row.masked:
            assert torch.equal(mine[row.name], theirs[row.name])
            continue
        mask = masks[row.name]
        lost = (mine[row.name] - theirs[row.name])[mask].double().square().mean().sqrt()
        assert row.values == "codebook" and row.error == pytest.approx(float(lost), rel=1e-6) and row.error > 0
        assert len(theirs[row.name][mask].unique()) <= 4 and (theirs[row.name][~mask] == 0).all()
    assert {row.name for row in report.tensors if row.masked} == set(masks)


def test_values_by_name_and_a_dense_model_in_eight_bits(tmp_path: Path) -> None:
    model, path = case("conv_bn").model, tmp_path / "a"

    def choose(name: str, weight: Tensor) -> archive.Values:
        return archive.int8() if weight.dim() == 4 else archive.exact

    report = sc.compress(model, None, path, values=choose)
    assert {row.name: row.values for row in report.tensors if row.values == "int8"} == {
        "0.weight": "int8", "4.weight": "int8"
    }  # fmt: skip
    with pytest.raises(SecateurError, match=r"for '0\.weight' it is 5"):
        sc.compress(model, None, path, values=lambda name, weight: 5)  # type: ignore[arg-type,return-value]


def test_every_byte_is_counted_and_nothing_is_below_its_bound(tmp_path: Path) -> None:
    net, path = nn.Sequential(nn.Linear(300, 200), nn.Linear(200, 10)), tmp_path / "a"
    masks = sc.prune(net, sc.methods.magnitude(0.1))
    for values in (archive.exact, archive.shared(4), archive.int8(), archive.rounded(torch.float16)):
        report = sc.compress(net, masks, path, values=values)
        assert report.header + sum(row.bytes for row in report.tensors) == report.bytes == path.stat().st_size
        for row in report.tensors:
            assert min(row.support_bytes, row.value_bytes, row.codebook_bytes, row.other_bytes) >= 0
            assert row.bound <= row.bytes
        assert report.dense == 4 * sum(tensor.numel() for tensor in net.state_dict().values())
        assert (
            report.csr == sum(8 * masks[f"{i}.weight"].sum().item() + 4 * (n + 1) for i, n in ((0, 200), (1, 10))) + 840
        )
        assert report.ratio == report.dense / report.bytes and report.over == report.bytes / report.bound - 1
        assert str(report).endswith(f"{report.over:+.1%}")
    assert report == archive.inspect(path, errors={}) or report.bytes == archive.inspect(path).bytes


def test_equal_models_are_equal_files(tmp_path: Path) -> None:
    model, masks = pruned("transformer")
    for name in ("a", "b"):
        sc.compress(model, masks, tmp_path / name, values=archive.shared(3))
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_the_stages_of_the_paper_alone(tmp_path: Path) -> None:
    model, masks = pruned("mlp", 0.2)
    report = sc.compress(
        model, masks, tmp_path / "a", values=archive.shared(5), supports=(archive.gaps(5),), coders=(archive.huffman,)
    )
    assert {row.support for row in report.tensors if row.masked} == {"gaps(5)"}
    fresh = case("mlp").model
    assert sc.load(tmp_path / "a", fresh).masks == masks


def test_nothing_is_written_where_the_model_cannot_be(tmp_path: Path) -> None:
    path = tmp_path / "a"
    model, masks = pruned("mlp")
    path.write_bytes(b"before")
    with pytest.raises(LeakError, match="not zero"):
        sc.compress(case("mlp").model, masks, path)
    with pytest.raises(MaskError):
        sc.compress(nn.Linear(3, 3), masks, path)
    with pytest.raises(SecateurError, match="`supports` must have one"):
        sc.compress(model, masks, path, supports=())
    with pytest.raises(SecateurError, match=r"0\.weight.*finite"):
        with torch.no_grad():
            model[0].weight[masks["0.weight"]] = float("nan")
        sc.compress(model, masks, path, values=archive.shared(4))
    with pytest.raises(SecateurError, match="complex64"):
        sc.compress(nn.Linear(2, 2, dtype=torch.complex64), None, path)
    with pytest.raises(OSError, match="none"):
        sc.compress(model, masks, tmp_path / "none" / "a")
    assert path.read_bytes() == b"before" and [each.name for each in tmp_path.iterdir()] == ["a"]


def test_another_model_is_refused_before_anything_changes(tmp_path: Path) -> None:
    model, masks = pruned("mlp")
    sc.compress(model, masks, tmp_path / "a")
    other = nn.Sequential(nn.Linear(10, 24), nn.ReLU(), nn.Linear(24, 17), nn.ReLU(), nn.Linear(17, 4))
    before = {name: tensor.clone() for name, tensor in other.state_dict().items()}
    with pytest.raises(SecateurError, match=r"'2\.weight' has the shape"):
        sc.load(tmp_path / "a", other)
    assert all(torch.equal(tensor, before[name]) for name, tensor in other.state_dict().items())
    with pytest.raises(SecateurError, match="pass one as `model`"):
        sc.load(tmp_path / "a", into=sc.hold)
    with pytest.raises(FileNotFoundError, match="no file"):
        sc.load(tmp_path / "b")
    with pytest.raises(SecateurError, match="no archive"):
        sc.save(model, masks, tmp_path / "c")
        archive.inspect(tmp_path / "c")


@pytest.mark.filterwarnings("ignore:Initializing zero-element")
@pytest.mark.parametrize("values", [archive.shared(3), archive.int8(), archive.rounded(torch.bfloat16)])
def test_weights_without_entries_and_floats_of_eight_bits_lose_nothing(tmp_path: Path, values: archive.Values) -> None:
    for make in (
        lambda: nn.Sequential(nn.Linear(0, 5), nn.Linear(5, 0)),
        lambda: nn.Sequential(nn.Linear(8, 8)).to(torch.float8_e4m3fn),
    ):
        net = make()
        sc.compress(net, None, tmp_path / "net", values=values)
        found = sc.load(tmp_path / "net", make()).model
        assert found is not None
        for name, value in net.state_dict().items():
            kind = torch.uint8 if value.itemsize == 1 else torch.float32
            want, got = value, found.state_dict()[name]
            if "bias" not in name:
                assert torch.equal(got.view(kind), want.view(kind))


def test_words_in_the_place_of_values_supports_and_coders_are_refused_by_name(tmp_path: Path) -> None:
    net = nn.Linear(4, 4)
    cases: list[tuple[dict[str, Any], str]] = [
        ({"values": "int8"}, "values"),
        ({"values": 4}, "values"),
        ({"supports": ["gaps"]}, "supports"),
        ({"coders": ("huffman",)}, "coders"),
    ]
    for given, said in cases:
        with pytest.raises((SecateurError, TypeError), match=said):  # or the checker of types, where it is on
            sc.compress(net, None, tmp_path / "net", **given)
    assert not list(tmp_path.iterdir())

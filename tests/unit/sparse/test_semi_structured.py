"""The choice between dense and 2:4 on CUDA: by the measurement it is given, with the reason; and the layer it makes."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from secateur import Masks, densify, sparsify
from secateur.sparse import Choice, report_of
from secateur.sparse.convert import _choose as convert
from secateur.sparse.convert._cuda import choose_on_cuda
from secateur.sparse.layers import SemiStructuredLinear, SparseDevice, is_two_of_four, this_device
from secateur.sparse.measured import Machine

needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")


def two_of_four(rows: int, columns: int) -> Tensor:
    return torch.tensor([True, False, False, True]).repeat(rows, columns // 4)


def identity(weight: Tensor) -> Tensor:
    return weight.clone()


def fake(
    dense: float = 2.0,
    sparse: float = 1.0,
    *,
    why_not: str | None = None,
    compress: Callable[[Tensor], Tensor] = identity,
    asked: list[tuple[int, int]] | None = None,
) -> SparseDevice:
    """A device that takes so many seconds."""

    def measure(linear: nn.Linear, packed: Tensor, batch: int) -> tuple[float, float]:
        assert packed.shape == linear.weight.shape
        if asked is not None:
            asked.append((linear.out_features, batch))
        return dense, sparse

    return SparseDevice(why_not, compress, measure)


def test_what_is_two_of_four() -> None:
    assert is_two_of_four(two_of_four(3, 8)) and is_two_of_four(torch.zeros(3, 4, dtype=torch.bool))
    assert not is_two_of_four(torch.ones(3, 4, dtype=torch.bool))
    assert not is_two_of_four(two_of_four(3, 8)[:, :6])
    shifted = torch.tensor([[False, False, True, True, True, False, False, False]])
    assert is_two_of_four(shifted) and not is_two_of_four(shifted.roll(-1, 1) | shifted)


def test_the_faster_one_is_chosen_and_the_batch_asked_for() -> None:
    linear, mask, asked = nn.Linear(8, 4), two_of_four(4, 8), []
    new, line = choose_on_cuda(linear, "w", mask, 32, fake(2.0, 1.0, asked=asked))
    assert isinstance(new, SemiStructuredLinear) and asked == [(4, 32)]
    assert (line.choice, line.kept, line.numel, line.held) == (Choice.SPARSE, 16, 32, False)
    assert line.reason == (
        "2:4 in evaluation, 0.50 of the dense time at batch 32; dense in training, keep its zeros with secateur.hold"
    )


@pytest.mark.parametrize(
    ("dense", "sparse", "text"),
    [(1.0, 1.0, "1.00"), (1.0, 0.96, "0.96"), (1.0, 3.0, "3.00"), (1.0, float("nan"), "nan")],
)
def test_what_is_not_clearly_faster_stays_dense(dense: float, sparse: float, text: str) -> None:
    new, line = choose_on_cuda(nn.Linear(8, 4), "w", two_of_four(4, 8), 7, fake(dense, sparse))
    assert new is None and line.choice is Choice.DENSE
    assert line.reason == f"2:4 takes {text} of the dense time at batch 7; keep its zeros with secateur.hold"


def test_a_weight_written_through_data_is_compressed_anew_by_eval() -> None:
    linear = nn.Linear(8, 4)
    layer = SemiStructuredLinear.from_dense(linear, two_of_four(4, 8), fake()).eval()
    x = torch.randn(3, 8)
    with torch.no_grad():
        layer(x)
        layer.weight.data.mul_(3)  # no version tells of it
        want = nn.functional.linear(x, layer.weight, layer.bias)
        torch.testing.assert_close(layer.eval()(x), want)


def test_other_masks_stay_dense_and_are_not_measured() -> None:
    asked: list[tuple[int, int]] = []
    for mask in (torch.rand(4, 8) < 0.9, torch.ones(4, 8, dtype=torch.bool)):
        mask[0, :3] = True
        new, line = choose_on_cuda(nn.Linear(8, 4), "w", mask, 1, fake(asked=asked))
        assert new is None and line.choice is Choice.DENSE and not asked
        assert line.reason.startswith("its mask is not 2:4, the only sparsity that CUDA runs faster; keep its zeros")


@pytest.mark.parametrize("error", [RuntimeError, ValueError, NotImplementedError])
def test_what_torch_refuses_stays_dense_with_torchs_reason(error: type[Exception]) -> None:
    def refuse(weight: Tensor) -> Tensor:
        raise error("Error original_tensor.dtype torch.float32 is not supported\nat some line")

    new, line = choose_on_cuda(nn.Linear(8, 4), "w", two_of_four(4, 8), 1, fake(compress=refuse))
    assert new is None
    assert line.reason.startswith("torch does not run it 2:4: Error original_tensor.dtype torch.float32 is not supp")
    assert "at some line" not in line.reason


def test_a_device_without_sparse_cores_says_so() -> None:
    new, line = choose_on_cuda(nn.Linear(8, 4), "w", two_of_four(4, 8), 1, fake(why_not="it is too old"))
    assert new is None and line.reason == "it is too old; keep its zeros with secateur.hold"


@pytest.mark.parametrize(
    ("available", "capability", "says"),
    [
        (False, (9, 0), "torch finds no CUDA device"),
        (True, (7, 5), "compute capability 7.5 has no sparse tensor cores, from 8.0 on there are"),
        (True, (8, 0), None),
        (True, (9, 0), None),
    ],
)
def test_what_this_device_offers(
    monkeypatch: pytest.MonkeyPatch, available: bool, capability: tuple[int, int], says: str | None
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: available)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    monkeypatch.setattr(torch.version, "hip", None)
    assert this_device(torch.device("cuda", 0)).why_not == says


def test_the_layer_is_dense_in_training_and_compressed_in_evaluation() -> None:
    packed: list[Tensor] = []

    def compress(weight: Tensor) -> Tensor:
        packed.append(weight)
        return weight.clone()

    linear, mask, x = nn.Linear(8, 4), two_of_four(4, 8), torch.randn(5, 8)
    new, _ = choose_on_cuda(linear, "w", mask, 1, fake(compress=compress))
    assert new is not None and len(packed) == 1
    expected = nn.functional.linear(x, linear.weight * mask, linear.bias)
    torch.testing.assert_close(new(x), expected)
    new(x).sum().backward()
    assert new.weight.grad is not None
    with torch.no_grad():
        new(x)
    assert len(packed) == 1  # training mode: dense
    new.eval()
    with torch.no_grad():
        for _ in range(2):
            torch.testing.assert_close(new(x), expected)
        assert len(packed) == 1  # what was compressed for the measurement is still good
        new.weight.mul_(2)
        torch.testing.assert_close(new(x), nn.functional.linear(x, 2 * linear.weight * mask, linear.bias))
        assert len(packed) == 2
        new.load_state_dict({"weight": linear.weight * mask, "bias": linear.bias})
        torch.testing.assert_close(new(x), expected)
        for other in (copy.deepcopy(new), pickle.loads(pickle.dumps(new_without_closure(new)))):
            torch.testing.assert_close(other(x), expected)
        new.weight.fill_(1.0)
        with pytest.raises(
            ValueError, match=r"more than 2 of 4 neighbouring inputs different from zero\. Hold the masks"
        ):
            new(x)


def new_without_closure(layer: SemiStructuredLinear) -> SemiStructuredLinear:
    other = copy.deepcopy(layer)
    other.compress = identity
    return other


def test_sparsify_asks_the_device(monkeypatch: pytest.MonkeyPatch, sparse_machine: Machine) -> None:
    """On a model that pretends to be on CUDA: each layer is chosen by itself."""
    monkeypatch.setattr(convert, "on_cuda", lambda module: True)
    monkeypatch.setattr(convert, "this_device", lambda device: fake())
    model = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 4))
    masks = Masks({"0.weight": two_of_four(8, 8), "2.weight": torch.ones(8, 8, dtype=torch.bool).tril()})
    masks.apply_(model)
    fast = sparsify(model, masks, machine=sparse_machine).eval()
    assert [type(fast[i]) for i in (0, 2, 4)] == [SemiStructuredLinear, nn.Linear, nn.Linear]
    report = report_of(fast)
    assert [line.choice for line in report.layers] == [Choice.SPARSE, Choice.DENSE, Choice.UNTOUCHED]
    assert report.not_held == ("0.weight", "2.weight")
    assert fast.state_dict().keys() == model.state_dict().keys()
    x = torch.randn(3, 8)
    with torch.no_grad():
        torch.testing.assert_close(fast(x), model(x))
    back = densify(fast)
    assert type(back[0]) is nn.Linear and torch.equal(back[0].weight, model[0].weight)


@needs_cuda
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_on_a_real_device(dtype: torch.dtype) -> None:
    model = nn.Sequential(nn.Linear(1024, 1024), nn.ReLU(), nn.Linear(1024, 1024)).to("cuda", dtype)
    masks = Masks({"0.weight": two_of_four(1024, 1024), "2.weight": torch.rand(1024, 1024) < 0.9})
    masks.apply_(model)
    fast = sparsify(model, masks, batch=1024).eval()
    assert report_of(fast).layers[1].choice is Choice.DENSE
    x = torch.randn(1024, 1024, device="cuda", dtype=dtype)
    with torch.no_grad():
        torch.testing.assert_close(fast(x), model(x), rtol=2e-2, atol=2e-2)
        packed = SemiStructuredLinear.from_dense(model[0], masks["0.weight"], this_device(x.device)).eval()
        if this_device(x.device).why_not is None:
            torch.testing.assert_close(packed(x), model[0](x), rtol=2e-2, atol=2e-2)

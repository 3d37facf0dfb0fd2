"""SparseLSTM and SparseGRU against torch's own layers in double precision, over shapes, directions and sets."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from secateur._base import door
from secateur.sparse.calls import fits
from secateur.sparse.layers import sparse_recurrent

Recurrent = nn.LSTM | nn.GRU
KINDS = (nn.LSTM, nn.GRU)
native = door.native


def _sets() -> list[str]:
    return ["torch"] if native is None else list(native.supported_isas())


@pytest.fixture(params=_sets())
def isa(request: pytest.FixtureRequest) -> Iterator[str]:
    if native is None:
        yield "none"
        return
    before = native.isa()
    native.use_isa(request.param)
    yield request.param
    native.use_isa(before)


def masks_for(layer: Recurrent, density: float, generator: torch.Generator) -> dict[str, Tensor]:
    weights = {n: p for n, p in layer.named_parameters() if n.startswith("weight")}
    return {n: torch.rand(p.shape, generator=generator) < density for n, p in weights.items()}


def double(layer: Recurrent, masks: dict[str, Tensor]) -> Recurrent:
    """The same layer with zeros written where pruned, in double precision."""
    kind = nn.GRU if isinstance(layer, nn.GRU) else nn.LSTM
    copy = kind(
        layer.input_size, layer.hidden_size, layer.num_layers, bias=layer.bias, batch_first=layer.batch_first,
        bidirectional=layer.bidirectional,
    ).double()  # fmt: skip
    copy.load_state_dict({n: t * masks.get(n, 1) for n, t in layer.state_dict().items()})
    return copy


def states(layer: Recurrent, batch: int, generator: torch.Generator) -> list[Tensor]:
    directions = layer.num_layers * (2 if layer.bidirectional else 1)
    count = 1 if isinstance(layer, nn.GRU) else 2
    return [torch.randn(directions, batch, layer.hidden_size, generator=generator) for _ in range(count)]


def everything(layer: nn.Module, x: Tensor, first: list[Tensor], probes: list[Tensor]) -> list[Tensor]:
    """Outputs, last states, and the gradients of the input and the first states."""
    inputs = [t.detach().to(probes[0].dtype, copy=True).requires_grad_() for t in (x, *first)]
    out, last = layer(inputs[0], inputs[1] if len(first) == 1 else (inputs[1], inputs[2]))
    results = [out, *([last] if isinstance(last, Tensor) else last)]
    sum((r * p).sum() for r, p in zip(results, probes, strict=True)).backward()  # type: ignore[union-attr]
    return [*(r.detach() for r in results), *(t.grad for t in inputs if t.grad is not None)]


def close(ours: Tensor, theirs: Tensor) -> None:
    ours, theirs = ours.detach(), theirs.detach()
    scale = max(1.0, float(theirs.abs().max())) if theirs.numel() else 1.0
    torch.testing.assert_close(ours.double(), theirs, rtol=2e-5, atol=5e-6 * scale)


def check(layer: Recurrent, density: float, steps: int, batch: int, seed: int = 0) -> None:
    generator = torch.Generator().manual_seed(seed)
    masks = masks_for(layer, density, generator)
    sparse, reference = sparse_recurrent(layer, masks), double(layer, masks)
    shape = (batch, steps) if layer.batch_first else (steps, batch)
    x = torch.randn(*shape, layer.input_size, generator=generator)
    first = states(layer, batch, generator)
    width = layer.hidden_size * (2 if layer.bidirectional else 1)
    probes = [
        torch.randn(*shape, width, generator=generator),
        *(torch.randn(s.shape, generator=generator) for s in first),
    ]
    ours = everything(sparse, x, first, probes)
    theirs = everything(reference, x, first, [p.double() for p in probes])
    for a, b in zip(ours, theirs, strict=True):
        close(a, b)
    found = {n: p.grad for n, p in sparse.named_parameters()}
    for name, p in reference.named_parameters():
        assert p.grad is not None
        wanted = p.grad.reshape(-1)[masks[name].reshape(-1)] if name in masks else p.grad
        grad = found[name.replace("weight", "values")]
        assert grad is not None
        close(grad, wanted)
    with torch.no_grad():
        close(sparse(x)[0], reference(x.double())[0])


@settings(max_examples=60)
@given(
    kind=st.sampled_from(KINDS),
    inputs=st.integers(1, 19),
    units=st.integers(1, 21),
    steps=st.integers(1, 9),
    batch=st.sampled_from([1, 2, 15, 16, 17, 37, 70]),
    layers=st.integers(1, 2),
    flags=st.tuples(st.booleans(), st.booleans(), st.booleans()),
    density=st.sampled_from([0.0, 0.1, 0.5, 1.0]),
)
def test_equals_torch_over_many_shapes(
    kind: type[Recurrent],
    inputs: int,
    units: int,
    steps: int,
    batch: int,
    layers: int,
    flags: tuple[bool, bool, bool],
    density: float,
) -> None:
    bias, batch_first, bidirectional = flags
    layer = kind(inputs, units, layers, bias=bias, batch_first=batch_first, bidirectional=bidirectional)
    check(layer, density, steps, batch)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("threads", [1, 3])
def test_every_instruction_set_and_several_threads(kind: type[Recurrent], threads: int, isa: str) -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        check(kind(28, 33, batch_first=True), 0.1, steps=28, batch=100)
        check(kind(3, 5, 2, bidirectional=True), 0.5, steps=3, batch=150)
    finally:
        torch.set_num_threads(before)


@pytest.mark.skipif(native is None, reason="needs the compiled kernels")
def test_the_gates_keep_their_relative_accuracy(isa: str) -> None:
    assert native is not None
    tiny = torch.logspace(-30, 1, 4001)
    x = torch.cat([torch.linspace(-86, 100, 50_001), tiny, -tiny])
    for ours, exact in ((native.sigmoid, torch.sigmoid), (native.tanh, torch.tanh)):
        out = torch.empty_like(x)
        ours(x.data_ptr(), out.data_ptr(), x.numel())
        wanted = exact(x.double())
        assert float(((out - wanted) / wanted).abs().max()) < 5e-7
        special = torch.tensor([float("nan"), float("inf"), float("-inf"), 0.0])
        out = torch.empty(4)
        ours(special.data_ptr(), out.data_ptr(), 4)
        torch.testing.assert_close(out, exact(special), rtol=0, atol=1e-6, equal_nan=True)


@pytest.mark.parametrize("kind", KINDS)
def test_nan_inputs_reach_the_samples_they_belong_to_and_no_others(kind: type[Recurrent]) -> None:
    layer = sparse_recurrent(kind(4, 6), {})
    x = torch.randn(3, 5, 4)
    x[1, 2] = float("nan")
    bad = layer(x)[0].isnan()
    assert bad[1:, 2].all() and int(bad.count_nonzero()) == 2 * 6


@pytest.mark.parametrize("kind", KINDS)
def test_only_the_last_output_used_and_gradients_twice(kind: type[Recurrent], generator: torch.Generator) -> None:
    layer = kind(4, 6, batch_first=True)
    masks = masks_for(layer, 0.5, generator)
    sparse, reference = sparse_recurrent(layer, masks), double(layer, masks)
    x = torch.randn(9, 5, 4, generator=generator)
    loss, wanted = sparse(x)[0][:, -1].square().sum(), reference(x.double())[0][:, -1].square().sum()
    loss.backward(retain_graph=True)
    loss.backward()
    wanted.backward()
    for name in ("values_ih_l0", "values_hh_l0"):
        dense = dict(reference.named_parameters())[name.replace("values", "weight")]
        assert dense.grad is not None
        ours = dict(sparse.named_parameters())[name].grad
        assert ours is not None
        close(ours, 2 * dense.grad[masks[name.replace("values", "weight")]])


@pytest.mark.parametrize("kind", KINDS)
def test_dropout_between_layers_is_torchs_own(kind: type[Recurrent], generator: torch.Generator) -> None:
    layer = kind(4, 6, 3, dropout=0.4)
    masks = masks_for(layer, 0.5, generator)
    sparse, reference = sparse_recurrent(layer, masks), sparse_recurrent(layer, masks).dense()
    x = torch.randn(5, 7, 4, generator=generator)
    torch.manual_seed(5)
    ours = sparse(x)[0]
    torch.manual_seed(5)
    torch.testing.assert_close(ours, reference(x)[0], rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(sparse.eval()(x)[0], reference.eval()(x)[0], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_without_a_batch_and_with_strided_inputs(kind: type[Recurrent], generator: torch.Generator) -> None:
    layer = kind(4, 6, 2, bidirectional=True)
    masks = masks_for(layer, 0.5, generator)
    sparse, reference = sparse_recurrent(layer, masks), double(layer, masks)
    x = torch.randn(5, 4, generator=generator)
    out, last = sparse(x)
    wanted, wanted_last = reference(x.double())
    close(out, wanted)
    assert out.shape == wanted.shape
    assert isinstance(last, Tensor) == isinstance(wanted_last, Tensor)
    for strided in (
        torch.randn(4, 7, 5).permute(2, 1, 0),
        torch.randn(5, 1, 4).expand(5, 7, 4),
        torch.randn(5, 7, 8)[..., :4],
    ):
        close(sparse(strided)[0], reference(strided.double())[0])


@pytest.mark.parametrize("kind", KINDS)
def test_what_the_kernels_do_not_take_runs_densely(kind: type[Recurrent]) -> None:
    sparse = sparse_recurrent(kind(4, 6), {})
    assert tuple(sparse(torch.randn(5, 0, 4))[0].shape) == (5, 0, 6)
    with pytest.warns(UserWarning, match="computes densely: its kernels take float32 on cpu, got float64 on cpu"):
        out, _ = sparse.double()(torch.randn(5, 2, 4, dtype=torch.float64))
    assert out.dtype is torch.float64
    assert not fits(torch.randn(5, 2, 4, dtype=torch.float64))


@pytest.mark.parametrize("kind", KINDS)
def test_wrong_inputs_are_refused(kind: type[Recurrent]) -> None:
    sparse = sparse_recurrent(kind(4, 6, batch_first=True), {})
    with pytest.raises(ValueError, match=r"must be \[batch, time, feature\] with 4 features and at least one step"):
        sparse(torch.randn(5, 2, 3))
    with pytest.raises(ValueError, match="at least one step"):
        sparse(torch.randn(5, 0, 4))
    with pytest.raises(ValueError, match=r"`hx` must have the shape \(1, 5, 6\), got \(1, 2, 6\)"):
        bad = torch.zeros(1, 2, 6)
        sparse(torch.randn(5, 2, 4), bad if kind is nn.GRU else (bad, bad))
    packed = nn.utils.rnn.pack_padded_sequence(torch.randn(2, 3, 4), [3, 1], batch_first=True)
    with pytest.raises(TypeError, match=r"does not take a PackedSequence.*densify"):
        sparse(packed)


@pytest.mark.slow
@pytest.mark.skipif(native is None, reason="needs the compiled kernels")
@pytest.mark.filterwarnings("ignore")  # the compiler's own
def test_compile_breaks_its_graph_at_the_kernels(generator: torch.Generator) -> None:
    layer = nn.LSTM(4, 6, 2)
    sparse = sparse_recurrent(layer, masks_for(layer, 0.5, generator))
    x = torch.randn(5, 7, 4, generator=generator)
    compiled = torch.compile(sparse, backend="eager")
    torch.testing.assert_close(compiled(x)[0], sparse(x)[0])
    compiled(x)[0].sum().backward()
    assert sparse.get_parameter("values_hh_l1").grad is not None

"""Manifests: joined over repeated cuts, written down and read, and what they say of a single channel."""

from __future__ import annotations

import copy
import json
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import attention_nets
import coupling_nets
from secateur import Masks, SecateurError, methods, shrink
from secateur.shrinking import Manifest
from secateur.shrinking.manifests import from_json, to_json

CASES = {**coupling_nets.CASES, **attention_nets.CASES}
QUICK: dict[str, Any] = {"draws": 0, "modes": ("eval",)}


def chain(*biased: bool) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 6), nn.ReLU(), nn.Linear(6, 4), nn.ReLU(), nn.Linear(4, 2))


def assert_same(one: nn.Module, other: nn.Module) -> None:
    mine, theirs = one.state_dict(), other.state_dict()
    assert mine.keys() == theirs.keys()
    for name, tensor in mine.items():
        torch.testing.assert_close(tensor, theirs[name], rtol=1e-12, atol=0, msg=name)


@pytest.mark.parametrize("name", CASES)
def test_two_cuts_joined_undo_as_the_two_do(name: str) -> None:
    model, inputs = CASES[name]()
    model.double().eval()
    inputs = tuple(each.double() if each.is_floating_point() else each for each in inputs)
    middle, _, first = shrink(model, 0.75, inputs, **QUICK)
    small, _, second = shrink(middle, 0.6, inputs, **QUICK)
    joined = first.then(second)

    assert_same(joined.undo(small, model), first.undo(second.undo(small, middle), model))
    for tensor, dims in second.kept.items():
        for dim, kept in dims.items():
            want = tuple(first.old_index(tensor, k, dim=dim) for k in kept)
            assert joined.kept[tensor][dim] == want
    for path, (old, new) in joined.numbers.items():
        assert old == first.numbers.get(path, second.numbers.get(path))[0]  # pyright: ignore[reportOptionalSubscript]
        assert new == second.numbers.get(path, first.numbers.get(path))[1]  # pyright: ignore[reportOptionalSubscript]


@pytest.mark.parametrize("name", CASES)
def test_groups_of_joined_cuts_are_those_that_the_tensors_show(name: str) -> None:
    model, inputs = CASES[name]()
    middle, _, first = shrink(model, 0.75, inputs, **QUICK)
    _, _, second = shrink(middle, 0.6, inputs, **QUICK)
    joined = first.then(second)

    for tensor, dims in joined.places.items():
        for dim, spans in dims.items():
            for span in (each for each in spans if each.group >= 0):
                overlapping = [each for each in spans if each.begin == span.begin]
                for index in range(span.begin, span.begin + span.size) if len(overlapping) == 1 else ():
                    stays = joined.new_index(tensor, index, dim=dim) is not None
                    assert stays == (span.unit_of(index) in joined.groups[span.group].kept), (tensor, dim, index)


@pytest.mark.parametrize("name", CASES)
def test_what_is_written_is_what_is_read(name: str) -> None:
    model, inputs = CASES[name]()
    small, _, manifest = shrink(model, 0.5, inputs, **QUICK)
    text = json.dumps(to_json(manifest), allow_nan=False)
    read = from_json(json.loads(text))

    assert to_json(read) == to_json(manifest)
    assert (read.kept, read.shapes, read.numbers, read.places) == (
        manifest.kept,
        manifest.shapes,
        manifest.numbers,
        manifest.places,
    )
    assert_same(read.undo(small, model), manifest.undo(small, model))


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("kept", {"0.weight": {"0": "5-2"}}),
        ("kept", {"0.weight": {"0": "0-99999999999"}}),
        ("kept", {"0.weight": {"x": "1"}}),
        ("shapes", {"0.weight": [-1]}),
        ("numbers", {"heads": [1]}),
        ("rescaled", {"norm.weight": [1.0, 2]}),
        ("groups", [{"group": "g", "total": 2, "kept": "0-2", "scores": [], "causes": {}}]),
        ("groups", [{"group": "g", "total": 2, "kept": "0", "scores": [1.0], "causes": {}}]),
        ("places", {"0.weight": {"0": [[0, 4, 9, 0, 1, -1]]}}),
        ("places", {"0.weight": {"0": [[0, 4, -1, 0, 1, -1]]}}),
        ("added", "bias"),
        ("reasons", [1]),
    ],
)
def test_what_is_no_manifest_is_refused(key: str, value: Any) -> None:
    written = to_json(shrink(chain(), 0.5, torch.zeros(1, 3), **QUICK).manifest)
    assert isinstance(from_json(written), Manifest)
    with pytest.raises(ValueError, match="manifest"):
        from_json(written | {key: value})


def test_why_a_channel_went_by_its_score() -> None:
    net = chain()
    with torch.no_grad():
        for k, size in enumerate((5.0, 1.0, 4.0, 2.0, 6.0, 3.0)):
            net[0].weight[k] = size  # pyright: ignore[reportIndexIssue]
    manifest = shrink(net, 0.5, torch.randn(2, 3), **QUICK).manifest

    assert manifest.why("0", 1).splitlines() == [
        "0 1 went",
        "  unit 1 of 0.weight[0] (6 units, 3 stay) went: score 3, rank 6 of 6",
    ]
    assert manifest.why("0.weight", 4).splitlines() == [
        "0.weight 4 stays, as 2",
        "  unit 4 of 0.weight[0] (6 units, 3 stay) stays, as 2: score 18, rank 1 of 6",
    ]
    assert manifest.why("2", 1, dim=1).startswith("2 1 went")
    assert "cannot be chosen" in manifest.why("4", 0) and "is an output of the model" in manifest.why("4", 0)
    assert (manifest.new_index("0.weight", 4), manifest.new_index("0.weight", 1)) == (2, None)
    assert manifest.old_index("0.weight", 2) == 4


def test_why_by_masks_methods_and_what_nothing_needs() -> None:
    net = chain()
    bits = {name: torch.ones_like(p, dtype=torch.bool) for name, p in net.named_parameters() if p.dim() > 1}
    bits["0.weight"][2] = False
    bits["2.weight"][:, 4] = False
    manifest = shrink(net, Masks(bits), torch.randn(2, 3), **QUICK).manifest
    assert manifest.why("0", 2).endswith("went: the masks left nothing of it")
    assert manifest.why("0", 4).endswith("went: the masks left nothing of it")
    assert "stays, as 0" in manifest.why("0", 0)

    with torch.no_grad():
        net[4].weight[:, 3] = 0.0  # pyright: ignore[reportIndexIssue]
    manifest = shrink(net, Masks(bits), torch.randn(2, 3), close=False, **QUICK).manifest
    assert manifest.why("2", 3).endswith("went: nothing needs it")
    manifest = shrink(chain(), methods.l1_filters(0.5), torch.randn(2, 3), **QUICK).manifest
    net = chain()
    norms = net.get_parameter("0.weight").detach().abs().sum(1).tolist()
    for k in range(6):
        rank = 1 + sum(norm > norms[k] for norm in norms)
        said = manifest.why("0", k)
        assert f"score {norms[k]:.4g}, rank {rank} of 6" in said
        assert ("went: l1_filters left nothing of it; " in said) == (rank > 3)


def test_why_heads_and_what_was_taken_back() -> None:
    class Heads(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.heads, self.q, self.out = 4, nn.Linear(4, 12), nn.Linear(12, 4)

        def forward(self, x: Tensor) -> Tensor:
            each = self.q(x).unflatten(-1, (self.heads, 3)) * torch.tensor([1.0, 2.0, 3.0]).to(x)
            return self.out(each.flatten(-2))

    manifest = shrink(Heads(), 0.5, torch.zeros(2, 4), **QUICK).manifest
    heads = {k // 3 for k in range(12) if manifest.new_index("q.weight", k) is None}
    assert len(heads) == 2
    for k in range(12):
        said = manifest.why("q", k)
        assert f"unit {k // 3} of" in said and "rank" in said
        assert ("went" in said) == (k // 3 in heads)


def test_why_after_two_cuts() -> None:
    net, x = chain(), torch.randn(2, 3)
    middle, _, first = shrink(net, 0.67, x, **QUICK)
    _, _, second = shrink(middle, 0.5, x, **QUICK)
    joined = first.then(second)
    fates = [joined.why("0", k) for k in range(6)]

    went = [said for k, said in enumerate(fates) if said.startswith(f"0 {k} went")]
    assert len(went) == 4 and sum(said.startswith(f"0 {k} stays") for k, said in enumerate(fates)) == 2
    assert sum("then unit" in said for said in went) == 2


@pytest.mark.parametrize(
    ("name", "index", "dim", "message"),
    [
        ("9", 0, None, "nothing is known of '9': it has no units"),
        ("0.wieght", 0, None, "nothing is known of '0.wieght': it has no units. Did you mean '0.weight'?"),
        ("0", 6, None, r"`index` must be in \[0, 6\) for '0', got 6"),
        ("0", -1, None, r"`index` must be in \[0, 6\)"),
        ("0.bias", 0, 1, r"`dim` of '0.bias' must be one of \[0\], got 1"),
    ],
)
def test_questions_without_an_answer(name: str, index: int, dim: int | None, message: str) -> None:
    manifest = shrink(chain(), 0.5, torch.zeros(1, 3), **QUICK).manifest
    with pytest.raises(SecateurError, match=message):
        manifest.why(name, index, dim=dim)


def test_cuts_of_different_models_do_not_join() -> None:
    first = shrink(chain(), 0.5, torch.zeros(1, 3), **QUICK).manifest
    second = shrink(copy.deepcopy(chain()), 0.5, torch.zeros(1, 3), **QUICK).manifest
    with pytest.raises(
        SecateurError, match=r"`then` joins a cut with one of the model that it left: '0.weight' was left"
    ):
        first.then(second)

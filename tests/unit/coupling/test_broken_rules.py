"""Rules broken on purpose: either the smaller model's own run finds it out, or the comparison does; never nobody."""

from __future__ import annotations

import pytest
import torch
from torch.utils._pytree import tree_leaves

import attention_nets
import coupling_nets
from secateur import SecateurError, shrink
from secateur.coupling.labels import Ids, Row
from secateur.coupling.rules import RULES, Op, Rule

CASES = {**coupling_nets.CASES, **attention_nets.CASES}
# Shapes fit by chance, so that only the comparison of numbers can tell.
BY_NUMBERS = [
    ("batch_norm", "dense_concat"),
    ("channel_shuffle", "shuffled"),
    ("layer_norm", "gpt"),
    ("matmul", "gpt"),
    ("pointwise", "experts"),
    ("prelu", "pixels"),
    ("rms_norm", "llama_native_norm"),
    ("scaled_dot_product_attention", "llama"),
    ("embedding", "gpt"),
    ("group_norm", "pixels"),
    ("index", "windows"),
]
# Sizes do not fit: what the run of the smaller model finds is frozen, and the rest is equal.
BY_SIZES = [
    ("linear", "experts"),
    ("convolution", "residual"),
    ("lstm", "packed"),
    ("einsum", "sums"),
    ("glu", "tricks"),
]


class Silent(Op):
    """A call whose rule unites and freezes nothing, and says that it has accounted for everything."""

    def meet(self, one: Row, other: Row, why: str = "") -> Row:
        return one

    def freeze(self, ids: Row, why: str) -> None: ...

    def same(self, tensor: object, dim: int, ids: Row, *, reads: bool = False, why: str = "") -> None: ...

    def keep_equal(self, parts: object) -> None: ...

    def attribute(self, name: str, ids: Row) -> None: ...

    def need(self, size: int, ids: Row, count: int) -> None: ...

    def is_accounted(self, ids: Ids) -> bool:
        return True


def silenced(rule: Rule) -> Rule:
    def broken(op: Op) -> list:
        op.__class__ = Silent
        return rule(op)

    return broken


def half_of(net: str) -> tuple[torch.Tensor, torch.Tensor]:
    """What the smaller model gives out, and the full one with zeros in it."""
    model, inputs = CASES[net]()
    model.double().eval()
    inputs = tuple(each.double() if each.is_floating_point() else each for each in inputs)
    small, _, manifest = shrink(model, 0.5, inputs, draws=0, modes=("eval",))
    with torch.no_grad():
        outs = [tree_leaves(each(*inputs)) for each in (small, manifest.undo(small, model))]
    return torch.cat([leaf.flatten() for leaf in outs[0]]), torch.cat([leaf.flatten() for leaf in outs[1]])


@pytest.mark.parametrize(("rule", "net"), BY_NUMBERS)
def test_the_proof_refuses(rule: str, net: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(RULES, rule, silenced(RULES[rule]))
    with pytest.raises(SecateurError, match=r"does not compute what the masked one does|could not run the model"):
        half_of(net)


@pytest.mark.parametrize(("rule", "net"), BY_SIZES)
def test_the_run_of_the_smaller_model_finds_it_and_the_rest_is_equal(
    rule: str, net: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(RULES, rule, silenced(RULES[rule]))
    mine, theirs = half_of(net)
    torch.testing.assert_close(mine, theirs, rtol=1e-10, atol=1e-12)


def test_what_a_rule_forgets_is_frozen(monkeypatch: pytest.MonkeyPatch) -> None:
    def forgetful(op: Op) -> list[Row]:
        return [*op.rows("input")[:-1], op.rows("weight")[0]]  # not a word of what is summed over

    from secateur import coupling

    monkeypatch.setitem(RULES, "linear", forgetful)
    net = torch.nn.Sequential(torch.nn.Linear(3, 4, bias=False), torch.nn.Linear(4, 2, bias=False))
    found = coupling.trace(net, torch.zeros(1, 3))

    assert found.groups == ()
    hidden = next(entry.ids for entry in found.entries if entry.names == ("0.weight",) and entry.dim == 0)
    assert "its rule says nothing of dimension 1 of an argument" in " ".join(
        found.why(next(entry.ids for entry in found.entries if entry.names == ("1.weight",) and entry.dim == 1))
    )
    assert found.stays[hidden].all()

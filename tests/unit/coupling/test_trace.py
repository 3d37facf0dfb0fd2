"""What a trace finds, what it says of what stays, and that it leaves no trace itself."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import attention_nets
import coupling_nets
from secateur import SecateurError, coupling
from secateur.coupling.labels import components


def test_components_are_those_of_a_search() -> None:
    generator = np.random.default_rng(0)
    for _ in range(20):
        one, other = generator.integers(0, 30, (2, 25)).astype(np.int32)
        neighbours = {k: {k} for k in range(30)}
        for a, b in zip(one.tolist(), other.tolist(), strict=True):
            joined = neighbours[a] | neighbours[b]
            for k in joined:
                neighbours[k] = joined
        assert components(30, one, other).tolist() == [min(neighbours[k]) for k in range(30)]


def test_units_of_a_residual_net() -> None:
    model, inputs = coupling_nets.residual()
    found = coupling.trace(model, *inputs)

    # The stream of the first block with the stem, its inner width; both of the second block.
    assert [(group.name, len(group.units)) for group in found.groups] == [
        ("0.weight[0]", 8),
        ("1.one.weight[0]", 8),
        ("2.one.weight[0]", 12),
        ("2.two.weight[0]", 12),
    ]
    stream = found.groups[0].units
    tied = {entry.names[0] for entry in found.entries if np.array_equal(entry.ids, stream)}
    assert {"0.weight", "0.bias", "1.last.weight", "1.last.running_var", "2.one.weight", "2.down.weight"} <= tied
    reads = {entry.names[0] for entry in found.entries if entry.reads and np.array_equal(entry.ids, stream)}
    assert reads == {"1.one.weight", "2.one.weight", "2.down.weight"}


def test_heads_groups_and_widths_come_out_as_products() -> None:
    model, inputs = attention_nets.CASES["llama"]()
    found = coupling.trace(model, *inputs)

    keys, queries = ({p.merged.shape: p for p in found.products}[shape] for shape in ((2, 6), (4, 6)))
    groups, heads = keys.factors[0], queries.factors[0]
    assert groups is not None and heads is not None
    assert heads.tolist() == groups.repeat(2).tolist()  # a key serves two heads, which go with it
    assert keys.factors[1] is not None and keys.factors[1].tolist() == queries.factors[1].tolist()  # pyright: ignore
    assert [norm.module for norm, _ in found.rescaled] == ["one", "two", "last"]
    assert not found.unknown


def test_what_stays_says_why_and_where() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner, self.outer = nn.Linear(3, 8), nn.Linear(8, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.outer(torch.fft.fft(self.inner(x)).real)

    found = coupling.trace(Net(), torch.zeros(1, 3))

    assert [op for op in found.unknown] == ["fft_fft"] or "_fft" in " ".join(found.unknown)
    (why,) = [each for each in found.frozen if each.why == "no rule is known for it"][:1]
    assert why.module == "" and why.line.startswith("test_trace.py:")


@pytest.mark.parametrize("name", ["residual", "lstm", "packed"])
def test_it_leaves_everything_as_it_was(name: str) -> None:
    model, inputs = coupling_nets.CASES[name]()
    model.train()
    state = {key: value.clone() for key, value in model.state_dict().items()}
    attributes = {path: sorted(vars(module)) for path, module in model.named_modules()}
    random, modes = torch.get_rng_state(), [module.training for module in model.modules()]

    coupling.trace(model, *inputs)

    assert torch.equal(torch.get_rng_state(), random)
    assert [module.training for module in model.modules()] == modes
    assert {path: sorted(vars(module)) for path, module in model.named_modules()} == attributes
    assert all(torch.equal(value, state[key]) for key, value in model.state_dict().items())
    assert all(not module._forward_hooks and not module._forward_pre_hooks for module in model.modules())


def test_meta_and_real_tensors_give_the_same_classes() -> None:
    model, inputs = coupling_nets.residual()
    one = coupling.trace(model, *inputs)
    with torch.device("meta"):
        twin, _ = coupling_nets.residual()
    other = coupling.trace(twin, *(each.to("meta") for each in inputs))

    assert one.count == other.count
    assert all(np.array_equal(a.ids, b.ids) for a, b in zip(one.entries, other.entries, strict=True))


def test_a_branch_on_values_is_traced_on_real_tensors() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner, self.outer = nn.Linear(3, 8), nn.Linear(8, 2)

        def forward(self, x: Tensor) -> Tensor:
            sign = 1.0 if x.sum().item() > 0 else -1.0
            return self.outer(self.inner(x) * sign)

    assert [len(group.units) for group in coupling.trace(Net(), torch.zeros(1, 3)).groups] == [8]


def test_outputs_choose_what_must_keep_its_shape() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner, self.outer = nn.Linear(3, 8), nn.Linear(8, 2)

        def forward(self, x: Tensor) -> dict[str, Tensor]:
            x = self.inner(x)
            return {"features": x, "logits": self.outer(x)}

    net, x = Net(), torch.zeros(1, 3)
    assert coupling.trace(net, x).groups == ()
    assert [len(group.units) for group in coupling.trace(net, x, outputs=lambda out: out["logits"]).groups] == [8]


def test_inputs_that_do_not_run_are_refused() -> None:
    with pytest.raises(SecateurError, match="`example_inputs` must be what the model is called with"):
        coupling.trace(nn.Linear(3, 4), torch.zeros(1, 5))

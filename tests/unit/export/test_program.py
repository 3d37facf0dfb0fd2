"""Pruned models leave for other runtimes as programs of torch.export: the same function, zeros in place."""

from __future__ import annotations

import io

import pytest
import torch
from torch import Tensor, nn

import secateur as sc
from export_cases import ALWAYS_SPARSE, NETS, convolutional, recurrent
from secateur.export import exported
from secateur.export._compared import difference


@pytest.mark.parametrize("name", NETS)
@pytest.mark.parametrize("how", ["held", "sparse"])
def test_a_program_computes_what_the_model_does_and_keeps_its_zeros(name: str, how: str) -> None:
    net, example = NETS[name]()
    masks = sc.prune(net, sc.methods.magnitude(0.3))
    held = sc.hold(net, masks)
    expected = net.eval()(*example)
    served = net if how == "held" else sc.sparsify(net, masks, machine=ALWAYS_SPARSE)
    before = {key: value.clone() for key, value in served.state_dict().items()}
    program = exported(served, example)
    torch.testing.assert_close(program.module()(*example), expected)
    for key, mask in masks.items():
        weight = program.state_dict[key]
        assert bool((weight[~mask] == 0).all()) and int(weight.count_nonzero()) == int(mask.sum())
    assert all(torch.equal(value, before[key]) for key, value in served.state_dict().items())
    held.check()


def test_a_program_survives_its_file_and_another_batch() -> None:
    net, (x,) = convolutional()
    small = sc.shrink(net, 0.5, x).model
    program = exported(small, x, dynamic_shapes=({0: torch.export.Dim.DYNAMIC},))
    file = io.BytesIO()
    torch.export.save(program, file)
    file.seek(0)
    again = torch.export.load(file).module()
    other = torch.randn(7, *x.shape[1:])
    torch.testing.assert_close(again(other), small.eval()(other))
    assert sum(p.numel() for p in program.parameters()) < sum(p.numel() for p in net.parameters())


def test_a_model_in_training_is_exported_as_it_serves_and_stays_in_training() -> None:
    net = nn.Sequential(nn.Linear(8, 8), nn.Dropout(0.5), nn.BatchNorm1d(8)).train()
    x = torch.randn(4, 8)
    program = exported(net, x)
    assert net.training and int(net[2].num_batches_tracked) == 0
    assert torch.equal(program.module()(x), net.eval()(x))


def test_a_sparse_layer_tells_the_way_when_torch_is_asked_directly() -> None:
    net, example = recurrent()
    fast = sc.sparsify(net, sc.prune(net, sc.methods.magnitude(0.2)), machine=ALWAYS_SPARSE)
    with pytest.raises(sc.SecateurError, match=r"secateur\.export"):
        torch.export.export(fast, example)


class Named(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(4, 3), nn.Linear(6, 3)

    def forward(self, one: Tensor, other: Tensor, scale: float = 1.0) -> dict[str, Tensor]:
        return {"sum": self.first(one) + scale * self.second(other)}


def test_arguments_go_by_name_in_any_order() -> None:
    net, given = Named(), {"other": torch.randn(2, 6), "one": torch.randn(2, 4), "scale": 3.0}
    assert torch.equal(exported(net, given).module()(**given)["sum"], net(**given)["sum"])


class Noisy(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x + torch.rand_like(x)


class Branching(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x if x.sum() > 0 else -x


@pytest.mark.parametrize(
    ("model", "example", "words"),
    [
        (Noisy(), torch.ones(2, 3), "computes something else"),
        (Branching(), torch.ones(2, 3), "torch.export cannot export Branching"),
        (Named(), torch.ones(2, 3), "`example_inputs` must be what the model is called with"),
    ],
)
def test_what_cannot_be_exported_is_told(model: nn.Module, example: Tensor, words: str) -> None:
    with pytest.raises(sc.SecateurError, match=words):
        exported(model, example)


def test_a_language_model_by_its_config() -> None:
    hf = pytest.importorskip("transformers", reason="extra `hf`")
    config = hf.BertConfig(
        hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=24, vocab_size=40
    )
    net = hf.BertForSequenceClassification(config).eval()
    sc.hold(net, sc.prune(net, sc.methods.magnitude(0.3)))
    given = {"input_ids": torch.randint(3, 40, (2, 6)), "attention_mask": torch.ones(2, 6, dtype=torch.long)}
    found = exported(net, given).module()(**given)
    torch.testing.assert_close(found.logits, net(**given).logits)


class Answer:
    """An output of a kind that torch's trees do not look into."""

    def __init__(self, value: Tensor) -> None:
        self.value = value


def test_two_answers_are_compared_through_objects_and_none_without_tensors() -> None:
    assert difference(Answer(torch.ones(2)), Answer(torch.ones(2)), "it") == 0.0
    with pytest.raises(sc.SecateurError, match="computes something else"):
        difference(Answer(torch.ones(2)), Answer(torch.zeros(2)), "it")
    with pytest.raises(sc.SecateurError, match="no tensors"):
        difference({"answer": 42}, {"answer": 42}, "it")

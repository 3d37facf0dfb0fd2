"""Training in bfloat16: the same run within rounding, float32 wherever it is kept, resumed to the same bits."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.utils._python_dispatch import TorchDispatchMode

from secateur._base.errors import SecateurError
from secateur.lab import data
from secateur.lab.experiment import BF16, Adam, Constant, Engine, Experiment, Recipe, Sgd, dense, load_data, untrained
from secateur.lab.running import MASKS, Choice, Progress, Splits, TorchStepper, choose, run, start, train
from secateur.masks import Masks

needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")

RECIPE = Recipe(40, Constant(0.05), batch=32, evaluate_every=20)
#: A residual network with batch norm, on 300 of the digits.
BASE = Experiment("wrn-10-1", "digits", "snip", 0.2, RECIPE, engine=Engine.TORCH, examples=300, bf16=True)
TORCH = Choice(Engine.TORCH, "asked for")


@pytest.fixture(scope="module")
def digits() -> data.Dataset:
    return load_data(BASE, data_dir=None, device="cpu")


class CutError(Exception):
    """Stands for the end of the process."""


def network(generator: torch.Generator) -> nn.Sequential:
    """Two convolutions with batch norm between them, and a classifier, of images of 3 × 6 × 6."""
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.Flatten(), nn.Linear(32, 4)
    )
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(0.3 * torch.randn(parameter.shape, generator=generator))
    return model


def images(generator: torch.Generator, count: int = 16) -> tuple[Tensor, Tensor]:
    x = torch.randn(count, 3, 6, 6, generator=generator)
    return x, torch.randint(4, (count,), generator=generator)


def stepper_of(model: nn.Module, optimizer: Sgd | Adam, masks: Masks | None = None) -> TorchStepper:
    stepper = start(TORCH, model, masks, optimizer, bf16=True)
    assert isinstance(stepper, TorchStepper)
    return stepper


def test_it_trains_as_in_float32_within_rounding(digits: data.Dataset, tmp_path: Path) -> None:
    half, full = (run(replace(BASE, bf16=bf16), root=tmp_path, dataset=digits) for bf16 in (True, False))
    losses = [[point["loss"] for point in result.facts["curve"]] for result in (half, full)]
    assert sum(losses[0][-5:]) < 0.1 * sum(losses[0][:5])
    assert losses[0] != losses[1] and losses[0][:5] == pytest.approx(losses[1][:5], rel=0.02)
    assert abs(half.test_error - full.test_error) < 0.1
    # Scoring knows nothing of it: the same weights stay.
    masks = [Masks.load(result.directory / "masks.safetensors") for result in (half, full)]
    assert masks[0] == masks[1] and half.facts["kept"] == full.facts["kept"]


def test_what_is_kept_is_float32_with_its_zeros(digits: data.Dataset, tmp_path: Path) -> None:
    result = run(BASE, root=tmp_path, dataset=digits)
    weights, masks = load_file(result.directory / "weights.safetensors"), Masks.load(result.directory / MASKS)
    assert {weight.dtype for weight in weights.values() if weight.is_floating_point()} == {torch.float32}
    assert all(weight.is_contiguous() for weight in weights.values())
    for name, mask in masks.items():
        assert not weights[name][~mask].any() and weights[name][mask].all()
    # The file is in the ordinary order: a network of its own, in float32, makes nearly the errors that stand beside it.
    model = untrained(BASE)
    model.load_state_dict(weights)
    with torch.inference_mode():
        wrong = (model.eval()(digits.test.x).argmax(1) != digits.test.y).double().mean()
    assert result.test_error == pytest.approx(wrong.item(), abs=0.02)


@pytest.mark.parametrize("optimizer", [Sgd(), Adam()], ids=["sgd", "adam"])
def test_a_cut_run_ends_in_the_same_bits(optimizer: Sgd | Adam, digits: data.Dataset, tmp_path: Path) -> None:
    recipe = replace(RECIPE, steps=8, rate=Constant(0.01), optimizer=optimizer)
    experiment = replace(BASE, recipe=recipe)
    whole = run(experiment, root=tmp_path / "whole", dataset=digits)
    for stop in (1, 4, 7):

        def cut(news: Progress, stop: int = stop) -> None:
            if news.stage == "train" and news.step == stop:
                raise CutError

        with pytest.raises(CutError):
            run(experiment, root=tmp_path / "cut", dataset=digits, save_every=0.0, on_progress=cut)
    ended = run(experiment, root=tmp_path / "cut", dataset=digits)
    one, other = (result.directory / "weights.safetensors" for result in (whole, ended))
    assert one.read_bytes() == other.read_bytes()
    assert [result.facts["curve"] for result in (whole, ended)] == [whole.facts["curve"]] * 2


@pytest.mark.parametrize("optimizer", [Sgd(), Adam()], ids=["sgd", "adam"])
def test_a_resumed_model_lies_in_memory_as_before(optimizer: Sgd | Adam, generator: torch.Generator) -> None:
    first, second = network(generator), network(generator)
    x, y = images(generator)
    before = stepper_of(first, optimizer)
    before.step(x, y, 0.01)
    kernel = first[3].weight
    assert isinstance(kernel, nn.Parameter) and kernel.is_contiguous(memory_format=torch.channels_last)
    assert not kernel.is_contiguous() and kernel.dtype == torch.float32
    # As from a checkpoint, in which everything is in the ordinary order.
    after = stepper_of(second, optimizer)
    ordinary = {"memory_format": torch.contiguous_format}
    second.load_state_dict({name: value.clone(**ordinary) for name, value in first.state_dict().items()})
    after.restore({name: value.clone(**ordinary) for name, value in before.state().items()})

    def places(model: nn.Module, state: Mapping[str, Tensor]) -> dict[str, tuple[int, ...]]:
        return {name: value.stride() for name, value in {**model.state_dict(), **state}.items()}

    assert places(second, after.state()) == places(first, before.state())
    assert all(value.dtype == torch.float32 for value in after.state().values())
    assert torch.equal(before.step(x, y, 0.01), after.step(x, y, 0.01))
    assert all(torch.equal(one, two) for one, two in zip(first.parameters(), second.parameters(), strict=True))


def test_products_are_bfloat16_and_the_rest_float32(generator: torch.Generator) -> None:
    model, seen = network(generator), {}
    for name, module in model.named_modules():
        module.register_forward_hook(lambda _, inputs, output, name=name: seen.update({name: output.dtype}))
    x, y = images(generator)
    stepper = stepper_of(model, Sgd())
    expected = cross_entropy(model.float()(x), y).detach()
    loss = stepper.step(x, y, 0.01)
    assert [seen[name] for name in ("0", "3", "5")] == [torch.bfloat16] * 3
    assert loss.dtype == torch.float32 and stepper.predict(x).dtype == torch.float32
    assert loss != expected and loss.item() == pytest.approx(expected.item(), rel=0.02)
    assert {parameter.grad.dtype for parameter in model.parameters() if parameter.grad is not None} == {torch.float32}
    assert not torch.is_autocast_enabled("cpu")


@pytest.mark.parametrize("model", ["lenet-300-100", "lstm-s", "gru-s"])
def test_networks_without_images_in_them_train_too(model: str, digits: data.Dataset, tmp_path: Path) -> None:
    recipe = replace(RECIPE, steps=3)
    found = run(replace(BASE, model=model, recipe=recipe, engine=Engine.AUTO), root=tmp_path, dataset=digits)
    assert found.facts["engine"] == {"name": "torch", "why": BF16}


def test_the_sparse_engine_is_refused(generator: torch.Generator) -> None:
    says = r"`engine` sparse does not fit this run: it trains in bfloat16, .* in float32\. Use --engine auto or torch\."
    with pytest.raises(SecateurError, match=says):
        replace(BASE, engine=Engine.SPARSE)
    model = nn.Sequential(nn.Linear(4, 3))
    masks = Masks({"0.weight": torch.rand(3, 4, generator=generator) < 0.3})
    with pytest.raises(SecateurError, match=says):
        choose(Engine.SPARSE, model, masks, Sgd(), bf16=True)
    assert choose(Engine.AUTO, model, masks, Sgd(), bf16=True) == Choice(Engine.TORCH, BF16)
    assert choose(Engine.TORCH, model, masks, Sgd(), bf16=True) == TORCH


def test_the_dense_twin_trains_alike() -> None:
    assert dense(BASE, seed=1).bf16 and not dense(replace(BASE, bf16=False), seed=1).bf16


class Reads(TorchDispatchMode):
    """Counts how often a number is read out of a tensor: on a GPU, each time everything before it is waited for."""

    count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += func is torch.ops.aten._local_scalar_dense.default
        return func(*args, **(kwargs or {}))


def test_no_step_reads_a_number(generator: torch.Generator) -> None:
    model, x, y = network(generator), *images(generator)
    masks = Masks({"3.weight": torch.rand(8, 8, 3, 3, generator=generator) < 0.3})
    stepper = stepper_of(model, Sgd(), masks)

    def batches(step: int) -> tuple[Tensor, Tensor]:
        return data.batch_at(data.Examples(x, y), 4, seed=0, step=step, augment=data.flip_and_shift)

    recipe = Recipe(400, Constant(0.001), batch=4)
    with Reads() as reads:
        trail = train(model, stepper, recipe, batches, Splits((x, y), (x, y)), evaluate_every=200)
    assert len(trail.curve) == 200 and len(trail.evaluations) == 2
    assert reads.count == 200 + 2 * 2  # a point of the curve every other step, two sets judged twice
    stepper.close()


@needs_cuda
def test_batches_on_a_gpu_are_those_of_the_cpu(digits: data.Dataset) -> None:
    there = data.Examples(digits.train.x.cuda(), digits.train.y.cuda())
    for step in range(3):
        one, other = (
            data.batch_at(examples, 32, seed=0, step=step, augment=data.flip_and_shift)
            for examples in (digits.train, there)
        )
        assert other[0].is_cuda and all(torch.equal(x, y.cpu()) for x, y in zip(one, other, strict=True))


@needs_cuda
@pytest.mark.parametrize("bf16", [True, False])
def test_no_step_waits_for_a_gpu(bf16: bool, digits: data.Dataset) -> None:
    examples = data.Examples(digits.train.x.cuda(), digits.train.y.cuda())
    model = untrained(BASE).cuda()
    masks = Masks(
        {n: torch.arange(p.numel()).reshape(p.shape) % 5 == 0 for n, p in model.named_parameters() if p.dim() == 4}
    )
    stepper = start(TORCH, model, masks, Sgd(), bf16=bf16)
    try:
        for step in range(6):
            # The first steps bring masks and the optimizer's memory to the device.
            torch.cuda.set_sync_debug_mode("default" if step < 3 else "error")
            batch = data.batch_at(examples, 32, seed=0, step=step, augment=data.flip_and_shift)
            stepper.step(*batch, 0.01)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    stepper.verify()
    stepper.close()


@needs_cuda
def test_a_run_on_a_gpu_goes_on_where_it_was_cut(tmp_path: Path) -> None:
    def cut(news: Progress) -> None:
        if news.stage == "train" and news.step == 20:
            raise CutError

    with pytest.raises(CutError):
        run(BASE, root=tmp_path, device="cuda", save_every=0.0, on_progress=cut)
    result = run(BASE, root=tmp_path, device="cuda")
    losses = [point["loss"] for point in result.facts["curve"]]
    assert len(losses) == 40 and sum(losses[-5:]) < 0.1 * sum(losses[:5])
    weights, masks = load_file(result.directory / "weights.safetensors"), Masks.load(result.directory / MASKS)
    assert not any(weights[name][~mask].any() for name, mask in masks.items())

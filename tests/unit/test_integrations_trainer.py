"""Trainers of others prune: a run that broke off and goes on ends in the bits of one that did not."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from secateur import CheckpointWarning, MaskError, Masks, Pruner, SecateurError, held, methods, prune, schedule, scope
from secateur.integrations.trainers import Session
from secateur.integrations.transformers import PrunerCallback

hf = pytest.importorskip("transformers", reason="extra `hf`")
accelerate = pytest.importorskip("accelerate", reason="extra `hf`: the Trainer needs it")

STEPS, STOP = 8, 5
SIZES = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 24}
What = Callable[[nn.Module], Any]


def network(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    config = hf.BertConfig(**SIZES, vocab_size=40, max_position_embeddings=16, num_labels=2)
    return hf.BertForSequenceClassification(config)


def examples() -> list[dict[str, torch.Tensor]]:
    draw = torch.Generator().manual_seed(1)
    ids = torch.randint(3, 40, (16, 6), generator=draw)
    return [{"input_ids": row, "labels": row[0] % 2} for row in ids]


class BreaksOff(hf.TrainerCallback):
    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if state.global_step == STOP:
            raise KeyboardInterrupt


def trainer(folder: Path, model: nn.Module, *callbacks: Any, steps: int = STEPS) -> Any:
    options = hf.TrainingArguments(
        output_dir=str(folder),
        max_steps=steps,
        per_device_train_batch_size=4,
        learning_rate=1e-2,
        logging_steps=2,
        save_steps=1,
        report_to=[],
        use_cpu=True,
        disable_tqdm=True,
        dataloader_pin_memory=False,
        seed=3,
    )
    return hf.Trainer(model=model, args=options, train_dataset=examples(), callbacks=list(callbacks))


def agp(model: nn.Module) -> Any:
    return methods.magnitude(density=0.1, schedule=schedule.cubic(0.1, begin=1, end=7, every=1))


def masks_before(model: nn.Module) -> Any:
    batch = {key: torch.stack([row[key] for row in examples()]) for key in ("input_ids", "labels")}

    def loss(output: Any, target: Any) -> torch.Tensor:
        return nn.functional.cross_entropy(output.logits, target)

    batches = [({"input_ids": batch["input_ids"]}, batch["labels"])]
    return prune(model, methods.snip(density=0.2, scope=scope.layerwise()), batches=batches, loss=loss)


def with_gates(model: nn.Module) -> Any:
    return Pruner(model, methods.movement(density=0.3, begin=1, end=6, every=1))


CASES: dict[str, What] = {
    "rigl": lambda model: methods.rigl(density=0.3, until=6, every=2),
    "agp": agp,
    "snip": masks_before,
    "movement": with_gates,
}


def options(case: str) -> dict[str, Any]:
    return {"generator": torch.Generator().manual_seed(2)} if case == "rigl" else {}


@pytest.mark.parametrize("case", CASES)
def test_a_run_that_broke_off_ends_in_the_same_bits(case: str, tmp_path: Path) -> None:
    whole = network()
    callback = PrunerCallback(CASES[case](whole), **options(case))
    trainer(tmp_path / "whole", whole, callback).train()
    stopped = network()
    first = PrunerCallback(CASES[case](stopped), **options(case))
    with pytest.raises(KeyboardInterrupt):
        trainer(tmp_path / "stopped", stopped, first, BreaksOff()).train()
    resumed = network()
    again = PrunerCallback(CASES[case](resumed), **options(case))
    trainer(tmp_path / "stopped", resumed, again).train(resume_from_checkpoint=True)
    assert again.masks == callback.masks
    assert 0.09 < callback.masks.density < 0.31
    for name, value in whole.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[name]), name
    for name, mask in callback.masks.items():
        assert not resumed.get_parameter(name)[~mask].any(), name
    assert not held(resumed)


def test_the_trainers_pruner_is_the_plain_loops(tmp_path: Path) -> None:
    # Two seams that could slip: the number of the step at which the schedule acts, and the moment of the last cut.
    model = network()
    seen: list[tuple[int, float]] = []

    class Watch(hf.TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            seen.append((state.global_step, callback.masks.density))

    callback = PrunerCallback(agp(model))
    trainer(tmp_path, model, callback, Watch()).train()
    plan = schedule.cubic(0.1, begin=1, end=7, every=1)
    wanted = [getattr(plan(step), "density", 0.1) for step in range(1, STEPS + 1)]
    assert [step for step, _ in seen] == list(range(1, STEPS + 1))
    assert [density for _, density in seen] == pytest.approx(wanted, abs=1e-3)


@pytest.mark.parametrize("first", [False, True])
def test_figures_join_the_logs(first: bool, tmp_path: Path) -> None:
    heard: list[dict[str, Any]] = []

    class Logger(hf.TrainerCallback):
        def on_log(self, args: Any, state: Any, control: Any, *, logs: Any = None, **_: Any) -> None:
            heard.append(dict(logs))

    model = network()
    callback = PrunerCallback(agp(model))
    made = trainer(tmp_path, model, Logger(), callback)
    if first:
        callback.log_first(made)
    made.train()
    history = [row for row in made.state.log_history if "loss" in row]
    assert [row["step"] for row in history] == [2, 4, 6, 8]
    assert history[-1]["kept"] == callback.masks.kept
    assert all(row["density"] + row["sparsity"] == pytest.approx(1) for row in history)
    assert ("density" in heard[0]) == first


def test_it_is_one_of_the_trainers_callbacks() -> None:
    callback = PrunerCallback(Masks({"weight": torch.ones(2, 2, dtype=torch.bool)}))
    assert isinstance(callback, hf.TrainerCallback) and isinstance(callback, PrunerCallback)


def test_other_masks_than_the_checkpoints_are_told(tmp_path: Path) -> None:
    model = network()
    masks = masks_before(model)
    trainer(tmp_path, model, PrunerCallback(masks), steps=3).train()
    other = network()
    callback = PrunerCallback(prune(other, methods.magnitude(density=0.2)))
    with pytest.warns(CheckpointWarning, match="not those that were given"):
        trainer(tmp_path, other, callback, steps=4).train(resume_from_checkpoint=True)
    assert callback.masks == masks


def test_what_is_refused(tmp_path: Path) -> None:
    model = network()
    with pytest.raises(SecateurError, match=r"`method` must be a Method, Masks or a Pruner, got a str"):
        inspect.unwrap(Session.__init__)(object.__new__(Session), "snip")  # past the suite's own check of types
    with pytest.raises(SecateurError, match=r"(?i)movement puts gates on the model.*PrunerCallback\(pruner\)"):
        PrunerCallback(methods.movement(density=0.1, end=6))
    masks = prune(model, methods.magnitude(density=0.5))
    with pytest.raises(SecateurError, match="`batches` is for a method, and a Masks was given"):
        PrunerCallback(masks, batches=[])
    callback = PrunerCallback(masks)
    with pytest.raises(SecateurError, match="training has not begun"):
        _ = callback.masks
    made = trainer(tmp_path, model, callback, steps=2)
    made.train()
    with pytest.raises(SecateurError, match="one callback prunes one training"):
        made.train()


def test_a_checkpoint_without_pruning_state_is_refused(tmp_path: Path) -> None:
    trainer(tmp_path, network(), steps=2).train()
    model = network(1)
    with pytest.raises(SecateurError, match=r"at step 2, and there is no secateur_pruner.pt in .*checkpoint-2"):
        trainer(tmp_path, model, PrunerCallback(agp(model))).train(resume_from_checkpoint=True)


def test_a_state_of_other_weights_is_refused(tmp_path: Path) -> None:
    for name, seed in (("a", 0), ("b", 1)):
        model = network(seed)
        callback = PrunerCallback(prune(model, methods.magnitude(density=0.2)))
        trainer(tmp_path / name, model, callback, steps=2).train()
    model = network()
    callback = PrunerCallback(agp(model), checkpoint=tmp_path / "b" / "checkpoint-2")
    with pytest.raises(SecateurError, match="is not of these weights"):
        trainer(tmp_path / "a", model, callback).train(resume_from_checkpoint=True)
    file = tmp_path / "a" / "checkpoint-2" / "secateur_pruner.pt"
    file.write_bytes(file.read_bytes()[:100])
    with pytest.raises(SecateurError, match=r"secateur_pruner.pt cannot be read"):
        trainer(tmp_path / "a", model, PrunerCallback(agp(model))).train(resume_from_checkpoint=True)


def test_another_model_is_refused(tmp_path: Path) -> None:
    pruner = Pruner(network(), agp(network()))
    with pytest.raises(SecateurError, match="not the one that this Pruner"):
        trainer(tmp_path, network(1), PrunerCallback(pruner)).train()
    with pytest.raises(MaskError):
        trainer(tmp_path, network(1), PrunerCallback(Masks({"no": torch.ones(2, dtype=torch.bool)}))).train()


def test_accelerate_saves_and_loads_a_pruner(tmp_path: Path) -> None:
    def run(steps: range, folder: Path | None = None, begun: Path | None = None) -> tuple[Masks, nn.Module]:
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(6, 20), nn.ReLU(), nn.Linear(20, 1))
        pruner = Pruner(model, methods.agp(0.2, begin=0, end=7, every=1))
        accelerator = accelerate.Accelerator(cpu=True)
        wrapped, optimizer = accelerator.prepare(model, torch.optim.Adam(model.parameters(), lr=0.01))
        accelerator.register_for_checkpointing(pruner)
        if begun is not None:
            accelerator.load_state(str(begun))
        for step in steps:
            inputs = torch.randn(8, 6, generator=torch.Generator().manual_seed(step))
            accelerator.backward(wrapped(inputs).sub(inputs[:, :1]).square().mean())
            optimizer.step()
            optimizer.zero_grad()
        if folder is not None:
            accelerator.save_state(str(folder))
            return pruner.masks, model
        return pruner.finish(), model

    masks, whole = run(range(STEPS))
    run(range(STOP), tmp_path / "half")
    again, resumed = run(range(STOP, STEPS), begun=tmp_path / "half")
    assert again == masks and masks.density == pytest.approx(0.2, abs=0.01)
    for name, value in whole.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[name]), name

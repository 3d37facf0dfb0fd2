"""Lightning's Trainer prunes: a run that broke off and goes on ends in the bits of one that did not."""

from __future__ import annotations

import logging
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from secateur import Masks, Pruner, SecateurError, held, methods, prune
from secateur.integrations.lightning import PrunerCallback

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    pl = pytest.importorskip("lightning.pytorch", reason="extra `lightning`")

pytestmark = pytest.mark.filterwarnings("ignore")  # Lightning's own, about loaders, folders and itself
STEPS, STOP = 8, 5


def data() -> Any:
    return torch.utils.data.DataLoader(list(range(STEPS)))  # type: ignore[arg-type]  # a Trainer that resumes begins its epoch anew


def network(seed: int = 0) -> Any:
    class Net(pl.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.layers = nn.Sequential(nn.Linear(6, 20), nn.ReLU(), nn.Linear(20, 1))

        def training_step(self, batch: Any, index: int) -> torch.Tensor:
            inputs = torch.randn(8, 6, generator=torch.Generator().manual_seed(self.global_step))
            loss = nn.functional.mse_loss(self.layers(inputs), inputs[:, :1].sign())
            return loss

        def configure_optimizers(self) -> Any:
            return torch.optim.SGD(self.parameters(), lr=0.05, momentum=0.9)

    torch.manual_seed(seed)
    return Net()


def trainer(folder: Path, *callbacks: Any, steps: int = STEPS) -> Any:
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    return pl.Trainer(
        max_steps=steps,
        accelerator="cpu",
        default_root_dir=folder,
        logger=pl.loggers.CSVLogger(folder),
        callbacks=[*callbacks, pl.callbacks.ModelCheckpoint(folder, "{step}", save_top_k=-1, every_n_train_steps=1)],
        enable_progress_bar=False,
        enable_model_summary=False,
        log_every_n_steps=2,
    )


def of(case: str, model: Any) -> Any:
    if case == "rigl":
        return PrunerCallback(methods.rigl(density=0.3, until=6, every=2), generator=torch.Generator().manual_seed(2))
    if case == "agp":
        return PrunerCallback(methods.agp(0.2, begin=1, end=7, every=1))
    return PrunerCallback(prune(model, methods.magnitude(density=0.3)))


@pytest.mark.parametrize("case", ["rigl", "agp", "magnitude"])
def test_a_run_that_broke_off_ends_in_the_same_bits(case: str, tmp_path: Path) -> None:
    class BreaksOff(pl.Callback):
        def on_train_batch_end(self, trainer: Any, *_: Any) -> None:
            if trainer.global_step == STOP + 1:  # the checkpoint of this step is not written yet
                raise RuntimeError("cut off")

    whole, stopped, resumed = (network() for _ in range(3))
    callback = of(case, whole)
    trainer(tmp_path / "whole", callback).fit(whole, data())
    with pytest.raises(RuntimeError, match="cut off"):
        trainer(tmp_path / "stopped", of(case, stopped), BreaksOff()).fit(stopped, data())
    again = of(case, resumed)
    trainer(tmp_path / "stopped", again).fit(resumed, data(), ckpt_path=tmp_path / "stopped" / f"step={STOP}.ckpt")
    assert again.masks == callback.masks
    assert 0.19 < callback.masks.density < 0.31
    for name, value in whole.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[name]), name
    for name, mask in callback.masks.items():
        assert not resumed.get_parameter(name)[~mask].any(), name
    assert not held(resumed)


def test_figures_are_logged(tmp_path: Path) -> None:
    model = network()
    callback = of("agp", model)
    made = trainer(tmp_path, callback)
    made.fit(model, data())
    made.logger.save()
    header, *rows = (Path(made.logger.log_dir) / "metrics.csv").read_text().splitlines()
    assert {"density", "sparsity", "kept", "emptied"} <= set(header.split(","))
    last = dict(zip(header.split(","), rows[-1].split(","), strict=True))
    assert len(rows) == STEPS // 2
    assert float(last["kept"]) == callback.masks.kept


def test_it_is_one_of_lightnings_callbacks() -> None:
    callback = PrunerCallback(Masks({"weight": torch.ones(2, 2, dtype=torch.bool)}))
    assert isinstance(callback, pl.Callback) and isinstance(callback, PrunerCallback)


def test_what_is_refused(tmp_path: Path) -> None:
    trainer(tmp_path, steps=2).fit(network(), data())
    gated = methods.movement(density=0.3, end=6)
    for what in (gated, Pruner(network(), gated)):
        with pytest.raises(SecateurError, match=r"movement puts gates .* Lightning runs both at once"):
            PrunerCallback(what)
    model = network()
    callback = of("agp", model)
    with pytest.raises(SecateurError, match=r"at step 2 from a checkpoint without this callback's state"):
        trainer(tmp_path, callback).fit(model, data(), ckpt_path=tmp_path / "step=2.ckpt")
    trainer(tmp_path, callback).fit(network(), data())
    with pytest.raises(SecateurError, match="one callback prunes one training"):
        trainer(tmp_path, callback).fit(network(), data())

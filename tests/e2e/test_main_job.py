"""The main job on the real data: prune LeNet-300-100 at initialisation, train what is left on MNIST."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from secateur.cli import main


@pytest.mark.data
def test_snip_at_95_percent_on_mnist(data_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    # Ten epochs; the paper's 185 reach 1.6 % (arXiv 1810.02340, Table 1), thirty in the short recipe 2.0 %.
    command = "run --data mnist --model lenet-300-100 --method snip --sparsity 95% --steps 5400 --json"
    assert main([*command.split(), "--data-dir", str(data_dir), "--runs", str(tmp_path)]) == 0
    (result,) = json.loads(capsys.readouterr().out)["results"]
    assert (result["kept"], result["prunable"]) == (13_310, 266_200)
    assert result["test_error"] <= 0.025
    assert result["bytes"]["packed"] < result["bytes"]["dense"] / 12

"""CONTRIBUTING.md, followed to the letter: its method, import line and conformance row."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import nn

from secateur import methods, prune
from secateur.catalogue import catalogue

ROOT = Path(__file__).resolve().parent.parent
NAME = "fisher_pruning"


def _step(number: int) -> str:
    page = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    found = re.search(rf"<!-- step {number} -->\n```python\n(.*?)^```$", page, re.DOTALL | re.MULTILINE)
    assert found, f"CONTRIBUTING.md has no code for step {number}"
    return found[1]


@pytest.fixture
def added(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Steps 1 and 2, in a folder that stands in for `secateur/methods`."""
    (tmp_path / f"{NAME}.py").write_text(_step(1), encoding="utf-8")
    monkeypatch.setattr(methods, "__path__", [*methods.__path__, str(tmp_path)])
    namespace: dict[str, object] = {}
    exec(_step(2), namespace)
    monkeypatch.setattr(methods, NAME, namespace[NAME], raising=False)
    monkeypatch.setattr(methods, "__all__", [*methods.__all__, NAME])
    yield
    sys.modules.pop(f"secateur.methods.{NAME}", None)


@pytest.mark.usefixtures("added")
def test_the_conformance_row_passes() -> None:
    exec(_step(3), {})


@pytest.mark.usefixtures("added")
def test_table_page_and_command_line_know_it() -> None:
    entry = catalogue()[NAME]
    assert (entry.family, entry.needs, entry.cuts) == ("after training", "labels", "weights")
    assert entry.arxiv == "1801.05787"
    assert entry.summary.startswith("Keep the weights whose removal would change the loss most")


@pytest.mark.usefixtures("added")
def test_it_computes_what_its_page_says() -> None:
    model = nn.Linear(6, 3, bias=False)
    batches = [(torch.randn(5, 6), torch.randint(3, (5,))) for _ in range(4)]
    before = model.weight.detach().clone()
    fisher = torch.zeros_like(before)
    for inputs, targets in batches:
        leaf = before.clone().requires_grad_()
        loss = nn.functional.cross_entropy(inputs @ leaf.T, targets)
        fisher += torch.autograd.grad(loss, leaf)[0].square()
    threshold = (before.square() * fisher).flatten().sort(descending=True).values[8]
    masks = prune(model, getattr(methods, NAME)(density=0.5), batches)
    assert torch.equal(masks["weight"], before.square() * fisher >= threshold)


def test_steps_are_all_there_is() -> None:
    # The promise is "one file, one line, one row": a fourth step on the page would break it.
    page = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    assert re.findall(r"^### (\d)\. ", page, re.MULTILINE) == ["1", "2", "3"]

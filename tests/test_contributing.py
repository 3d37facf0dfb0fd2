"""CONTRIBUTING.md, followed to the letter: its method, its import line and its test."""

from __future__ import annotations

import re
import sys
import types
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from torch import nn

from secateur import Pruner, method, methods, schedule, scope, structure
from secateur._catalogue import catalogue
from secateur.testing import check_method

ROOT = Path(__file__).resolve().parent.parent
NAME = "fisher_pruning"


def _step(number: int) -> str:
    return _code(f"step {number}")


def _code(label: str) -> str:
    page = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    found = re.search(rf"<!-- {label} -->\n```python\n(.*?)^```$", page, re.DOTALL | re.MULTILINE)
    assert found, f"CONTRIBUTING.md has no code for {label}"
    return found[1]


@pytest.fixture
def added(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Steps 1 and 2, in a folder that stands in for `secateur/methods`."""
    (tmp_path / f"_{NAME}.py").write_text(_step(1), encoding="utf-8")
    monkeypatch.setattr(methods, "__path__", [*methods.__path__, str(tmp_path)])
    namespace: dict[str, object] = {}
    exec(_step(2), namespace)
    monkeypatch.setattr(methods, NAME, namespace[NAME], raising=False)
    monkeypatch.setattr(methods, "__all__", [*methods.__all__, NAME])
    yield
    sys.modules.pop(f"secateur.methods._{NAME}", None)


@pytest.mark.usefixtures("added")
def test_it_passes_the_conformance_suite() -> None:
    check_method(catalogue()[NAME].factory)


@pytest.mark.usefixtures("added")
def test_table_page_and_command_line_know_it() -> None:
    entry = catalogue()[NAME]
    assert (entry.family, entry.needs, entry.cuts) == ("after training", "labels", "weights")
    assert entry.arxiv == "1801.05787"
    assert entry.summary.startswith("Keep the weights whose removal would change the loss most")


@pytest.mark.usefixtures("added")
def test_its_own_test_passes() -> None:
    namespace: dict[str, Callable[[], None]] = {}
    exec(_step(3), namespace)
    tests = [value for name, value in namespace.items() if name.startswith("test_")]
    assert len(tests) == 1
    tests[0]()


def test_steps_are_all_there_is() -> None:
    # The promise is one file, one line, one test: a fourth step on the page would break it.
    page = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    assert re.findall(r"^### (\d)\. ", page, re.MULTILINE) == ["1", "2", "3"]


def test_its_gate_does_what_it_says() -> None:
    gates = types.ModuleType("gates")  # a dataclass looks its module up
    sys.modules["gates"] = gates
    exec(_code("gate"), vars(gates))
    model = nn.Linear(2, 1, bias=False)
    model.weight.data = torch.tensor([[0.25, -2.0]])
    pulled = method(
        "pull",
        None,
        structure=structure.weights(),
        scope=scope.everywhere(),
        schedule=schedule.once(None, at=3),
        relax=gates.Pulls(0.1),
    )
    pruner = Pruner(model, pulled)
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    for _ in range(3):
        optimizer.zero_grad()
        (0 * model(torch.ones(1, 2))).sum().backward()
        optimizer.step()
    masks = pruner.finish()
    sys.modules.pop("gates")

    assert torch.equal(masks["weight"], torch.tensor([[False, True]]))
    torch.testing.assert_close(model.weight.data, torch.tensor([[0.0, -1.7]]))

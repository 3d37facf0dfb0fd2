"""Which of two ways is faster: certain, open, and remembered."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import nn

from secateur.cli import main
from secateur.sparse.convert._inputs import Use
from secateur.sparse.convert._timed import ways_of
from secateur.sparse.timing import Verdict, decide, remembered_verdict, verdicts_here

DAY = "2026-01-01"
SPARSE, DENSE = Verdict(2.0, 1.0, 0.5, 0.1, DAY), Verdict(1.0, 2.0, 2.0, 0.1, DAY)
OPEN = Verdict(1.0, 0.99, 0.99, 0.1, DAY)


def test_the_order_of_very_different_ways_is_certain() -> None:
    small, large = torch.rand(8, 8), torch.rand(512, 512)
    verdict = decide(lambda: large @ large, lambda: small @ small, seconds=5.0)
    assert verdict.second_is_faster and verdict.certain and verdict.second < verdict.first
    turned = decide(lambda: small @ small, lambda: large @ large, seconds=5.0)
    assert turned.certain and not turned.second_is_faster and turned.ratio > 1


def test_a_verdict_is_certain_only_beyond_its_spread() -> None:
    assert SPARSE.second_is_faster and SPARSE.certain and DENSE.certain and not DENSE.second_is_faster
    assert not OPEN.certain and not OPEN.second_is_faster
    assert Verdict.of_json(SPARSE.as_json()) == SPARSE
    for wrong in ({"first": float("nan")}, {"first": 0.0}, {"second": -1.0}):
        with pytest.raises(ValueError, match="no verdict"):
            Verdict.of_json(SPARSE.as_json() | wrong)


def test_verdicts_are_remembered_by_kind_and_open_ones_are_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECATEUR_CACHE", str(tmp_path))
    calls: list[str] = []

    def ask(kind: str, verdict: Verdict) -> Verdict:
        def measure() -> tuple[Verdict, str]:
            calls.append(kind)
            return verdict, "oneDNN"

        found, way = remembered_verdict(kind, measure)
        assert way == "oneDNN"
        return found

    assert ask("a", SPARSE) == SPARSE == ask("a", DENSE) and ask("b", DENSE) == DENSE
    assert ask("open", OPEN) == OPEN and ask("open", SPARSE) == SPARSE
    assert calls == ["a", "b", "open", "open"] and verdicts_here() == {"a": SPARSE, "b": DENSE, "open": SPARSE}


def test_doctor_counts_what_is_remembered_and_forgets_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("SECATEUR_CACHE", str(tmp_path))
    for kind, verdict in {"a": SPARSE, "b": DENSE}.items():
        remembered_verdict(kind, lambda verdict=verdict: (verdict, "torch"))
    other = {"another machine · kind": SPARSE.as_json() | {"dense": "torch"}}
    file = tmp_path / "verdicts.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | other))
    assert main(["doctor", "--json"]) == 0
    timed = json.loads(capsys.readouterr().out)["timed"]
    assert timed == {"layers": 2, "sparse": 1, "oldest": DAY, "spread": 0.1}
    assert main(["doctor", "--json", "--measure"]) == 0
    told = capsys.readouterr()
    assert json.loads(told.out)["timed"]["layers"] == 0 and "forgot 2 timed layers" in told.err
    assert json.loads(file.read_text()) == other and verdicts_here() == {}


def test_channels_last_is_not_tried_where_torch_would_write_past_its_memory() -> None:
    strided, plain = nn.Conv2d(8, 16, 1, stride=2), nn.Conv2d(8, 16, 3, stride=2)
    assert [list(ways_of(layer, Use((1, 8, 9, 9), training=True))) for layer in (strided, plain)] == [
        [],
        ["channels-last"],
    ]
    assert list(ways_of(strided, Use((1, 8, 9, 9), training=False))) == ["channels-last"]

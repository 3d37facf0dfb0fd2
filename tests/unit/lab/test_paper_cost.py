"""What a step costs: real steps of the cell's own engine, kept by cell, dropped when the cell changes, summed right."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from paper_cases import BASE, DENSE, RECIPE, cell, unsealed
from secateur._base.errors import SecateurError
from secateur.lab.data import DataError
from secateur.lab.experiment import Adam, Engine
from secateur.lab.paper import (
    Artefact,
    Cell,
    Cost,
    Paper,
    check_timed,
    cost_table,
    current_costs,
    keep_costs,
    lines,
    read_costs,
    time_cells,
    whole_costs,
    write_costs,
    write_page,
)
from secateur.lab.repeat import ArtefactError
from secateur.lab.running import Choice, Stepper, TorchStepper, start
from secateur.masks import Masks

CELLS = (cell("5 %", "SNIP"), cell("5 %", "dense", DENSE), cell("1 %", "SNIP", replace(BASE, density=0.01)))


def spent(one: Cell, step: float = 0.002, dense: float = 0.005, **more: Any) -> Cost:
    return replace(Cost(one.experiment, step, dense, 0.5, 0.75, 2, "sparse", 1, "Abacus"), **more)


COSTS = {
    "5 % · SNIP": spent(CELLS[0]),
    "5 % · dense": spent(CELLS[1], 0.005, engine="torch"),
    "1 % · SNIP": spent(CELLS[2], 0.00125),
}


def paper_in(folder: Path, *cells: Cell, seeds: int = 1) -> tuple[Paper, Artefact]:
    artefact = Artefact("table", "Table", "", cells, lines, seeds=seeds)
    return Paper("tiny", "Tiny", "", folder, {"table": artefact}), artefact


class Watched:
    """Every engine that is started, with its model, its masks and the weights it began with."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.started: list[tuple[Stepper, nn.Module, Masks | None, list[Tensor]]] = []
        self.closed: list[Stepper] = []

        def watched(choice: Choice, model: nn.Module, masks: Masks | None, optimizer: Any, *, bf16: bool) -> Stepper:
            before = [parameter.detach().clone() for parameter in model.parameters()]
            stepper = start(choice, model, masks, optimizer, bf16=bf16)
            self.started.append((stepper, model, masks, before))
            close = stepper.close
            monkeypatch.setattr(stepper, "close", lambda: (self.closed.append(stepper), close()))
            return stepper

        monkeypatch.setattr("secateur.lab.paper._clock.start", watched)

    def kinds(self) -> list[tuple[str, int]]:
        """The engine of each, and how many weights it was given."""
        return [
            (str(stepper.choice.engine), sum(int((weight != 0).sum()) for weight in before if weight.dim() == 2))
            for stepper, _, _, before in self.started
        ]


def test_steps_are_real_ones_of_the_cell_s_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    watched = Watched(monkeypatch)
    threads, state = torch.get_num_threads(), torch.random.get_rng_state()
    cells = [CELLS[0], cell("held", experiment=replace(BASE, engine=Engine.TORCH, recipe=replace(RECIPE, batch=20)))]
    found = time_cells(cells, threads=1, budget=0.01)
    # The cell's own network and the dense one beside it, of 64 · 300 + 300 · 100 + 100 · 10 weights, for each.
    assert watched.kinds() == [("sparse", 2_510), ("torch", 50_200), ("torch", 2_510), ("torch", 50_200)]
    assert [found[one.name].engine for one in cells] == ["sparse", "torch"]
    assert [found[one.name].experiment for one in cells] == [one.experiment for one in cells]
    assert all(math.isfinite(each.step) and each.step > 0 and each.dense > 0 for each in found.values())
    for stepper, model, masks, before in watched.started:
        stepper.sync()
        after = [parameter.detach() for parameter in model.parameters()]
        assert all(weight.isfinite().all() for weight in after)
        assert not any(torch.equal(one, other) for one, other in zip(before, after, strict=True))
        assert masks is None or all(not model.get_parameter(name)[~mask].any() for name, mask in masks.items())
    assert watched.closed == [stepper for stepper, *_ in watched.started]
    assert torch.get_num_threads() == threads and torch.equal(torch.random.get_rng_state(), state)


def test_steps_see_the_run_s_own_batches_and_optimizer(monkeypatch: pytest.MonkeyPatch) -> None:
    watched, sizes = Watched(monkeypatch), []
    step = TorchStepper.step

    def counted(self: TorchStepper, inputs: Tensor, targets: Tensor, rate: float) -> Tensor:
        sizes.append(len(inputs))
        return step(self, inputs, targets, rate)

    monkeypatch.setattr(TorchStepper, "step", counted)
    run = replace(DENSE, recipe=replace(RECIPE, batch=30, optimizer=Adam()), random_labels=True, seed=3)
    found = time_cells([cell("dense", experiment=run)], budget=0.01)
    ((stepper, *_),) = watched.started
    assert isinstance(stepper, TorchStepper) and isinstance(stepper.optimizer, torch.optim.Adam)
    assert set(sizes) == {30} and len(sizes) >= 7  # two untimed, five turns
    only = found["dense · snip"]
    assert only.evaluation == only.dense_evaluation > 0
    assert only.step == only.dense and only.gain == 1.0  # a dense network is its own twin
    assert only.experiment == run and only.threads == 1 and only.machine


def test_an_evaluation_is_of_the_validation_and_the_test_set(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []

    def known(candidates: dict[str, Any], **_: object) -> dict[str, float]:
        """Take 8 ms for whatever is asked for."""
        for call in candidates.values():
            call()
        return dict.fromkeys(candidates, 0.008)

    predict = TorchStepper.predict
    monkeypatch.setattr(TorchStepper, "predict", lambda self, x: (asked.append(len(x)), predict(self, x))[1])
    monkeypatch.setattr("secateur.lab.paper._clock.interleaved", known)
    run = replace(DENSE, recipe=replace(RECIPE, steps=100, batch=20, evaluate_every=30))
    (found,) = time_cells([cell("dense", experiment=run)]).values()
    assert asked == [355]  # the test set of the digits, which is timed for the 144 of the validation set as well
    assert found.evaluation == pytest.approx(0.008 * 499 / 355) and found.evaluations == 4


def test_what_cannot_be_timed_is_refused_before_anything_is(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("SECATEUR_DATA", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    check_timed(CELLS)
    with pytest.raises(SecateurError, match=r"Did you mean 'random'\?"):
        check_timed([*CELLS, cell("wrong", experiment=replace(BASE, method="randm"))])
    with pytest.raises(DataError, match=r"MNIST was not found\. Looked for"):
        check_timed([*CELLS, cell("far", experiment=replace(BASE, data="mnist"))])
    with pytest.raises(SecateurError, match=r"`threads` must be at least 1, got 0"):
        time_cells(CELLS, threads=0)


def test_costs_are_written_and_read_back_equal(tmp_path: Path) -> None:
    path = tmp_path / "table.cost.json"
    assert read_costs(path) == {}
    elsewhere = {name: replace(cost, machine="Slide rule", step=0.125) for name, cost in COSTS.items()}
    write_costs(path, {"Abacus": COSTS, "Slide rule": elsewhere, "Never used": {}})
    assert read_costs(path) == {"Abacus": COSTS, "Slide rule": elsewhere}


@pytest.mark.parametrize(
    ("damage", "why"),
    [
        (lambda text: text[: len(text) // 2], ""),
        (lambda text: "[]", "not a JSON object"),
        (lambda text: "{}", "its format is None"),
        (lambda text: text.replace("cost/3", "cost/9"), "its format is 'secateur.cost/9', not 'secateur.cost/3'"),
        (lambda text: text.replace('"dense": 0', '"thick": 0'), "KeyError: 'dense'"),
        (lambda text: text.replace('"evaluation": 0', '"opinion": 0'), "KeyError: 'evaluation'"),
        (lambda text: text.replace("0.00125", '"fast"'), "ValueError: could not convert string to float: 'fast'"),
        (lambda text: text.replace("0.00125", "0"), r"`step` must be a time above 0 seconds, got 0\.0"),
        (lambda text: text.replace("0.00125", "NaN"), "NaN is not a finite number"),
        (lambda text: text.replace('"threads": 1', '"threads": []'), "TypeError: int"),
        (lambda text: text.replace('"model"', '"modell"'), "has no field 'modell'"),
        (lambda text: '{"format": "secateur.cost/3", "machines": {"a": {"b": 3}}}', "TypeError"),
        (lambda text: '{"format": "secateur.cost/3", "machines": []}', "AttributeError"),
        (lambda text: '{"format": "secateur.cost/3"}', "KeyError: 'machines'"),
    ],
)
def test_damaged_and_foreign_files_are_named_and_left(damage: Callable[[str], str], why: str, tmp_path: Path) -> None:
    paper, artefact = paper_in(tmp_path, *CELLS)
    path = paper.costs(artefact)
    write_costs(path, {"Abacus": COSTS})
    path.write_text(damage(unsealed(path.read_text())))
    before = path.read_bytes()
    with pytest.raises(ArtefactError, match=rf"table\.cost\.json is damaged \(.*{why}.*\)\. Delete it and run again"):
        read_costs(path)
    with pytest.raises(ArtefactError, match=r"table\.cost\.json is damaged"):
        keep_costs(paper, artefact, COSTS)
    assert path.read_bytes() == before


def test_keep_replaces_only_what_was_timed_and_forgets_cells_that_are_gone(tmp_path: Path) -> None:
    paper, artefact = paper_in(tmp_path, *CELLS)
    gone = cell("gone")
    assert keep_costs(*paper_in(tmp_path, *CELLS[1:], gone), {gone.name: spent(gone), "5 % · dense": spent(CELLS[1])})
    fresh = {"5 % · dense": COSTS["5 % · dense"], "5 % · SNIP": COSTS["5 % · SNIP"]}
    assert keep_costs(paper, artefact, fresh) == fresh
    assert list(read_costs(paper.costs(artefact))["Abacus"]) == ["5 % · SNIP", "5 % · dense"]  # as in the table
    assert keep_costs(paper, artefact, {"1 % · SNIP": COSTS["1 % · SNIP"]}) == COSTS


def test_what_another_machine_took_stays_beside_it_and_both_stand_on_the_page(tmp_path: Path) -> None:
    paper, artefact = paper_in(tmp_path, *CELLS)
    keep_costs(paper, artefact, COSTS)
    other = {"5 % · SNIP": replace(COSTS["5 % · SNIP"], machine="Slide rule")}
    assert keep_costs(paper, artefact, other) == other
    assert read_costs(paper.costs(artefact)) == {"Abacus": COSTS, "Slide rule": other}
    page = write_page(paper, tmp_path / "docs").read_text()
    assert "on Abacus, 1 thread:" in page and "on Slide rule, 1 thread:" in page


def test_a_cost_of_another_experiment_is_none_of_the_cell_s() -> None:
    other = replace(CELLS[0], experiment=replace(BASE, recipe=replace(RECIPE, batch=51)))
    renamed = replace(CELLS[0], experiment=replace(BASE, recipe=replace(RECIPE, name="only a label")))
    assert current_costs([other, *CELLS[1:]], COSTS).keys() == {"5 % · dense", "1 % · SNIP"}
    assert current_costs([renamed], COSTS) == {"5 % · SNIP": COSTS["5 % · SNIP"]}


def test_layout_is_milliseconds_and_how_much_longer_dense_takes() -> None:
    assert cost_table(CELLS, COSTS) == (
        "Milliseconds per training step (and how many times longer dense takes, under torch, measured in turns), "
        "on Abacus, 1 thread:\n\n"
        "|  | SNIP | dense |\n"
        "| --- | --: | --: |\n"
        "| 5 % | 2 (2.5×) | 5 |\n"
        "| 1 % | 1.25 (4.0×) |  |"
    )
    assert cost_table(CELLS, {}) == ""
    only = {"1 % · SNIP": spent(CELLS[2], threads=2), "gone": spent(CELLS[0], machine="Another")}
    assert "on Abacus, 2 threads:\n\n|  | SNIP |\n" in cost_table(CELLS, only)


def test_many_columns_go_down_the_page() -> None:
    shown = cost_table(CELLS[:2], COSTS).splitlines()
    assert shown[2] == "|  | 5 % |" and shown[4:] == ["| SNIP | 2 (2.5×) |", "| dense | 5 |"]


def test_the_whole_counts_all_steps_and_evaluations_of_all_seeds() -> None:
    longer = replace(CELLS[2].experiment, recipe=replace(RECIPE, steps=100))
    cells = (*CELLS[:2], replace(CELLS[2], experiment=longer))
    costs = COSTS | {"1 % · SNIP": replace(COSTS["1 % · SNIP"], experiment=longer, evaluations=3)}
    # 20 steps at 2 ms, 20 at 5 ms and 100 at 1.25 ms, and seven evaluations of half a second, five times each; were
    # they dense, 140 at 5 ms and seven of three quarters.
    assert whole_costs(cells, costs, 5) == pytest.approx((5 * (0.265 + 3.5), 5 * (0.7 + 5.25)))
    assert whole_costs(cells, {"5 % · SNIP": COSTS["5 % · SNIP"]}, 5) is None
    assert whole_costs((), COSTS, 5) is None


def test_the_page_shows_costs_of_what_the_cells_run_now(tmp_path: Path) -> None:
    steps = 3_600_000
    cells = tuple(
        replace(one, experiment=replace(one.experiment, recipe=replace(RECIPE, steps=steps))) for one in CELLS
    )
    paper, artefact = paper_in(tmp_path, *cells, seeds=2)
    costs = {one.name: replace(COSTS[one.name], experiment=one.experiment) for one in cells}
    keep_costs(paper, artefact, costs)
    text = write_page(paper, tmp_path / "docs").read_text()
    assert f"\n\n{cost_table(cells, costs)}\n\n" in text
    # 3,600,000 steps at 2 + 1.25 ms, and at 10 ms, with two seeds, in hours; dense is no series but a single cell
    model = cells[0].experiment.model
    assert f"{model}, SNIP: 6.5, and 20 if each run took as long as the dense network's." in text
    assert "full length with 2 seeds" in text and f"{model}, dense:" not in text
    changed, _ = paper_in(tmp_path, CELLS[0], *cells[1:], seeds=2)
    text = write_page(changed, tmp_path / "docs").read_text()
    assert "| 5 % |  | 5 |" in text or "| 5 % | 5 |  |" in text
    assert "at full length" not in text  # a cell has not been timed

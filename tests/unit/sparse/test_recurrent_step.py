"""compile_step on recurrent classifiers: the weights of the eager masked loop, from one native call per step."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.optim import SGD, Adam, AdamW, Optimizer
from torch.optim.lr_scheduler import ExponentialLR

from secateur import Masks, SecateurError, hold
from secateur._base import door
from secateur.lab.experiment import Engine, Sgd
from secateur.lab.models import gru, lstm
from secateur.lab.running import choose
from secateur.sparse import UnsupportedError, compile_step, why_no_fused_step
from secateur.sparse.programs._recurrent import recurrent_program_of
from secateur.sparse.steps._recurrent import RecurrentStep
from secateur.sparse.steps._recurrent_compact import live_units

pytestmark = pytest.mark.skipif(door.native is None, reason="needs the compiled kernels")

Build = Callable[[], nn.Module]
OPTIMIZERS: dict[str, Callable[[Iterable[nn.Parameter]], Optimizer]] = {
    "momentum and decay": lambda p: SGD(p, lr=0.05, momentum=0.9, weight_decay=1e-2),
    "nesterov": lambda p: SGD(p, lr=0.05, momentum=0.9, weight_decay=1e-3, nesterov=True),
    "adam": lambda p: Adam(p, lr=3e-3),
    "adamw": lambda p: AdamW(p, lr=3e-3, weight_decay=0.1),
}


class Last(nn.Module):
    """A cell straight on the input, both biases trained, the last state by another name."""

    def __init__(self, kind: type[nn.LSTM] | type[nn.GRU], bias: bool = True) -> None:
        super().__init__()
        self.cell = kind(6, 11, batch_first=True, bias=bias)
        self.head = nn.Linear(11, 5, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        _, state = self.cell(x.permute(0, 2, 1, 3).flatten(2))
        return self.head((state[0] if isinstance(self.cell, nn.LSTM) else state)[-1])


def seeded(make: Build) -> nn.Module:
    torch.manual_seed(1)
    model = make()
    for parameter in model.parameters():
        nn.init.uniform_(parameter, -0.5, 0.5)
    return model


BUILDS: dict[str, Build] = {
    "lstm": lambda: seeded(lambda: lstm((1, 5, 6), 5, units=19)),
    "gru": lambda: seeded(lambda: gru((1, 5, 6), 5, units=19)),
    "plain lstm": lambda: seeded(lambda: Last(nn.LSTM)),
    "plain gru": lambda: seeded(lambda: Last(nn.GRU)),
    "lstm without biases": lambda: seeded(lambda: Last(nn.LSTM, bias=False)),
}


def masks_of(model: nn.Module, density: float = 0.12, *, biases: bool = False) -> Masks:
    generator = torch.Generator().manual_seed(2)
    named = {n: p for n, p in model.named_parameters() if p.dim() == 2 or biases}
    return Masks({n: torch.rand(p.shape, generator=generator) < density for n, p in named.items()})


def batches(count: int, sizes: tuple[int, ...] = (33, 90, 1, 16)) -> list[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(5)
    drawn = [sizes[i % len(sizes)] for i in range(count)]
    return [
        (torch.randn(n, 1, 5, 6, generator=generator), torch.randint(0, 5, (n,), generator=generator)) for n in drawn
    ]


def eager_step(model: nn.Module, optimizer: Optimizer, x: Tensor, y: Tensor) -> float:
    optimizer.zero_grad()
    loss = cross_entropy(model(x), y)
    loss.backward()
    optimizer.step()
    return loss.item()


def assert_same(one: nn.Module, other: nn.Module, tolerance: float = 1e-4) -> None:
    for (name, p), q in zip(one.named_parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=tolerance, atol=tolerance, msg=lambda text, n=name: f"{n}: {text}")


def compare(build: Build, masks: Masks, optimizer: str, steps: int, *, threads: int = 1) -> None:
    model, eager = build(), build()
    ours, reference = OPTIMIZERS[optimizer](model.parameters()), OPTIMIZERS[optimizer](eager.parameters())
    schedules = [ExponentialLR(ours, 0.99), ExponentialLR(reference, 0.99)]
    hold(eager, masks)
    torch.set_num_threads(threads)
    try:
        step = compile_step(model, masks, cross_entropy, ours)
        assert isinstance(step, RecurrentStep)
        for x, y in batches(steps):
            assert step(x, y) == pytest.approx(eager_step(eager, reference, x, y), rel=1e-3, abs=1e-4)
            for schedule in schedules:
                schedule.step()
        with torch.no_grad():
            torch.testing.assert_close(step.predict(x), eager(x), rtol=1e-3, atol=1e-4)
        step.write_back()
    finally:
        torch.set_num_threads(1)
    assert_same(model, eager)
    mine, theirs = ours.state_dict()["state"], reference.state_dict()["state"]
    for key, slots in theirs.items():
        for slot, value in slots.items():
            torch.testing.assert_close(mine[key][slot], value, rtol=1e-3, atol=1e-4)
    for key in masks:
        assert not model.get_parameter(key)[~masks[key]].any()


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("name", ["lstm", "gru"])
def test_hundred_steps_give_the_weights_of_the_eager_masked_loop(name: str, optimizer: str) -> None:
    compare(BUILDS[name], masks_of(BUILDS[name]()), optimizer, 100)


@pytest.mark.parametrize("name", BUILDS)
@pytest.mark.parametrize("density", [0.0, 0.05, 1.0])
def test_any_density_and_several_threads(name: str, density: float) -> None:
    compare(BUILDS[name], masks_of(BUILDS[name](), density), "momentum and decay", 8, threads=3)


@pytest.mark.parametrize("name", ["lstm", "plain gru"])
@pytest.mark.parametrize("density", [0.0, 0.4])
def test_biases_may_be_masked_in_part_or_whole(name: str, density: float) -> None:
    compare(BUILDS[name], masks_of(BUILDS[name](), density, biases=True), "adam", 10)


@pytest.mark.parametrize("isa", [] if door.native is None else door.native.supported_isas())
def test_every_instruction_set(isa: str) -> None:
    native = door.native
    assert native is not None
    before = native.isa()
    native.use_isa(isa)
    try:
        for name in ("lstm", "gru"):
            compare(BUILDS[name], masks_of(BUILDS[name](), 0.3), "adamw", 8)
    finally:
        native.use_isa(before)


def test_a_checkpoint_in_the_middle_goes_on_as_if_nothing_had_been() -> None:
    whole, masks = BUILDS["gru"](), masks_of(BUILDS["gru"]())
    optimizer = Adam(whole.parameters(), lr=3e-3)
    step = compile_step(whole, masks, cross_entropy, optimizer)
    for x, y in batches(12):
        step(x, y)
    step.write_back()
    first, again = BUILDS["gru"](), BUILDS["gru"]()
    before = Adam(first.parameters(), lr=3e-3)
    step = compile_step(first, masks, cross_entropy, before)
    for x, y in batches(12)[:6]:
        step(x, y)
    step.write_back()
    again.load_state_dict(copy.deepcopy(first.state_dict()))
    after = Adam(again.parameters(), lr=3e-3)
    after.load_state_dict(copy.deepcopy(before.state_dict()))
    step = compile_step(again, masks, cross_entropy, after)
    assert step.steps == 6
    for x, y in batches(12)[6:]:
        step(x, y)
    step.write_back()
    assert_same(again, whole, tolerance=0.0)


def test_several_runs_on_threads_do_not_disturb_one_another() -> None:
    def train(model: nn.Module) -> nn.Module:
        step = compile_step(model, masks_of(model), cross_entropy, SGD(model.parameters(), lr=0.1, momentum=0.9))
        for x, y in batches(12):
            step(x, y)
        step.write_back()
        return model

    names = ("lstm", "gru", "plain gru")
    with ThreadPoolExecutor(3) as pool:
        together = list(pool.map(train, [BUILDS[name]() for name in names]))
    for name, model in zip(names, together, strict=True):
        assert_same(model, train(BUILDS[name]()), tolerance=0.0)


def test_idle_units_are_found_through_the_recurrence() -> None:
    feeds = torch.zeros(3 * 4, 4, dtype=torch.bool)
    feeds[0, 1] = feeds[4 + 1, 2] = True  # 2 → 1 → 0
    feeds[8 + 3, 3] = True  # 3 feeds itself only
    head = torch.tensor([[True, False, False, False]])
    assert live_units(feeds, head).tolist() == [True, True, True, False]
    assert live_units(feeds, torch.zeros(1, 4, dtype=torch.bool)).tolist() == [True, False, False, False]


def test_changed_weights_are_noticed_and_can_be_taken_up() -> None:
    model = BUILDS["lstm"]()
    step = compile_step(model, masks_of(model), cross_entropy, SGD(model.parameters(), lr=0.1))
    x, y = batches(1)[0]
    with torch.no_grad():
        model.get_buffer("cell.bias_hh_l0").fill_(0.25)
    with pytest.raises(SecateurError, match=r"changed outside the fused step; call read_back\(\)"):
        step(x, y)
    step.read_back()
    with torch.no_grad():
        torch.testing.assert_close(step.predict(x), model(x), rtol=1e-5, atol=1e-6)


def test_inputs_of_the_wrong_kind_are_refused() -> None:
    model = BUILDS["lstm"]()
    step = compile_step(model, masks_of(model), cross_entropy, SGD(model.parameters(), lr=0.1))
    x, y = batches(1)[0]
    assert step(x[:, 0], y) == pytest.approx(step(x.expand(-1, 1, -1, -1), y), rel=0.2)  # sequences are taken too
    for bad in (x[..., :5], x[:0], x[0, 0], x[:, :, :0]):
        with pytest.raises(SecateurError, match=r"the inputs must be \[batch, step, 6\] or images whose rows have 6"):
            step(bad, y)
    with pytest.raises(SecateurError, match="must be float32 on cpu, got float64"):
        step(x.double(), y)
    with pytest.raises(SecateurError, match="`targets` must be 33 class numbers"):
        step(x, y[:3])
    with pytest.raises(ValueError, match=r"`targets` must be class numbers in \[0, 5\), got 7 at index 0"):
        step(x, y + 7 - y[0])


class Twisted(nn.Module):
    """A projection, a cell and a head, put together as given."""

    def __init__(self, how: Callable[[Twisted, Tensor], Tensor], cell: nn.Module) -> None:
        super().__init__()
        self.project, self.cell, self.head, self.how = nn.Linear(6, 6), cell, nn.Linear(6, 6), how

    def forward(self, x: Tensor) -> Tensor:
        return self.how(self, x)


@pytest.mark.parametrize(
    ("how", "cell", "says"),
    [
        (lambda m, x: m.head(m.cell(m.project(x))[0][:, 0]), {}, "'getitem' of the outputs is not known"),
        (lambda m, x: m.head(m.cell(m.project(x))[1][1][-1]), {}, "'getitem' of the final cell states is not known"),
        (lambda m, x: m.head(m.cell(m.project(x).relu())[0][:, -1]), {}, "'relu' of the sequence is not known"),
        (lambda m, x: m.head(m.project(m.cell(x)[0][:, -1])), {}, "'head' is a Linear of the scores"),
        (lambda m, x: m.cell(m.project(x))[0][:, -1], {}, "must return its last linear layer's output"),
        (lambda m, x: m.head(m.cell(m.project(x))[0][:, -1]), {"batch_first": False}, "'cell' has batch_first=False"),
        (lambda m, x: m.head(m.cell(m.project(x))[0][:, -1]), {"num_layers": 2}, "has several layers"),
        (lambda m, x: m.head(m.cell(m.cell(x)[0])[0][:, -1]), {}, "LSTM of the outputs, which is not known"),
        (lambda m, x: m.head(m.cell(m.project(x), None)[0][:, -1]), {}, "'cell' is called with more than one argument"),
        (lambda m, x: m.head(m.cell(m.project(x[x.mean() > 0]))[0][:, -1]), {}, "'mean' of the sequence is not known"),
    ],
)
def test_other_models_are_refused_with_the_reason(
    how: Callable[[Twisted, Tensor], Tensor], cell: dict[str, int], says: str
) -> None:
    model = Twisted(how, nn.LSTM(6, 6, **({"batch_first": True} | cell)))  # type: ignore[arg-type]
    masks = Masks({"cell.weight_hh_l0": torch.eye(24, 6) > 0})
    reason = why_no_fused_step(model, masks, cross_entropy, SGD(model.parameters(), lr=0.1))
    assert reason is not None and says in reason


def test_other_losses_unused_layers_and_hooks_are_refused() -> None:
    model = BUILDS["lstm"]()
    masks, optimizer = masks_of(model), SGD(model.parameters(), lr=0.1)
    assert why_no_fused_step(model, masks, cross_entropy, optimizer) is None
    assert "`loss` must be cross_entropy" in str(why_no_fused_step(model, masks, nn.MSELoss(), optimizer))
    model.extra = nn.Linear(2, 2)
    reason = why_no_fused_step(model, masks, cross_entropy, SGD(model.parameters(), lr=0.1))
    assert reason == "the parameter 'extra.weight' is not part of the classifier that was traced"
    del model.extra
    model.cell.register_forward_hook(lambda *_: None)  # type: ignore[union-attr]
    with pytest.raises(UnsupportedError, match="'cell' has a hook"):
        recurrent_program_of(model)


def test_the_lab_takes_it() -> None:
    model = BUILDS["gru"]()
    choice = choose(Engine.AUTO, model, masks_of(model, 0.05), Sgd())
    assert (choice.engine, choice.why) == (Engine.SPARSE, "it computes this step")

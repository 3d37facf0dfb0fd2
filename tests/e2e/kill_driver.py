"""A process of its own that runs an experiment again and again and kills it, with SIGKILL, at chosen moments.

It imports everything once and forks a child per attempt, so that an attempt costs what the experiment costs. It trains
nothing itself (autograd does not survive a fork). Called by test_kill.py; prints one JSON object.
"""

from __future__ import annotations

import json
import os
import random
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
import torch._dynamo  # torch.optim imports it at the first step: seconds, here paid once and not in every child

from secateur.lab import data
from secateur.lab.experiment import Engine, Experiment, Ramp, Recipe
from secateur.lab.repeat import _store
from secateur.lab.running import run

DATASET = data.load("digits", seed=0)


def experiment(steps: int) -> Experiment:
    recipe = Recipe(steps=steps, rate=Ramp(peak=0.1, steps=steps, warmup=5), batch=50, evaluate_every=5)
    # torch: the seconds between two kills are then worth something; the sparse engine would be done before the first
    return Experiment("lenet-300-100", "digits", "snip", 0.05, recipe, engine=Engine.TORCH)


def attempt(root: Path, steps: int, *, save_every: float, prepare: Callable[[], None] = lambda: None) -> int:
    """Start a child that runs the experiment; return its process id."""
    child = os.fork()
    if child:
        return child
    status = 1
    try:
        prepare()
        run(experiment(steps), root=root, dataset=DATASET, save_every=save_every)
        status = 0
    finally:
        os._exit(status)


def wait(child: int) -> str:
    _, status = os.waitpid(child, 0)
    return "killed" if os.WIFSIGNALED(status) else f"exit {os.waitstatus_to_exitcode(status)}"


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def kill_at_rename(count: int, *, after: bool) -> Callable[[], None]:
    """Kill just before or just after the `count`-th file takes its place."""

    def prepare() -> None:
        replace, calls = os.replace, iter(range(1, 1_000_000))

        def counted(source: Path, target: Path) -> None:
            last = next(calls) == count
            if last and not after:
                die()
            replace(source, target)
            if last:
                die()

        os.replace = counted  # type: ignore[assignment]

    return prepare


def kill_in_write(count: int) -> Callable[[], None]:
    """Kill when half of the bytes of the `count`-th file that the lab writes are on disk."""

    def prepare() -> None:
        write, calls = _store.write_bytes, iter(range(1, 1_000_000))

        def counted(path: Path, content: bytes) -> None:
            if next(calls) == count:
                with open(path.with_name(f".{path.name}.{os.getpid()}.tmp"), "wb") as file:
                    file.write(content[: len(content) // 2])
                    file.flush()
                    die()
            write(path, content)

        _store.write_bytes = counted

    return prepare


def outcome(root: Path, steps: int) -> dict[str, object]:
    directory = root / experiment(steps).name
    result = _store.read_json(directory / "result.json")
    timeless = {key: value for key, value in result.items() if key not in {"seconds", "machine"}}
    weights = (directory / "weights.safetensors").read_bytes().hex()
    return {"weights": weights, "result": timeless, "files": sorted(path.name for path in directory.iterdir())}


def chosen_points(root: Path) -> dict[str, object]:
    """Kill at the head, in the middle and at the tail of a run that saves at every step, then let it finish."""
    steps = 12
    wait(attempt(root / "whole", steps, save_every=0.0))
    reference, differing, survived = outcome(root / "whole", steps), [], []
    # experiment, prune, masks, then a checkpoint per step but the last, then weights and result
    points = [1, 2, 3, 4, 5, 9, *range(steps + 1, steps + 5)]
    plans = [(f"rename {n}, after={late}", kill_at_rename(n, after=late)) for n in points for late in (False, True)]
    plans += [(f"write {n}", kill_in_write(n)) for n in (1, 2, 3, 8, steps + 2, steps + 3)]
    for index, (name, prepare) in enumerate(plans):
        place = root / f"cut{index}"
        if wait(attempt(place, steps, save_every=0.0, prepare=prepare)) != "killed":
            survived.append(name)
        end = wait(attempt(place, steps, save_every=0.0))
        if end != "exit 0" or outcome(place, steps) != reference:
            differing.append(f"{name}: {end}")
    return {"plans": len(plans), "survived": survived, "differing": differing, "files": reference["files"]}


def random_times(root: Path) -> dict[str, object]:
    """Kill at random moments, again and again, until the run gets through."""
    steps, chance, kills = 400, random.Random(0), 0
    start = time.perf_counter()
    wait(attempt(root / "whole", steps, save_every=1e9))
    length = time.perf_counter() - start
    for _ in range(200):
        child = attempt(root / "cut", steps, save_every=length / 50)
        time.sleep(chance.uniform(0.05, 0.35) * length)
        os.kill(child, signal.SIGKILL)  # a child that has just ended is a zombie until waited for: its id is ours
        if wait(child) != "killed":
            break
        kills += 1
    return {"kills": kills, "same": outcome(root / "cut", steps) == outcome(root / "whole", steps)}


if __name__ == "__main__":
    torch.set_num_threads(1)
    place = Path(sys.argv[1])
    print(json.dumps({plan.__name__: plan(place / plan.__name__) for plan in (chosen_points, random_times)}))

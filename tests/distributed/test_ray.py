"""A grid on a Ray cluster of two nodes: the bits of a local run, also when workers are killed and a node goes away."""

from __future__ import annotations

import json
import os
import signal
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from scheduling import started_once
from secateur._base.errors import SecateurError
from secateur.cli import main
from secateur.lab.cluster import on_ray, pack
from secateur.lab.comparing import Comparison, compare, grid
from secateur.lab.experiment import Constant, Engine, Experiment, Recipe
from secateur.lab.repeat import read_json, read_tensors
from secateur.lab.running import Progress

ray = pytest.importorskip("ray", reason="the cluster is Ray's (extra `ray`)")

pytestmark = [
    pytest.mark.distributed,
    pytest.mark.timeout(300),  # beside other work, starting a cluster alone can take a minute
]

# Eager torch, saved a hundred times a second: slow enough, against a look every 0.2 s, to be hit in the middle.
BASE = Experiment("lenet-300-100", "digits", "snip", 0.05, Recipe(1600, Constant(0.05), batch=50), engine=Engine.TORCH)
SHORT = replace(BASE, recipe=Recipe(10, Constant(0.05), batch=50))
LONG = grid(BASE, ["snip", "dense"], [0])

Sent = dict[str, list[int]]
Hit = Callable[[Experiment], bool]  # whether it did anything

QUIET = {"include_dashboard": False, "include_log_monitor": False}
# A node on a busy machine is slow, not dead; that it is gone shows at once, by its connections. And workers share a
# busy machine with the test as equals: at Ray's niceness of 15 they hardly get to run beside other tests.
PATIENT = {"health_check_timeout_ms": 60_000, "health_check_failure_threshold": 60, "worker_niceness": 0}


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A head, which is the driver's node, and another node, each with room for one run at a time."""
    started_once("cluster", tmp_path_factory)
    from ray.cluster_utils import Cluster

    # Not below pytest's own folder: the paths of Ray's sockets would get too long.
    with pytest.MonkeyPatch.context() as patch, tempfile.TemporaryDirectory(prefix="ray-") as folder:
        patch.setenv("RAY_TMPDIR", folder)
        patch.setenv("TMPDIR", folder)  # what killed workers leave
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        patch.delenv("RAY_ADDRESS", raising=False)
        handler = signal.getsignal(signal.SIGTERM)
        started = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "_system_config": PATIENT, **QUIET})
        started.add_node(num_cpus=1)
        ray.init(address=started.address, log_to_driver=False, logging_level="ERROR")
        try:
            yield started
        finally:
            ray.shutdown()
            started.shutdown()
            signal.signal(signal.SIGTERM, handler)


@pytest.fixture(scope="module")
def local(tmp_path_factory: pytest.TempPathFactory) -> Comparison:
    """The same runs in this process, uninterrupted."""
    return compare(LONG, root=tmp_path_factory.mktemp("local"), threads=1)


def remembered(path: Path) -> dict[str, object]:
    """Everything that a run left behind but the time it took and the machine."""
    result = read_json(path / "result.json")
    masks = path / "masks.safetensors"
    return {
        "facts": {key: value for key, value in result.items() if key not in {"seconds", "machine"}},
        "names": sorted(file.name for file in path.iterdir()),
        "weights": (path / "weights.safetensors").read_bytes(),
        "masks": masks.read_bytes() if masks.exists() else None,
    }


def assert_same(found: Comparison, expected: Comparison) -> None:
    assert not found.failures
    assert len(found.rows) == len(expected.rows)
    for ours, theirs in zip(found.rows, expected.rows, strict=True):
        for one, other in zip(ours.results, theirs.results, strict=True):
            assert remembered(one.directory) == remembered(other.directory)


def worker_of(experiment: Experiment) -> int | None:
    """The process that runs an experiment: Ray gives it the task's name."""
    for entry in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):  # gone
            if (entry / "cmdline").read_bytes().startswith(f"ray::{experiment.name}".encode()):
                return int(entry.name)
    return None


def parent_of(process: int) -> int:
    return int(Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[1])


def step_at_home(directory: Path) -> int:
    """How far the checkpoint has come that a retry would start from; 0 where there is none."""
    path = directory / "checkpoint.safetensors"
    return read_tensors(path)[1]["trail"]["step"] if path.exists() else 0


@pytest.fixture
def sent(monkeypatch: pytest.MonkeyPatch) -> Sent:
    """The steps from which each run, by name, was sent out to go on."""
    steps: dict[str, list[int]] = {}

    def spy(directory: Path) -> dict[str, bytes]:
        steps.setdefault(directory.name, []).append(step_at_home(directory))
        return pack(directory)

    monkeypatch.setattr("secateur.lab.cluster._cluster.pack", spy)
    return steps


class Watch:
    """Does something to a run, once, when it is well past its start; collects the news after that."""

    def __init__(self, root: Path, do: Hit) -> None:
        self.root, self.do = root, do
        self.news: list[Progress] = []
        self.hit: Experiment | None = None
        self.step = 0  # that was at home then

    def __call__(self, news: Progress) -> None:
        if self.hit is not None:
            self.news.append(news)
        elif news.stage == "train":
            step = step_at_home(self.root / news.experiment.name)
            if step >= 20 and self.do(news.experiment):
                self.hit, self.step = news.experiment, step

    def assert_went_on(self) -> None:
        """The run told of no step that had been made before."""
        news = [one for one in self.news if one.experiment == self.hit]
        steps = [one.step for one in news if one.stage == "train"]
        assert self.hit is not None and steps and min(steps) > self.step
        assert news[-1].stage == "done"


def hit_in_time(experiments: list[Experiment], root: Path, sent: Sent, do: Hit) -> tuple[Comparison, Watch]:
    """Run a grid and hit one of its runs; anew where a busy driver saw to it only after the run's last files left."""
    for attempt in range(5):
        sent.clear()
        watch = Watch(root / str(attempt), do)
        found = compare(experiments, root=watch.root, save_every=0.01, runner=on_ray(), on_progress=watch)
        if watch.hit is not None and len(sent[watch.hit.name]) > 1:
            return found, watch
    pytest.fail("no run was hit before it was over")


def assert_sent_on(sent: Sent, watch: Watch) -> None:
    """The run that was hit was sent out again, with the checkpoint that had come home by then or a later one."""
    watch.assert_went_on()
    assert watch.hit is not None
    assert sent[watch.hit.name][0] == 0 and min(sent[watch.hit.name][1:]) >= watch.step >= 20


def test_the_same_bits_as_local_and_no_run_twice(cluster: Any, local: Comparison, tmp_path: Path) -> None:
    assert_same(compare(LONG, root=tmp_path, runner=on_ray()), local)
    news: list[Progress] = []
    nowhere = on_ray(address="127.0.0.1:1")  # nobody is asked
    assert_same(compare(LONG, root=tmp_path, runner=nowhere, on_progress=news.append), local)
    assert [one.stage for one in news] == ["done", "done"]


def test_errors_are_those_of_local_runs(cluster: Any, tmp_path: Path) -> None:
    wild = replace(SHORT, recipe=Recipe(10, Constant(1e30), batch=50))
    unknown = replace(SHORT, method="snap")
    remote = compare([wild, unknown, SHORT], root=tmp_path / "remote", runner=on_ray())
    here = compare([wild, unknown], root=tmp_path / "here", threads=1)
    assert remote.failures == here.failures and len(here.failures) == 2
    assert [row.experiment for row in remote.rows] == [SHORT]
    path = tmp_path / "remote" / BASE.name / "experiment.json"
    path.parent.mkdir()
    path.write_text("{")
    (text,) = compare([BASE], root=tmp_path / "remote", runner=on_ray()).failures.values()
    assert text.startswith(f"{path} is damaged")  # the copy at home, which is the one to delete


def test_a_node_in_trouble_is_not_the_end_but_a_fault_of_the_code_is(cluster: Any, tmp_path: Path) -> None:
    mnist = replace(SHORT, data="mnist")
    troubled = compare([mnist], root=tmp_path, data_dir=tmp_path / ("n" * 300), runner=on_ray(attempts=2))
    assert "it was cut off 2 times" in troubled.failures[mnist]
    assert "the last time by OSError: [Errno" in troubled.failures[mnist]
    with pytest.raises(RuntimeError, match="xla"):  # as locally
        compare([SHORT], root=tmp_path, device="xla", runner=on_ray())


def test_from_the_command_line(cluster: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["run", "--steps", "6", "--compare", "snip,dense", "--json", "--on", "ray", "--runs", str(tmp_path)]
    assert main(words) == 0
    (snip, dense) = json.loads(capsys.readouterr().out)["rows"]
    assert (snip["method"], dense["method"]) == ("snip", "dense")
    assert len(list(tmp_path.glob("*/result.json"))) == 2


def test_what_no_node_can_do_is_refused(cluster: Any, tmp_path: Path) -> None:
    with pytest.raises(SecateurError, match="no node of the cluster has 9 CPU for a run; the largest has 1 CPU"):
        compare([SHORT], root=tmp_path, runner=on_ray(threads=9))
    with pytest.raises(SecateurError, match=r"`device` must have no number on a cluster, .* got 'cuda:1'"):
        compare([SHORT], root=tmp_path, device="cuda:1", runner=on_ray())
    with pytest.raises(SecateurError, match="`threads` must be at least 1, got 0"):
        on_ray(threads=0)
    with pytest.raises(SecateurError, match="`address` must be host:port of the cluster's head, got 'ray://"):
        compare([SHORT], root=tmp_path, runner=on_ray(address="ray://head:10001"))
    with pytest.raises(SecateurError, match=r"no Ray cluster answers at `address` '127.0.0.1:1'"):
        compare([SHORT], root=tmp_path, runner=on_ray(address="127.0.0.1:1"))
    assert not list(tmp_path.iterdir())


def test_a_run_that_always_dies_is_a_failure_of_its_own(cluster: Any, tmp_path: Path) -> None:
    over, kills = threading.Event(), []

    def kill_again_and_again() -> None:
        while not over.wait(0.02):
            worker = worker_of(BASE)
            if worker is not None and worker not in kills:
                kills.append(worker)
                os.kill(worker, signal.SIGKILL)

    killer = threading.Thread(target=kill_again_and_again)
    killer.start()
    try:
        comparison = compare([BASE, SHORT], root=tmp_path, runner=on_ray(attempts=2))
    finally:
        over.set()
        killer.join()
    assert len(kills) >= 2  # more where a child on its way to another program still had its name
    assert list(comparison.failures) == [BASE]
    text = comparison.failures[BASE]
    assert text.startswith("it was cut off 2 times without getting further than step 0, the last that came home")
    assert "its worker was killed, ran out of memory, or went away with its node" in text
    assert [row.experiment for row in comparison.rows] == [SHORT]


def test_a_killed_worker_loses_nothing(cluster: Any, local: Comparison, sent: Sent, tmp_path: Path) -> None:
    def kill(running: Experiment) -> bool:
        worker = worker_of(running)
        if worker is None:
            return False
        os.kill(worker, signal.SIGKILL)
        return True

    alone, watch = hit_in_time([BASE], tmp_path, sent, kill)
    assert_same(alone, Comparison(local.rows[:1], {}))
    assert_sent_on(sent, watch)


def test_a_lost_node_loses_nothing(cluster: Any, local: Comparison, sent: Sent, tmp_path: Path) -> None:
    def remove(running: Experiment) -> bool:
        if not cluster.worker_nodes:
            cluster.add_node(num_cpus=1)
            return False
        (node,) = cluster.worker_nodes
        (raylet,) = node.all_processes["raylet"]
        worker = worker_of(running)
        if worker is None or parent_of(worker) != raylet.process.pid:
            return False
        cluster.remove_node(node, allow_graceful=False)  # for good: the tests after this one get on with the other
        return True

    both, watch = hit_in_time(LONG, tmp_path, sent, remove)
    assert_same(both, local)
    assert_sent_on(sent, watch)


def test_an_interrupted_grid_goes_on_here(cluster: Any, local: Comparison, tmp_path: Path) -> None:
    interrupted: list[Experiment] = []

    def interrupt(news: Progress) -> None:
        if step_at_home(tmp_path / news.experiment.name) >= 20:
            interrupted.append(news.experiment)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        compare(LONG, root=tmp_path, save_every=0.01, runner=on_ray(), on_progress=interrupt)
    step = step_at_home(tmp_path / interrupted[0].name)
    news: list[Progress] = []
    assert_same(compare(LONG, root=tmp_path, threads=1, on_progress=news.append), local)
    trained = [one.step for one in news if one.experiment == interrupted[0] and one.stage == "train"]
    assert 20 <= step < trained[0] <= step + 8  # every eighth step of this recipe is told

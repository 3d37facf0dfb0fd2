"""Experiments on a Ray cluster: runs go out, their files come home at every checkpoint, lost runs go on elsewhere.

Nodes share no file system. A run works in a scratch directory of its node, and each file that it writes is sent to the
driver, which writes it under its own root as a local run would. Only the driver's root counts: it is what a run goes
on from when its worker or its node is lost, and what any later run, local or not, finds.
"""

from __future__ import annotations

import os
import signal
import socket
import threading
import warnings
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, replace
from typing import Any

import torch

from secateur._base.errors import SecateurError
from secateur.lab.cluster._courier import Job, Parcel, pack, unpack, work
from secateur.lab.comparing import Outcomes, Places, Runner, at_least_one, run_at
from secateur.lab.experiment import Experiment, check, pretraining
from secateur.lab.repeat import locked, read_tensors
from secateur.lab.running import CHECKPOINT, RESULT, OnProgress, Result

# Runs sent and not finished: enough to show an autoscaler what there is to do; each holds a lock, an open file.
_IN_FLIGHT = 200


def on_ray(*, address: str | None = None, threads: int = 1, attempts: int = 3) -> Runner:
    """Run on a Ray cluster: as many runs at once as it has processors for.

    A process that is already connected to Ray stays so; otherwise the connection lasts as long as the runs. On
    "cuda" each run gets a GPU of its own. Every node needs this version of Secateur, and the data sets where
    `data_dir` or $SECATEUR_DATA say, or in its cache. Results are those of a local run with so many threads on a
    machine of the same kind, bit for bit.

    Args:
        address: `host:port` of a running cluster's head; None means $RAY_ADDRESS, a cluster that runs on this
            machine, or else a new one of this machine that ends with the runs and listens to this machine only.
        threads: torch threads of a run, and processors that it reserves.
        attempts: how often a run may lose its worker without having got further before it counts as failed.

    Raises:
        SecateurError: Ray is not installed, or a number is below 1; later, when the runs start: `address` is a
            client's (`ray://`), nobody answers there, or no node of the cluster is large enough.
    """
    at_least_one("threads", threads)
    at_least_one("attempts", attempts)
    ray = _ray()

    def runner(experiments: Sequence[Experiment], places: Places, on_progress: OnProgress | None) -> Outcomes:
        needs = {"CPU": threads} | _gpu(places.device)
        if places.data_dir is not None:  # a worker has another working directory
            places = replace(places, data_dir=places.data_dir.absolute())
        wanted = dict.fromkeys(experiments)
        finished = [one for one in wanted if (places.root / one.name / RESULT).exists()]
        yield from ((one, _result(one, places, on_progress)) for one in finished)
        left = [one for one in wanted if one not in finished]
        if left:  # a cluster is not started, or waited for, to read files
            with _connected(ray, address):
                _check_room(ray.nodes(), needs)
                yield from _drive(_Cluster(ray, needs, attempts), left, places, on_progress)

    return runner


def _ray() -> Any:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of Ray's own imports: nothing that a user could act on
            import ray
    except ModuleNotFoundError:
        raise SecateurError("running on a cluster needs Ray: pip install '.[ray]' in a clone of Secateur") from None
    return ray


def _gpu(device: str) -> dict[str, int]:
    try:
        wanted = torch.device(device)
    except RuntimeError as problem:
        raise SecateurError(f"`device` is not known to torch: {str(problem).splitlines()[0]}") from None
    if wanted.index is not None:
        raise SecateurError(f"`device` must have no number on a cluster, where Ray assigns GPUs, got {device!r}.")
    return {"GPU": 1} if wanted.type == "cuda" else {}


@contextmanager
def _connected(ray: Any, address: str | None) -> Iterator[None]:
    if address is None and ray.is_initialized():
        yield
        return
    in_main = threading.current_thread() is threading.main_thread()
    on_terminate = signal.getsignal(signal.SIGTERM)
    target = address or os.environ.get("RAY_ADDRESS")
    try:
        _reach(target)
        with _alone(ray) if _finds_none(target) else nullcontext():
            ray.init(address=target, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    except (OSError, ValueError) as problem:  # Ray's ConnectionError is an OSError
        why = str(problem).splitlines()[0]
        raise SecateurError(
            f"no Ray cluster answers at `address` {target!r} ({why}). Start one with `ray start --head`, or leave "
            "the address out to use this machine."
        ) from None
    try:
        yield
    finally:
        ray.shutdown()
        if in_main:
            signal.signal(signal.SIGTERM, on_terminate)  # ray.init has put its own there


def _finds_none(address: str | None) -> bool:
    """Whether Ray will begin a cluster of this machine: no address is given, and none runs here."""
    if address is not None:
        return False
    try:
        from ray._private.services import canonicalize_bootstrap_address
    except ImportError:  # another version of Ray keeps it elsewhere
        return False
    found: Any = canonicalize_bootstrap_address  # its annotation knows no None
    return found(None) is None


@contextmanager
def _alone(ray: Any) -> Iterator[None]:
    """Let a cluster of this machine listen to this machine only, while it begins.

    Otherwise Ray's processes listen on all interfaces, and who reaches them may run what they like. Ray has a switch
    for it, meant for other systems than Linux; each of its processes reads it as it starts, and this one has read it
    already. The token that recent versions of Ray ask for comes on top.
    """
    constants = ray._private.ray_constants
    switch, before = constants.ENABLE_RAY_CLUSTERS_ENV_VAR, constants.ENABLE_RAY_CLUSTER
    given = os.environ.get(switch)
    os.environ[switch], constants.ENABLE_RAY_CLUSTER = "0", False
    try:
        yield
    finally:
        constants.ENABLE_RAY_CLUSTER = before
        os.environ.pop(switch)
        if given is not None:
            os.environ[switch] = given


def _reach(address: str | None) -> None:
    """Refuse an address that Ray would try for minutes."""
    if address is not None and "://" in address:
        raise SecateurError(
            f"`address` must be host:port of the cluster's head, got {address!r}: files cannot come home through a "
            "Ray client. Start this on a machine of the cluster."
        )
    host, _, port = (address or "").rpartition(":")
    if port.isdigit():
        socket.create_connection((host, int(port)), timeout=10).close()


def _check_room(nodes: Sequence[Mapping[str, Any]], needs: Mapping[str, int]) -> None:
    """Refuse what no node could ever run: Ray would wait for such a node for good."""
    alive = [node["Resources"] for node in nodes if node["Alive"]]
    if not any(all(node.get(kind, 0) >= count for kind, count in needs.items()) for node in alive):
        wanted = " and ".join(f"{count} {kind}" for kind, count in needs.items())
        largest = max((int(node.get("CPU", 0)) for node in alive), default=0)
        raise SecateurError(
            f"no node of the cluster has {wanted} for a run; the largest has {largest} CPU. "
            "Ask for fewer threads, or add such a node first."
        )


@dataclass(frozen=True)
class _Cluster:
    """The connected Ray, what a run reserves, and how often it may be lost."""

    ray: Any
    needs: Mapping[str, int]
    attempts: int

    def send(self, experiment: Experiment, places: Places) -> Any:
        """Begin a run, or go on with it from what is at home; return the stream of its parcels."""
        twin = pretraining(experiment)
        before = {} if twin is None else pack(places.root / twin.name)
        files = pack(places.root / experiment.name)
        job = Job(experiment, places, self.needs["CPU"], files, before=before if RESULT in before else {})
        remote = self.ray.remote(
            num_cpus=self.needs["CPU"],
            num_gpus=self.needs.get("GPU", 0),
            num_returns="streaming",
            max_retries=0,  # Ray would begin again with the files of the first time
            _generator_backpressure_num_objects=2,  # of several checkpoints only the newest is of use
        )(lambda job: (yield from work(job)))  # Ray wants to see a `yield`, also where a decorator hides it
        return remote.options(name=experiment.name).remote(job)


@dataclass(eq=False)
class _Flight:
    """A run that has been sent: its stream of parcels, the lock on its directory, what has been lost."""

    experiment: Experiment
    stream: Any
    lock: ExitStack
    furthest: int = 0
    lost: int = 0


def _drive(
    cluster: _Cluster, experiments: Sequence[Experiment], places: Places, on_progress: OnProgress | None
) -> Outcomes:
    waiting = deque(experiments)
    flights: deque[_Flight] = deque()
    try:
        while waiting or flights:
            while waiting and len(flights) < _IN_FLIGHT:
                experiment = waiting.popleft()
                begun = _begin(cluster, experiment, places)
                if isinstance(begun, _Flight):
                    flights.append(begun)
                else:
                    yield experiment, begun
            if not flights:
                continue
            ready, _ = cluster.ray.wait([flight.stream for flight in flights], num_returns=1)
            flight = next(flight for flight in flights if flight.stream in ready)
            flights.remove(flight)
            flights.append(flight)  # behind the others: each gets its turn
            outcome = _next(cluster, flight, places, on_progress)
            if outcome is not None:
                flights.remove(flight)
                flight.lock.close()
                yield flight.experiment, outcome
    finally:  # interrupted: what is at home is whole, and the runs go on from there another time
        for flight in flights:
            cluster.ray.cancel(flight.stream, force=True)
            flight.lock.close()


def _begin(cluster: _Cluster, experiment: Experiment, places: Places) -> _Flight | str:
    lock = ExitStack()
    try:
        check(experiment)
        lock.enter_context(locked(places.root / experiment.name))
    except SecateurError as problem:
        return str(problem)
    return _Flight(experiment, cluster.send(experiment, places), lock)


def _result(experiment: Experiment, places: Places, on_progress: OnProgress | None) -> Result | str:
    """Read the result of a run that is done, as running it again does."""
    try:
        return run_at(experiment, places, on_progress=on_progress)
    except SecateurError as problem:
        return str(problem)


def _next(cluster: _Cluster, flight: _Flight, places: Places, on_progress: OnProgress | None) -> Result | str | None:
    """Take a parcel in; return the outcome, None while there is none."""
    from ray.exceptions import RayError, RayTaskError

    try:
        parcel: Parcel = cluster.ray.get(next(flight.stream))
    except RayTaskError as problem:
        if not isinstance(problem.cause, OSError | MemoryError):  # a fault of ours, not of the node's
            raise problem.as_instanceof_cause() from None
        return _again(cluster, flight, places, f"by {type(problem.cause).__name__}: {problem.cause}")
    except (RayError, StopIteration) as problem:
        why = f"its worker was killed, ran out of memory, or went away with its node ({type(problem).__name__})"
        return _again(cluster, flight, places, why)
    unpack(parcel.files, places.root / flight.experiment.name)
    if parcel.news is not None and on_progress is not None:
        on_progress(parcel.news)
    if parcel.failure is None and parcel.done:
        return _result(flight.experiment, places, on_progress)
    return parcel.failure


def _again(cluster: _Cluster, flight: _Flight, places: Places, why: str) -> str | None:
    """Send a lost run out again from what has come home, unless it is lost too often at one place."""
    checkpoint = places.root / flight.experiment.name / CHECKPOINT
    try:
        step = read_tensors(checkpoint)[1]["trail"]["step"] if checkpoint.exists() else 0
    except SecateurError as problem:  # somebody has damaged it in the meantime
        return str(problem)
    flight.lost = 1 if step > flight.furthest else flight.lost + 1
    flight.furthest = max(step, flight.furthest)
    if flight.lost >= cluster.attempts:
        return (
            f"it was cut off {flight.lost} times without getting further than step {step}, the last that came home; "
            f"the last time {why}. The same command goes on from there."
        )
    flight.stream = cluster.send(flight.experiment, places)
    return None

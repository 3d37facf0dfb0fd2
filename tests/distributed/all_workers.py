"""All that the distributed tests do in processes of their own, one after the other: starting these costs seconds."""

from __future__ import annotations

from pathlib import Path

from distributed import exchange_workers, measure_workers, scoring_workers, sharded_workers, workers

RANKS = 2
WORK = (
    workers.ddp,
    workers.fsdp2,
    measure_workers.measure,
    scoring_workers.score,
    exchange_workers.exchange,
    sharded_workers.shard,
)


def everything(rank: int, folder: str) -> None:
    for work in WORK:
        place = Path(folder) / work.__name__
        place.mkdir(exist_ok=True)
        work(rank, str(place))

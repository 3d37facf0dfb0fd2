"""Experiments on a Ray cluster, whose nodes share no file system with this machine or with one another."""

from __future__ import annotations

from secateur.lab.cluster._cluster import on_ray
from secateur.lab.cluster._courier import FILES, Job, Parcel, pack, unpack, work

__all__ = ["FILES", "Job", "Parcel", "on_ray", "pack", "unpack", "work"]

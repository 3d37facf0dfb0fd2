"""Layers cut in another basis than their own: eigenvectors leave them, and what stays are three small layers."""

from __future__ import annotations

from secateur.rotation._eigen_damage import Rotated, Turned, eigen_damage

__all__ = ["Rotated", "Turned", "eigen_damage"]

"""What a trainer's callback carries through a run; for callbacks of trainers that are not met here."""

from __future__ import annotations

from secateur.integrations.trainers._session import Session

__all__ = ["Session"]

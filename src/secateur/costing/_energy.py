"""What a forward would take of energy, by a table of 2014: an estimate, for comparison and not for a bill."""

from __future__ import annotations

__all__ = ["ADD", "DRAM", "MULTIPLY", "SRAM", "energy"]

#: Joules to fetch 32 bits from memory outside the chip, 45 nm.
DRAM = 640e-12
#: Joules to fetch 32 bits from memory on the chip.
SRAM = 5e-12
#: Joules of a multiplication of 32-bit floating-point numbers.
MULTIPLY = 3.7e-12
#: Joules of an addition of these.
ADD = 0.9e-12


def energy(fetches: int, macs: int = 0, *, fetch: float = DRAM) -> float:
    """Estimate the joules of one forward on a chip of 2014 (45 nm), from what it fetches and multiplies.

        E = n·E_fetch + m·(E_multiply + E_add)

    An estimate from that year's figures: it says how memory and arithmetic compare, not what your device draws.

    Args:
        fetches: n, how many words of 32 bits are fetched: the parameters, once each.
        macs: m, how many products are added up.
        fetch: E_fetch, joules of a word: `DRAM`, or `SRAM` where all of them fit on the chip.

    Source: Han, Pool, Tran & Dally, arXiv 1506.02626, Figure 1 (energy table for 45 nm) and §1: a billion connections
    at 20 Hz from DRAM need 12.8 W.

    >>> round(20 * energy(fetches=1_000_000_000), 1)
    12.8
    """
    return fetches * fetch + macs * (MULTIPLY + ADD)

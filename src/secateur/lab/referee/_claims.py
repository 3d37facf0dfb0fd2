"""What the literature claims of methods, beside what a sheet says: each a difference of two rows, seed by seed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

from secateur.lab.referee._plan import DENSE_TWIN, SAME_LAYERS
from secateur.lab.referee._record import Line
from secateur.lab.referee._statistics import Paired, paired

#: Lines of a row: by seed.
Row = Mapping[int, Line]


class Finding(StrEnum):
    """What a sheet says of a claim."""

    CONFIRMED = "confirmed"
    CONTRADICTED = "contradicted"
    OPEN = "not told apart"
    UNMEASURED = "not measured"


@dataclass(frozen=True)
class Claim:
    """One row is better than another, or no worse.

    Args:
        text, source: what is claimed, and by whom.
        better, worse: methods of the catalogue, or a control.
        of: of whose layers the control is, where one of the two is a control.
        asked: at which density; None where a row has none.
        margin: by how many points the first may be worse and still count as no worse; 0 where it must be better.
    """

    text: str
    source: str
    better: str
    worse: str
    asked: float | None = 0.02
    of: str = ""
    margin: float = 0.0


CLAIMS = (
    Claim("SNIP is better than random pruning", "Lee et al. 2019", "snip", "random"),
    Claim("SNIP is better than magnitude at initialisation", "Lee et al. 2019", "snip", "magnitude"),
    Claim("GraSP is better than SNIP", "Wang et al. 2020, at extreme sparsity", "grasp", "snip"),
    Claim("SynFlow is better than SNIP", "Tanaka et al. 2020, at extreme sparsity", "synflow", "snip"),
    Claim("FORCE is better than SNIP", "de Jorge et al. 2021, at extreme sparsity", "force", "snip"),
    Claim("SNIP-it is better than SNIP", "Verdenius et al. 2020", "snip_it", "snip"),
    Claim("densities of Erdős–Rényi are better than random ones", "Mocanu et al. 2018", "erk", "random"),
    Claim(
        "SNIP's choice within layers matters: shuffled, it is worse",
        "against Frankle et al. 2021, who find that it does not",
        "snip",
        SAME_LAYERS,
        of="snip",
    ),
    Claim("iterative magnitude pruning is better than SNIP", "Frankle and Carbin 2019", "imp", "snip"),
    Claim("RigL is better than SNIP", "Evci et al. 2020", "rigl", "snip"),
    Claim("RigL is better than SET", "Evci et al. 2020", "rigl", "set"),
    Claim("GraNet is better than RigL", "Liu et al. 2021", "granet", "rigl"),
    Claim("gradual magnitude pruning is better than variational ways of its day", "Gale et al. 2019", "agp", "l0"),
    Claim("SNIP at 10 % is no worse than dense", "Lee et al. 2019", "snip", DENSE_TWIN, asked=0.1, margin=0.1),
)


def judge(claim: Claim, better: Row, worse: Row) -> tuple[Finding, Paired | None]:
    """Compare two rows seed by seed; points are per cent of error, negative where the first is better."""
    found = paired(_errors(better), _errors(worse))
    if found is None or found.p is None:
        return Finding.UNMEASURED, found
    shifted = paired({seed: error - claim.margin for seed, error in _errors(better).items()}, _errors(worse))
    assert shifted is not None
    if claim.margin:
        worse_for_sure = shifted.difference > 0 and shifted.significant
        return (Finding.CONTRADICTED if worse_for_sure else Finding.CONFIRMED), found
    if not found.significant:
        return Finding.OPEN, found
    return (Finding.CONFIRMED if found.difference < 0 else Finding.CONTRADICTED), found


def row_of(lines: Sequence[Line], method: str, asked: float | None, of: str = "") -> dict[int, Line]:
    """Return a row's finished lines by seed; a method that was told no density has one row for all."""
    alike = [line for line in lines if (line.method, line.of) == (method, of) and line.error is not None]
    told = [line for line in alike if line.asked == asked]
    return {line.seed: line for line in told or [line for line in alike if line.asked is None]}


def _errors(row: Row) -> dict[int, float]:
    return {seed: 100 * line.error for seed, line in row.items() if line.error is not None}

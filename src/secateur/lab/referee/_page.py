"""The referee's page: per setting and density a table of methods with intervals, paired differences and controls."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from statistics import mean

from secateur._base.files import write_whole
from secateur._catalogue import catalogue
from secateur.lab.paper import markdown, plural, short
from secateur.lab.referee._claims import CLAIMS, Finding, Row, judge, row_of
from secateur.lab.referee._plan import CONTROLS, DENSE_TWIN, SAME_LAYERS, SLIM, TRAINED_MAGNITUDE
from secateur.lab.referee._record import Line
from secateur.lab.referee._setting import Setting
from secateur.lab.referee._statistics import Interval, interval, paired

ABOUT = """\
# The referee

Every method on equal terms: the same networks, data, lengths of training and seeds; made by `secateur referee`, written
by `secateur referee page`. An error is that after the last step on the test set, mean ± half of the 95 % confidence
interval over seeds (Student's t); nothing is chosen by its best epoch. *Against* columns are paired differences of
errors in points, seed by seed, negative where the method is better, in bold where chance is a bad explanation (paired
t-test, p < 0.05, each by itself: of twenty of these one is chance). The controls that each method has to beat: *same
layers* keeps as many weights in each layer, drawn at random before training; *smaller dense* is a narrow network of no
fewer weights, trained as long. Methods for trained networks are compared with magnitude pruning of the trained network.

*Work* is all training in steps of the dense network: pre-training counts, a program's levels too, and a step of a
network that was pruned beforehand counts by the weights left. Seconds are those of the machine that ran it, which other
processes shared; milliseconds are of a forward of 100 examples on one thread, in processor time, dense → sparsified;
*file* is the network with packed bits against dense float32. *Effective* is the part of the kept weights on some path
from input to output. A dash is not measured, or has no meaning there.

Methods of whole units mask units of every layer, the last one included, whose units are classes: one that keeps a tenth
of each layer's units keeps one class of ten. `shrink` protects outputs; here their rows say what masks alone do, and
nothing against a method.
"""

_HEADS = (
    "", "kept", "effective", "error, %", "against magnitude", "random", "same layers", "smaller dense",
    "work", "prune, s", "train, s", "ms", "file", "seeds",
)  # fmt: skip


def write_page(path: Path, sheets: Mapping[Setting, Sequence[Line]]) -> Path:
    """Write the page from the lines of all settings, in the order given; those without lines are named as such."""
    parts = [ABOUT.strip(), _summary(sheets)]
    for setting, lines in sheets.items():
        parts += _sheet(setting, lines) if lines else [f"## {setting.title}\n\nNot measured yet."]
    write_whole(path, ("\n\n".join(part for part in parts if part) + "\n").encode())
    return path


def _summary(sheets: Mapping[Setting, Sequence[Line]]) -> str:
    rows: list[Sequence[str]] = [("", "runs", "methods", "hours of one core"), ("---", "--:", "--:", "--:")]
    for setting, lines in sheets.items():
        done = [line for line in lines if line.error is not None]
        hours = sum(line.prune + line.train for line in done) / 3600
        methods = len({line.method for line in done} & set(catalogue()))
        rows.append((setting.title, str(len(done)), str(methods), short(hours)))
    measured = {line.method for lines in sheets.values() for line in lines if line.error is not None}
    missing = [name for name in catalogue() if name not in measured]
    without = f"\n\nMethods without a cell yet: {', '.join(f'`{name}`' for name in missing)}." if missing else ""
    return markdown(rows) + without


def _sheet(setting: Setting, lines: Sequence[Line]) -> list[str]:
    whole = [100 * line.error for line in lines if line.method == DENSE_TWIN and line.error is not None]
    dense = f"Dense: {_error(interval(whole))} %." if whole else "No dense run yet."
    machines = ", ".join(sorted({line.machine for line in lines if line.machine}))
    versions = ", ".join(sorted({line.versions for line in lines if line.versions}))
    head = (
        f"## {setting.title}\n\n{setting.recipe.steps:,} steps of {setting.recipe.batch} examples for every run. "
        f"{dense} {machines}; {versions}. {setting.note}".strip()
    )
    parts = [head, _claims(lines)]
    for asked in sorted({line.asked for line in lines if line.asked}, reverse=True):
        for title, wanted in (("", _unstructured), (", whole units and blocks", _structured)):
            table = _table(setting, lines, asked, [name for name in _methods(lines, asked) if wanted(name)])
            parts.append(table and f"### {100 * asked:g} % kept{title}\n\n{table}")
    table = _table(setting, lines, None, _methods(lines, None))
    parts.append(table and f"### Methods that decide how much stays\n\n{table}")
    parts.append(_failures(lines))
    return [part for part in parts if part]


def _methods(lines: Iterable[Line], asked: float | None) -> list[str]:
    return list(dict.fromkeys(line.method for line in lines if line.asked == asked and line.method not in CONTROLS))


def _structured(name: str) -> bool:
    return name in catalogue() and "structured" in catalogue()[name].tags


def _unstructured(name: str) -> bool:
    return name != DENSE_TWIN and not _structured(name)


def _table(setting: Setting, lines: Sequence[Line], asked: float | None, methods: Sequence[str]) -> str:
    """Lay out some methods of one density, the best first."""
    rows = {name: row_of(lines, name, asked) for name in methods if name != DENSE_TWIN}
    found = {name: row for name, row in rows.items() if row}
    if not found:
        return ""
    ranked = sorted(found, key=lambda name: mean(line.error or 0.0 for line in found[name].values()))
    body = [_row(name, found[name], lines, asked) for name in ranked]
    slim = row_of(lines, SLIM, asked) if asked else {}
    control = (
        [_row(SLIM, slim, lines, asked, label=f"*smaller dense* ({setting.slim[asked]})")] if slim and asked else []
    )
    return markdown([_HEADS, ("---", *("--:",) * (len(_HEADS) - 1)), *body, *control])


def _row(name: str, row: Row, lines: Sequence[Line], asked: float | None, label: str = "") -> tuple[str, ...]:
    some = list(row.values())
    effective = [line.effective for line in some if line.effective is not None]
    timed = [line for line in some if line.dense_ms is not None and line.sparse_ms is not None]
    packed = [line.whole / line.packed for line in some if line.packed]
    marks = " (collapsed)" if any(line.collapsed for line in some) else ""
    return (
        label or f"`{name}`",
        f"{100 * mean(line.density or 0.0 for line in some):.2f} %" if name != SLIM else "–",
        f"{100 * mean(effective):.0f} %" if effective else "–",
        _error(interval([100 * (line.error or 0.0) for line in some])) + marks,
        *(_against(row, other) for other in _others(name, lines, asked)),
        short(mean(line.work for line in some)),
        short(mean(line.prune for line in some)),
        short(mean(line.train for line in some)),
        f"{short(timed[0].dense_ms or 0.0)} → {short(timed[0].sparse_ms or 0.0)}" if timed else "–",
        f"1/{mean(packed):.1f}" if packed and name != SLIM else "–",
        str(len(some)),
    )


def _others(name: str, lines: Sequence[Line], asked: float | None) -> list[Row]:
    """The rows that a method is compared with: magnitude, random, its own layers at random, the smaller dense one."""
    trained = name in catalogue() and "trained" in catalogue()[name].tags
    baselines = (TRAINED_MAGNITUDE if trained else "magnitude", "random")
    rows = [row_of(lines, other, asked) if asked and other != name else {} for other in baselines]
    same = row_of(lines, SAME_LAYERS, asked, of=name) if name != SLIM else {}
    return [*rows, same, row_of(lines, SLIM, asked) if asked and name != SLIM else {}]


def _against(ours: Row, theirs: Row) -> str:
    found = paired(
        {seed: 100 * (line.error or 0.0) for seed, line in ours.items()},
        {seed: 100 * (line.error or 0.0) for seed, line in theirs.items()},
    )
    if found is None:
        return "–"
    said = f"{found.difference:+.2f}"
    return f"**{said}**" if found.significant else said


def _claims(lines: Sequence[Line]) -> str:
    """Say of each claim of the literature what this sheet says, where both rows are there."""
    rows: list[Sequence[str]] = []
    for claim in CLAIMS:
        better = row_of(lines, claim.better, claim.asked, of=claim.of if claim.better == SAME_LAYERS else "")
        worse = row_of(lines, claim.worse, claim.asked, of=claim.of if claim.worse == SAME_LAYERS else "")
        finding, difference = judge(claim, better, worse)
        if finding is not Finding.UNMEASURED and difference is not None:
            at = "" if claim.asked is None else f", {100 * claim.asked:g} %"
            said = f"{difference.difference:+.2f} (p = {difference.p:.2g})"
            rows.append((f"{claim.text}{at}", claim.source, said, str(finding)))
    if not rows:
        return ""
    heads = [("claim", "of", "points, paired", "here"), ("---", "---", "--:", "---")]
    return "### What the literature says\n\n" + markdown([*heads, *rows])


def _error(found: Interval) -> str:
    return f"{found.mean:.2f}" if found.half is None else f"{found.mean:.2f} ± {found.half:.2f}"


def _failures(lines: Sequence[Line]) -> str:
    """Say what could not be run, once for all seeds and densities that say the same."""
    told: dict[str, list[Line]] = {}
    for line in lines:
        if line.failure:
            told.setdefault(f"`{line.method}`: {line.failure}", []).append(line)
    sentences = [f"* {said} ({plural(len(some), 'run')})" for said, some in told.items()]
    return "Not run:\n\n" + "\n".join(sentences) if sentences else ""

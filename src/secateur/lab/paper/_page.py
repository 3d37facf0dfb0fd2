"""The page of a paper: every table and figure with the paper's numbers beside ours, made from the records."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from secateur.lab.paper._artefact import Artefact, Paper
from secateur.lab.paper._cell import Cell
from secateur.lab.paper._cost import cost_table, cost_totals, current_costs, read_costs
from secateur.lab.paper._file import read_records
from secateur.lab.paper._layout import markdown, number, plural, spread
from secateur.lab.paper._record import Record, Records, current_records, each
from secateur.lab.paper._verdict import Verdict, too_many, verdict
from secateur.lab.repeat import damaged, read_json, write_bytes, write_json

PICTURES = "pictures.json"

_AT_LENGTH = "Hours of one such process that these series take at full length with {}, steps and evaluations"


def write_page(paper: Paper, docs: Path) -> Path:
    """Write `<docs>/<paper>.md` from the recorded numbers and the pictures in `<docs>/<paper>/`.

    Args:
        paper: what was reproduced.
        docs: the folder of the papers' pages.

    Raises:
        ArtefactError: a recorded file is damaged; nothing was written.
    """
    known = {name: _records(paper, artefact) for name, artefact in paper.artefacts.items()}
    first = "" if paper.summary is None else paper.summary(known).strip()
    sections = [f"# {paper.title}", paper.about.strip(), first, _summary(paper)]
    sections += [_section(paper, artefact, docs / paper.name) for artefact in paper.artefacts.values()]
    path = docs / f"{paper.name}.md"
    docs.mkdir(parents=True, exist_ok=True)
    write_bytes(path, ("\n\n".join(part for part in sections if part) + "\n").encode())
    return path


def note_pictures(folder: Path, artefact: Artefact, pictures: Sequence[tuple[str, str]]) -> None:
    """Remember the pictures of an artefact and their captions beside them."""
    path = folder / PICTURES
    known = read_json(path) if path.exists() else {}
    write_json(path, known | {artefact.name: [list(picture) for picture in pictures]})


def outcomes(artefact: Artefact, records: Records) -> Counter[Verdict]:
    """Count the verdicts of an artefact's cells, each printed number once.

    NOTHING stands for cells to which the paper has no number, and for those that measure a number again under another
    recipe than the one it is counted by.
    """
    return Counter(
        Verdict.NOTHING if cell.paper is None or not cell.counts else verdict(cell, records.get(cell.name))
        for cell in artefact.cells
    )


def misses(artefact: Artefact, records: Records) -> list[str]:
    """Say each miss and each failed run of an artefact in a sentence, with the reason that its cell gives."""
    found = []
    for cell in artefact.cells:
        record = records.get(cell.name)
        if record is None:
            continue
        told, why = [_sentence(failure) for failure in record.failures], cell.why
        if verdict(cell, record) is Verdict.MISSED:
            kept = f", with {record.kept:,} weights where it keeps {cell.most_kept:,}" if too_many(cell, record) else ""
            told.insert(0, f"{spread(record)} where the paper has {number(cell.paper)}{kept}.")
            why = cell.why or "Why is not known."
        if told:
            found.append(" ".join([f"{cell.row}, {cell.column}:", *told, why]).strip())
    return found


def _summary(paper: Paper) -> str:
    """Count the verdicts, one line per table that has numbers of the paper's to compare with."""
    heads = [one for one in Verdict if one is not Verdict.NOTHING]
    rows = [("", "numbers", *map(str, heads)), ("---", *("--:",) * (1 + len(heads)))]
    for artefact in paper.artefacts.values():
        count = outcomes(artefact, _records(paper, artefact))
        total = count.total() - count[Verdict.NOTHING]
        if total:
            rows.append((artefact.title, str(total), *(str(count[one]) for one in heads)))
    if len(rows) == 2:
        return ""
    return f"What stands beside the numbers that the paper prints, each counted once:\n\n{markdown(rows)}"


def _section(paper: Paper, artefact: Artefact, folder: Path) -> str:
    records = _records(paper, artefact)
    commands = dict.fromkeys(record.command for record in records.values())
    shown = list(commands) or [f"secateur paper {paper.name} {artefact.name} --record"]
    parts = [
        f"## {artefact.title}",
        artefact.about.strip(),
        "```console\n" + "\n".join(f"$ {command}" for command in shown) + "\n```",
        *_pictures(paper, artefact, folder),
    ]
    if artefact.cells:
        parts += [artefact.layout(artefact.cells, records), _provenance(artefact.cells, records)]
        parts += [_costs(paper, artefact)]
        parts += [_listed("Misses and failures", misses(artefact, records))]
        left_out = [name for name in read_records(paper.expected(artefact)) if name not in records]
        parts += [_listed("Recorded before these cells were changed, and left out until they are run again", left_out)]
    return "\n\n".join(part for part in parts if part)


def _costs(paper: Paper, artefact: Artefact) -> str:
    """Say what a step of each cell takes, and all of them at the paper's length, on every machine that timed them."""
    title, parts = _AT_LENGTH.format(plural(artefact.seeds, "seed")), []
    for timed in read_costs(paper.costs(artefact)).values():
        costs = current_costs(artefact.cells, timed)
        parts.append(cost_table(artefact.cells, costs))
        parts.append(_listed(title, cost_totals(artefact.cells, costs, artefact.seeds)))
    return "\n\n".join(part for part in parts if part)


def _pictures(paper: Paper, artefact: Artefact, folder: Path) -> list[str]:
    """Link the pictures that were drawn and are still there."""
    path = folder / PICTURES
    known = read_json(path) if path.exists() else {}
    try:
        found = [(str(name), str(caption)) for name, caption in known.get(artefact.name, [])]
    except (TypeError, ValueError) as problem:
        raise damaged(path, f"{type(problem).__name__}: {problem}") from None
    there = [(name, caption) for name, caption in found if (folder / name).exists()]
    return [f"![{caption}]({paper.name}/{name})\n\n*{caption}*" for name, caption in there]


def _records(paper: Paper, artefact: Artefact) -> dict[str, Record]:
    return current_records(artefact.cells, read_records(paper.expected(artefact)))


def _listed(title: str, sentences: Sequence[str]) -> str:
    return "\n".join([f"{title}:", "", *(f"* {sentence}" for sentence in sentences)]) if sentences else ""


def _length(cell: Cell, record: Record) -> str:
    """Say how long a network was trained, and how long the paper's length is where that is more."""
    full = cell.experiment.recipe.steps
    of = "" if record.steps == full else f" of {full:,}"
    return f"{record.experiment.model} {record.steps:,}{of}"


def _sentence(text: str) -> str:
    return text if text.endswith((".", "!", "?")) else f"{text}."


def _provenance(cells: Sequence[Cell], records: Records) -> str:
    """Say on which data and machines, by which engines and over how many steps the records were made."""
    machines = (
        f"{record.machine}, {plural(record.threads, 'thread')} per run" if record.threads else record.machine
        for record in records.values()
    )
    parts = {
        "Data": each(record.data for record in records.values()),
        "Machine": each(machines),
        "Engine": each(
            f"{record.engine} in bfloat16" if record.experiment.bf16 else record.engine for record in records.values()
        ),
        "Steps": each(_length(cell, records[cell.name]) for cell in cells if cell.name in records),
    }
    return " ".join(f"{what}: {names}." for what, names in parts.items() if names)

"""The page of a paper: every table and figure with the paper's numbers beside ours, made from the records."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from secateur.lab.paper.artefact import Artefact, Paper
from secateur.lab.paper.layout import number, spread
from secateur.lab.paper.record import Record, Verdict, read, verdict
from secateur.lab.store import read_json, write_bytes, write_json

PICTURES = "pictures.json"


def write(paper: Paper, docs: Path) -> Path:
    """Write `<docs>/<paper>.md` from the recorded numbers and the pictures in `<docs>/<paper>/`.

    Args:
        paper: what was reproduced.
        docs: the folder of the papers' pages.
    """
    sections = [f"# {paper.title}", paper.about.strip(), _summary(paper)]
    sections += [_section(paper, artefact, docs / paper.name) for artefact in paper.artefacts.values()]
    path = docs / f"{paper.name}.md"
    docs.mkdir(parents=True, exist_ok=True)
    write_bytes(path, ("\n\n".join(sections) + "\n").encode())
    return path


def note_pictures(folder: Path, artefact: Artefact, pictures: Sequence[tuple[str, str]]) -> None:
    """Remember the pictures of an artefact and their captions beside them."""
    path = folder / PICTURES
    known = read_json(path) if path.exists() else {}
    write_json(path, known | {artefact.name: [list(picture) for picture in pictures]})


def misses(artefact: Artefact, records: Mapping[str, Record]) -> list[str]:
    """Say each miss and each failure of an artefact in a sentence."""
    found = []
    for cell in artefact.cells:
        record = records.get(cell.name)
        outcome = verdict(cell, record)
        if record is not None and outcome in (Verdict.MISSED, Verdict.FAILED):
            what = f"{spread(record)} where the paper has {number(cell.paper)}" if record.errors else record.failures[0]
            found.append(f"{cell.row}, {cell.column}: {what}. {cell.why}".strip())
    return found


def _summary(paper: Paper) -> str:
    """Count the verdicts of all tables."""
    count = dict.fromkeys(Verdict, 0)
    for artefact in paper.artefacts.values():
        records = read(paper.expected(artefact))
        for cell in artefact.cells:
            if cell.paper is not None:
                count[verdict(cell, records.get(cell.name))] += 1
    total = sum(count.values())
    words = ", ".join(f"{count[one]} {str(one).strip('*')}" for one in Verdict if count[one])
    return f"Of {total} numbers that the paper prints: {words}."


def _section(paper: Paper, artefact: Artefact, folder: Path) -> str:
    records = read(paper.expected(artefact))
    parts = [f"## {artefact.title}", artefact.about.strip()]
    commands = list(dict.fromkeys(record.command for record in records.values()))
    if commands or not artefact.cells:
        shown = commands or [f"secateur paper {paper.name} {artefact.name} --record"]
        parts.append("```console\n" + "\n".join(f"$ {command}" for command in shown) + "\n```")
    pictures = (read_json(folder / PICTURES) if (folder / PICTURES).exists() else {}).get(artefact.name, [])
    parts += [f"![{caption}]({paper.name}/{name})\n\n*{caption}*" for name, caption in pictures]
    if artefact.cells:
        parts.append(artefact.layout(artefact.cells, records))
        parts.append(_provenance(records))
    missed = misses(artefact, records)
    if missed:
        parts.append("Misses:\n\n" + "\n".join(f"* {sentence}" for sentence in missed))
    return "\n\n".join(part for part in parts if part)


def _provenance(records: Mapping[str, Record]) -> str:
    """Say on which data and machines the records were made."""
    data = dict.fromkeys(record.data for record in records.values() if record.data)
    machines = dict.fromkeys(
        f"{record.machine}, {record.threads} thread{'s' if record.threads > 1 else ''} per run"
        for record in records.values()
        if record.machine
    )
    return f"Data: {'; '.join(data)}. Machine: {'; '.join(machines)}." if data else ""

"""Runs the pages of the gallery and writes what they print under their examples: `python docs/gallery/outputs.py`."""

from __future__ import annotations

import contextlib
import importlib.util
import io
import re
import sys
from pathlib import Path

import torch

HERE = Path(__file__).resolve().parent
#: An example and, where one follows, what it printed.
BLOCK = re.compile(r"^```python\n(?P<code>.*?)^```\n(?:\n```text\n(?P<output>.*?)^```\n)?", re.MULTILINE | re.DOTALL)
NEEDS = re.compile(r"^<!-- needs: (.+) -->$", re.MULTILINE)


def missing(page: Path) -> list[str]:
    """The packages that a page says it needs and that are not installed."""
    names = " ".join(NEEDS.findall(page.read_text(encoding="utf-8"))).split()
    return [name for name in names if importlib.util.find_spec(name) is None]


def printed(page: Path) -> list[tuple[str, str]]:
    """Run a page; return what stands under each of its examples that shows its output, and what it printed now."""
    text, namespace, found = page.read_text(encoding="utf-8"), {"__name__": "page"}, []
    for block in BLOCK.finditer(text):
        line, out = text.count("\n", 0, block.start("code")), io.StringIO()
        with contextlib.redirect_stdout(out):
            exec(compile("\n" * line + block["code"], str(page), "exec"), namespace)
        if block["output"] is not None:
            found.append((block["output"], out.getvalue()))
    return found


def rewritten(page: Path) -> str:
    """The page with what its examples print today."""
    outputs = iter(new for _, new in printed(page))

    def put(block: re.Match[str]) -> str:
        if block["output"] is None:
            return block[0]
        return f"```python\n{block['code']}```\n\n```text\n{next(outputs)}```\n"

    return BLOCK.sub(put, page.read_text(encoding="utf-8"))


if __name__ == "__main__":
    torch.set_num_threads(1)
    wanted = [HERE / f"{name}.md" for name in sys.argv[1:]] or sorted(HERE.glob("*.md"))
    for page in wanted:
        if not missing(page):
            page.write_text(rewritten(page), encoding="utf-8")

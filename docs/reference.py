"""Write the API reference and the methods page from the code.

A room is shown by its surface, and a value is described once: on the page of the nearest public package above its
definition that offers it. The front page is the vocabulary of `import secateur`; every other page leads there by links.

Docstrings here are Markdown: single backticks are code, an indented block is an equation or a layout, `>>>`
an example. The pages go to `docs/_generated`, anew at every build; nothing in there is edited by hand.
"""

from __future__ import annotations

import importlib
import inspect
import re
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

from sphinx.util.inspect import stringify_signature
from surface import PACKAGE, STAGED, docstring, members, public_modules, public_names, undocumented

# In the order in which a reader meets them; what is not named here follows by its name.
ROOMS = (
    "masks",
    "selection",
    "measures",
    "axes",
    "gates",
    "holding",
    "coupling",
    "pruning",
    "methods",
    "programs",
    "shrinking",
    "sparse",
    "export",
    "lab",
    "testing",
)
SECTIONS = "Args|Arguments|Returns|Raises|Yields|Attributes|Warns|Deviates|Source|Shapes|Note|Example"


# ------------------------------------------------------------------ from docstring to Markdown


def as_markdown(text: str) -> str:
    """Turn a docstring into Markdown: examples fenced, section entries listed, equations verbatim."""
    lines = text.splitlines()
    out: list[str] = []
    in_section = in_example = False
    for index, line in enumerate(lines):
        previous = lines[index - 1] if index else ""
        heading = re.match(rf"({SECTIONS}):(.*)$", line)
        if in_example and not line.strip():
            out += ["```", ""]
            in_example = False
        elif in_example:
            out.append(line.strip() if line.strip().startswith((">>>", "...")) else line.removeprefix("    "))
        elif line.lstrip().startswith(">>>"):
            out += ["", "```pycon", line.strip()]
            in_example, in_section = True, False
        elif heading:
            out += ["", f"**{heading[1]}:**{heading[2]}"]
            in_section = not heading[2].strip()
        elif in_section and (entry := re.match(r"    (\*{0,2}[\w.`, ]+?): (.*)$", line)):
            out += ["", f"* `{entry[1].strip('`')}`: {entry[2]}"]
        elif in_section and line.startswith("    "):
            out.append(f"  {line.strip()}")
        else:
            in_section = in_section and not line.strip()
            if line.startswith("    ") and previous.strip() and not previous.startswith("    "):
                out.append("")
            out.append(line)
    if in_example:
        out.append("```")
    return "\n".join(out).strip() + "\n"


def signature_of(value: object) -> str:
    """The call signature as one line, or nothing where Python knows none."""
    try:
        signature = inspect.signature(value)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        return ""
    if inspect.isclass(value):
        signature = signature.replace(return_annotation=inspect.Signature.empty)
    return " ".join(stringify_signature(signature, unqualified_typehints=True).split())


def directive(kind: str, heading: str, body: str, *options: str) -> str:
    """One object of the reference in MyST's colon fences, deep enough to hold others."""
    fence = ":" * (4 if kind in {"class", "exception"} else 3)
    head = "".join(f":{option}:\n" for option in options)
    return f"{fence}{{py:{kind}}} {heading}\n{head}\n{body.rstrip()}\n{fence}\n\n"


def describe(name: str, value: object, where: ModuleType) -> str:
    """The reference entry of one public name."""
    if inspect.isclass(value):
        body = as_markdown(docstring(value)) + "\n"
        body += "".join(f"Has all of {{py:class}}`{base}` too.\n\n" for base in own_bases(value))
        body += "".join(_member(member, got) for member, got in members(value).items())
        kind = "exception" if issubclass(value, BaseException) else "class"
        return directive(kind, name + ("" if kind == "exception" else signature_of(value)), body)
    if inspect.isroutine(value):
        return directive("function", name + (signature_of(value) or "()"), as_markdown(docstring(value)))
    return directive("data", name, f"{comment_of(name, where)}\n\n`{plain_repr(value)}`")


def plain_repr(value: object) -> str:
    """A constant or a type as one writes it: no memory addresses, no names of modules."""
    text = re.sub(r"<(?:function|class) '?([\w.]+)'?(?: at 0x[0-9a-f]+)?>", r"\1", repr(value))
    return re.sub(r"\b(?:[a-z_]\w*\.)+(?=[A-Z])", "", text)


def comment_of(name: str, module: ModuleType) -> str:
    """What the `#:` lines above a constant say, in the module or in the files of its room."""
    own = Path(module.__file__ or "")
    for path in [own, *(sorted(own.parent.glob("*.py")) if own.name == "__init__.py" else [])]:
        found = re.search(rf"((?:^#:.*\n)+)^{name}\b(?:: [^=]+)? = ", path.read_text(encoding="utf-8"), re.MULTILINE)
        if found:
            return " ".join(line.removeprefix("#:").strip() for line in found[1].splitlines())
    return ""


def _member(name: str, value: object) -> str:
    text = as_markdown(docstring(value))
    if isinstance(value, property):
        return directive("property", name, text)
    options = [
        kind
        for kind in ("classmethod", "staticmethod")
        if isinstance(value, classmethod | staticmethod) and type(value).__name__ == kind
    ]
    function = value.__func__ if isinstance(value, classmethod | staticmethod) else value
    signature = re.sub(r"^\((self|cls)(, )?", "(", signature_of(function))
    return directive("method", name + signature, text, *options)


# ------------------------------------------------------------------ the pages


def has_page(name: str) -> bool:
    """Whether a module may have a page of its own: nothing in its name is private, and it is no stage of a room."""
    parts = name.split(".")[1:]
    return not any(part.startswith("_") for part in parts) and not (parts[:1] and parts[0] in STAGED and parts[1:])


def home_of(value: object, here: str) -> str:
    """The module whose page describes a value; `here` for constants and for what no package above it offers."""
    if isinstance(value, ModuleType):
        return value.__name__
    parts = str(getattr(value, "__module__", None) or "").split(".")
    # The house's own names only: a type of torch or numpy has no page here.
    while parts and parts[0] == PACKAGE:
        module = sys.modules.get(".".join(parts))
        if (
            module is not None
            and has_page(module.__name__)
            and public_names(module).get(getattr(value, "__name__", "")) is value
        ):
            return module.__name__
        parts.pop()
    return here


def link(name: str, value: object, home: str) -> str:
    """A role that leads to the description of a value on its own module's page."""
    if isinstance(value, ModuleType):
        return f"{{py:mod}}`{name} <{home}>`"
    kind = "class" if inspect.isclass(value) else "func" if inspect.isroutine(value) else "data"
    return f"{{py:{kind}}}`{name} <{home}.{getattr(value, '__name__', name)}>`"


def own_bases(cls: type) -> list[str]:
    """The public bases that a class has in this package and that have members to tell of, by their full names."""
    homes = {base: home_of(base, "") for base in cls.__bases__ if members(base)}
    return [f"{home}.{base.__name__}" for base, home in homes.items() if home]


def first_line(value: object) -> str:
    """The first paragraph of a docstring on one line, fit for a table cell."""
    return " ".join(docstring(value).split("\n\n")[0].split()).replace("|", "\\|")


def table(module: ModuleType, wanted: Mapping[str, object]) -> str:
    """One row per name: a link to its description, and its first line."""
    rows = "".join(
        f"| {link(name, value, home_of(value, module.__name__))} | {first_line(value)} |\n"
        for name, value in wanted.items()
    )
    return f"| name | what it is |\n|---|---|\n{rows}\n" if rows else ""


def described(module: ModuleType) -> dict[str, object]:
    """The names that a module offers and no module below it describes."""
    here = module.__name__
    return {
        name: value
        for name, value in public_names(module).items()
        if home_of(value, here) == here and value is not module
    }


def rooms_of(module: ModuleType, modules: list[ModuleType]) -> list[ModuleType]:
    """The public modules right inside one, in the order of `ROOMS`."""
    inside = [each for each in modules if each.__name__.rpartition(".")[0] == module.__name__]
    last = [each.__name__.rpartition(".")[2] for each in inside]
    order = {name: (ROOMS.index(name) if name in ROOMS else len(ROOMS), name) for name in last}
    return sorted(inside, key=lambda each: order[each.__name__.rpartition(".")[2]])


def shown(modules: list[ModuleType]) -> list[ModuleType]:
    """The modules that get a page: those that offer names, and those around them."""
    modules = [module for module in modules if has_page(module.__name__)]
    offering = [module.__name__ for module in modules if public_names(module)]
    return [m for m in modules if any(f"{name}.".startswith(f"{m.__name__}.") for name in offering)]


def module_page(module: ModuleType, inside: list[ModuleType]) -> str:
    """The page of one module: its docstring, its rooms, names from elsewhere linked, its own described."""
    here, own = module.__name__, described(module)
    # The rooms are listed on their own account.
    others = {n: v for n, v in public_names(module).items() if n not in own and v not in inside}
    head = f"# {here}\n\n{as_markdown(docstring(module))}\n:::{{py:module}} {here}\n:::\n\n"
    return head + toctree(inside) + table(module, others) + "".join(describe(n, v, module) for n, v in own.items())


def toctree(inside: list[ModuleType]) -> str:
    """The rooms of a module: a table to read, and the same for the sidebar."""
    if not inside:
        return ""
    rows = "".join(f"| {{py:mod}}`{each.__name__}` | {first_line(each)} |\n" for each in inside)
    entries = "".join(f"{each.__name__}\n" for each in inside)
    return f"| room | what is there |\n|---|---|\n{rows}\n:::{{toctree}}\n:hidden:\n\n{entries}:::\n\n"


def front_page(package: ModuleType, inside: list[ModuleType]) -> str:
    """The vocabulary: what `import secateur` offers, by kind, and the rooms behind it."""
    here, offered = package.__name__, public_names(package)
    errors = {n: v for n, v in offered.items() if inspect.isclass(v) and issubclass(v, BaseException)}
    nouns = {n: v for n, v in offered.items() if inspect.isclass(v) and n not in errors}
    verbs = {n: v for n, v in offered.items() if inspect.isroutine(v)}
    at_hand = {n: v for n, v in offered.items() if isinstance(v, ModuleType)}
    own = described(package)
    return (
        f"# Reference\n\n{as_markdown(docstring(package))}\n:::{{py:module}} {here}\n:::\n\n"
        f"## Nouns\n\n{table(package, nouns)}## Verbs\n\n{table(package, verbs)}"
        f"## Modules at hand\n\n{table(package, at_hand)}"
        f"## Rooms\n\nEach page is the surface of one room, generated from the code.\n\n{toctree(inside)}"
        f"## Errors and warnings\n\n{table(package, errors)}## Described here\n\n"
        + "".join(describe(name, value, package) for name, value in own.items())
    )


def pages(package: ModuleType) -> Iterator[tuple[str, str]]:
    """Yield file name and text of every reference page."""
    modules = shown(public_modules(package))
    yield "api/index.md", front_page(package, rooms_of(package, modules))
    for module in modules[1:]:
        yield f"api/{module.__name__}.md", module_page(module, rooms_of(module, modules))


def methods_page(catalogue: Mapping[str, Any], tags: Mapping[str, str]) -> str:
    """The table of published methods: what each does, when, what it needs and cuts, and the paper."""
    rows = signatures = ""
    for name, entry in catalogue.items():
        paper = f"[{entry.arxiv}](https://arxiv.org/abs/{entry.arxiv})" if entry.arxiv else "–"
        called = link(name, entry.factory, home_of(entry.factory, PACKAGE))
        called += f" ({', '.join(entry.aliases)})" if entry.aliases else ""
        head = called, entry.summary, entry.family, entry.needs
        cells = *head, entry.cuts, ", ".join(sorted(entry.tags)), paper
        rows += "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |\n"
        signatures += f"{entry.call}{signature_of(entry.factory)}\n"
    words = "".join(f"* *{tag}*: {meaning}\n" for tag, meaning in tags.items())
    return (
        "# Methods\n\nEvery published method that Secateur knows, generated from `secateur.catalogue`. "
        "The same table in a terminal: `secateur methods`.\n\n"
        "| method | what it does | when | needs | cuts | tags | paper (arXiv) |\n|---|---|---|---|---|---|---|\n"
        f"{rows}\n{words}\n## Signatures\n\n```python\n{signatures}```\n"
    )


def write(folder: Path, package: ModuleType) -> list[str]:
    """Write all pages under `folder`, remove stale ones, and return the undocumented names."""
    wanted = dict(pages(package))
    listing = importlib.import_module(f"{package.__name__}._catalogue")
    wanted["methods.md"] = methods_page(listing.catalogue(), listing.TAGS)
    for name, text in wanted.items():
        target = folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        if not target.exists() or target.read_text(encoding="utf-8") != text:
            target.write_text(text, encoding="utf-8")
    for old in folder.rglob("*.md"):
        if str(old.relative_to(folder)) not in wanted:
            old.unlink()
    return undocumented(package)

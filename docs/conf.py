"""Sphinx configuration. Strict and offline: `sphinx-build -W -n` must pass without any network."""

from __future__ import annotations

import sys
from importlib import metadata
from pathlib import Path

from sphinx.application import Sphinx
from sphinx.util import logging

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent / "src")]

import reference  # noqa: E402  (needs the path above)

import secateur  # noqa: E402

project = "Secateur"
author = "the Secateur authors"
copyright = "2026, the Secateur authors"
try:
    release = metadata.version("secateur")
except metadata.PackageNotFoundError:
    release = "from source"

extensions = ["myst_parser"]
myst_enable_extensions = ["colon_fence"]
myst_heading_anchors = 3
exclude_patterns = ["_build"]
html_theme = "furo"
html_title = f"Secateur {release}"
html_show_sphinx = False
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_js_files = ["site.js"]
python_use_unqualified_type_names = True
python_maximum_signature_line_length = 88
toc_object_entries_show_parents = "hide"

# Types of torch, numpy and the standard library appear in signatures; nothing is downloaded to resolve them.
# Whatever our own pages refer to by role (functions, methods, modules) must exist.
# A short type name in a signature may have two homes (two classes called Choice, say): the nearest is linked.
suppress_warnings = ["ref.python"]
nitpick_ignore_regex = [("py:class", r"(?!secateur\.).*"), ("py:obj", r"(?!secateur\.).*")]


def _generate(app: Sphinx) -> None:
    log = logging.getLogger("secateur.docs")
    for name in reference.write(HERE / "_generated", secateur):
        log.warning("%s is public and has no docstring", name, type="secateur")


def setup(app: Sphinx) -> None:
    """Write the generated pages before Sphinx looks for files."""
    app.connect("builder-inited", _generate)

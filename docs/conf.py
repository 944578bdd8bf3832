# How the site is built: sphinx-build -W docs docs/_build
#
# Pages are Markdown; what can be known from the code is taken from it while building.

from __future__ import annotations

import sys
from pathlib import Path

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE / "_ext"), str(HERE.parent), str(HERE.parent / "adapters")]

import smtpproto  # noqa: E402 - found by the line above

project = "smtpproto"
author = "the smtpproto authors"
copyright = author  # noqa: A001 - Sphinx's name for it
version = release = smtpproto.__version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "from_code"]
source_suffix = {".md": "markdown"}
exclude_patterns = ["_build", "changes/*", "speed-tables.md"]  # the last is a part of speed.md
myst_enable_extensions = ["attrs_inline", "deflist"]
myst_heading_anchors = 3

smartquotes = False  # "" is a value here
default_role = "code"  # docstrings write names as Markdown does
python_use_unqualified_type_names = True
add_module_names = False
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_class_signature = "mixed"
autodoc_type_aliases = {"TimerKind": "TimerKind"}
autodoc_preserve_defaults = True
autodoc_default_options = {"members": True, "undoc-members": True}
toc_object_entries = False

html_theme = "furo"
html_title = f"smtpproto {release}"
html_copy_source = False
html_show_sphinx = False

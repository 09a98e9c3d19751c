"""Sphinx configuration. Everything is local: the build needs no network."""

import os
import re

import matplotlib
from docutils import nodes
from docutils.utils.math.latex2mathml import tex2mathml

import sparsecode_estimators

matplotlib.use("agg")
os.environ["HF_HUB_DISABLE_PROGRESS_BARS"] = "1"  # they are for terminals, not for pages

project = "sparsecode_estimators"
author = "The sparsecode_estimators developers"
copyright = f"2025, {author}"
version = release = sparsecode_estimators.__version__

extensions = [
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "numpydoc",
    "sphinx_gallery.gen_gallery",
]
exclude_patterns = ["_build", "_templates"]
templates_path = ["_templates"]
default_role = "code"
nitpicky = False

autosummary_generate = True
autosummary_generate_overwrite = True
numpydoc_show_class_members = False  # the template says which methods have a place

sphinx_gallery_conf = {
    "examples_dirs": "../examples",
    "gallery_dirs": "gallery",
    "filename_pattern": r"plot_",
    "within_subsection_order": "FileNameSortKey",
    "reference_url": {"sparsecode_estimators": None},
    "download_all_examples": False,
    "write_computation_times": False,
    "show_memory": False,
    "remove_config_comments": True,
    "abort_on_example_error": False,  # it becomes a warning, which -W turns into a failure
}

# It looks at the whole path: a space above the repository breaks no link.
suppress_warnings = ["sphinx_gallery.space_in_filename"]

html_theme = "pydata_sphinx_theme"
html_title = project
html_show_sourcelink = False
html_math_renderer = "mathml"
html_theme_options = {
    "navigation_with_keys": False,
    "show_prev_next": False,
    "secondary_sidebar_items": ["page-toc"],
    "footer_start": ["copyright"],
    "footer_end": [],
}


def inline_math(translator, node):
    """Write a formula as MathML, which browsers draw without a script from elsewhere."""
    translator.body.append(tex2mathml(node.astext()))
    raise nodes.SkipNode


def display_math(translator, node):
    translator.body.append(f'<div class="math">{tex2mathml(node.astext(), as_block=True)}</div>')
    raise nodes.SkipNode


def escape_shapes(app, what, name, obj, options, lines):
    """Keep ``n_components_`` in a shape from being read as a link."""
    for i, line in enumerate(lines):
        if "of shape (" in line:
            lines[i] = re.sub(r"(?<=\w)_(?=[,)])", r"\\_", line)


def setup(app):
    app.connect("autodoc-process-docstring", escape_shapes, priority=400)  # before numpydoc
    app.add_html_math_renderer("mathml", (inline_math, None), (display_math, None))

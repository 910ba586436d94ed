"""Configuration of the Sphinx site: `sphinx-build -W -b html docs docs/_build/html`.

The build needs no network. It draws the pictures and runs the examples of the gallery.
"""

import re
import sys
from pathlib import Path

import torch

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))

torch.set_num_threads(1)  # the models are small, and the other cores may be busy

project = "tv_mixaug"
author = "The tv_mixaug authors"
copyright = "the tv_mixaug authors"
extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
    "sphinx_copybutton",
    "sphinx_gallery.gen_gallery",
]
exclude_patterns = ["_build", "examples", "benchmarks/results"]
myst_enable_extensions = ["colon_fence", "deflist"]
myst_heading_anchors = 3

html_theme = "furo"
html_theme_options = {
    "light_css_variables": {"color-brand-primary": "#b3205d", "color-brand-content": "#a01c53"},
    "dark_css_variables": {"color-brand-primary": "#f28ab8", "color-brand-content": "#f28ab8"},
}
html_title = "tv_mixaug"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_copy_source = False

default_role = "code"  # `name` in a docstring is code
maximum_signature_line_length = 80  # longer signatures have one argument on each line
autodoc_member_order = "bysource"
autodoc_typehints = "description"
autodoc_typehints_description_target = "documented"
autodoc_default_options = {"show-inheritance": True}
napoleon_google_docstring = True
napoleon_numpy_docstring = False

copybutton_prompt_text = r">>> |\.\.\. |\$ "
copybutton_prompt_is_regexp = True

sphinx_gallery_conf = {
    "examples_dirs": "examples",
    "gallery_dirs": "gallery",
    "filename_pattern": r"\.py$",
    "within_subsection_order": "FileNameSortKey",
    "remove_config_comments": True,
    "download_all_examples": False,
    "show_signature": False,
    "show_memory": False,
    "capture_repr": (),
    "reset_modules": ("matplotlib",),
}


def skip_fields(app, what, name, obj, skip, options):
    """Skip the fields of named tuples, which their class describes."""
    return skip or type(obj).__name__ == "_tuplegetter"


def draw_pictures(app):
    """Draw the pictures of the guide before the gallery uses one as a thumbnail."""
    import pictures

    pictures.draw_all(HERE / "pictures")


def mend_back_links(app, pagename, templatename, context, doctree):
    """Link source code to its entries; viewcode assumes that all of a file have one prefix."""
    names = app.env.get_domain("py").objects

    def mend(match):
        name, parts = match[1], match[1].split(".")
        ends = ["." + ".".join(parts[i:]) for i in range(1, len(parts))]
        found = (known for end in ends for known in names if known.endswith(end))
        return f'#{name if name in names else next(found, name)}"'

    if pagename.startswith("_modules/tv_mixaug"):
        context["body"] = re.sub(r'#(tv_mixaug\.[\w.]+)"', mend, context["body"])


def setup(app):
    """Connect the functions above to the build."""
    app.connect("autodoc-skip-member", skip_fields)
    app.connect("html-page-context", mend_back_links)
    if Path(app.srcdir) == HERE:  # not for a build of the reference alone
        app.connect("builder-inited", draw_pictures, priority=100)

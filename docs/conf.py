"""Settings of the Sphinx site: `sphinx-build -W -b html docs docs/_build/html`.

Nothing is downloaded: the pictures are drawn, the examples run and the API pages are
written while the site is built.
"""

import importlib
import pkgutil
import sys
from pathlib import Path

import torch

import tv_mixaug

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))

import pictures

torch.set_num_threads(1)  # small nets, and the other core may be busy

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

default_role = "code"  # so that `name` in a docstring is a name
autodoc_member_order = "bysource"
autodoc_typehints = "description"
autodoc_typehints_description_target = "documented"
autodoc_default_options = {"members": True, "show-inheritance": True}
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


def list_modules(package) -> list[str]:
    """Return the public modules of a package, and for one that shows nothing itself, its own."""
    names = []
    for module in pkgutil.iter_modules(package.__path__, package.__name__ + "."):
        inner = importlib.import_module(module.name)
        if module.ispkg and not hasattr(inner, "__all__"):
            names += list_modules(inner)
        elif not module.name.rpartition(".")[2].startswith("_"):
            names.append(module.name)
    return names


def write_api_pages() -> None:
    """Write one page for each public module, so that a new module cannot be forgotten."""
    folder = HERE / "api" / "generated"
    folder.mkdir(parents=True, exist_ok=True)
    names = [name.removeprefix("tv_mixaug.") for name in list_modules(tv_mixaug)]
    # What is public of these two is shown as functional, and one page must link to one source.
    names = [name for name in names if name not in ("kernels", "execute")]
    for old in folder.glob("*.md"):
        if old.stem not in names:
            old.unlink()
    for name in names:
        page = f"# {name}\n\n```{{eval-rst}}\n.. automodule:: tv_mixaug.{name}\n```\n"
        path = folder / f"{name}.md"
        if not path.exists() or path.read_text() != page:
            path.write_text(page)


def skip_fields(app, what, name, obj, skip, options):
    """Skip the fields of named tuples: their class describes them."""
    return skip or type(obj).__name__ == "_tuplegetter"


def setup(app):
    """Add the project's own hook."""
    app.connect("autodoc-skip-member", skip_fields)


write_api_pages()
pictures.draw_all(HERE / "pictures")

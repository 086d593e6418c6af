"""How Sphinx makes the site: `python -m sphinx -W -b html docs docs/_build`."""

import sys
from pathlib import Path

from ray_kmeans import __version__

sys.path.insert(0, str(Path(__file__).parent / "_extensions"))

project = "ray_kmeans"
author = "ray_kmeans developers"
copyright = author
release = version = __version__

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "numpydoc",
    "sphinx_copybutton",
    "repository_pages",
]
exclude_patterns = ["_build", "_extensions"]
nitpicky = False  # types in docstrings are words for people
myst_enable_extensions = ["colon_fence"]
myst_heading_anchors = 4  # links name headings as GitHub does

autodoc_member_order = "bysource"
toc_object_entries_show_parents = "hide"
autodoc_typehints = "none"  # the docstrings have them
numpydoc_show_class_members = False  # autodoc shows them

html_theme = "pydata_sphinx_theme"
html_title = f"ray_kmeans {version}"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_show_sourcelink = False
html_copy_source = False
html_theme_options = {
    "navbar_align": "left",
    "header_links_before_dropdown": 7,
    "navigation_with_keys": False,
    "show_toc_level": 2,
    "footer_start": ["copyright"],
    "footer_end": ["theme-version"],
}
copybutton_prompt_text = r">>> |\.\.\. |\$ "
copybutton_prompt_is_regexp = True

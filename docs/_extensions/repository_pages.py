"""Puts into the site what the repository says already: README, results, docstrings, help texts.

Three fences of a page are replaced before it is parsed, so that nothing is written twice:

    :::{mirror} PATH         the text of a Markdown file, without its title
    :::{docstring} PATH      the docstring of a module
    :::{commands}            the help text of every command

Links of a page that lead out of `docs/` lead to the page that mirrors the file, or download it.
"""

from __future__ import annotations

import ast
import io
import os
import re
from contextlib import redirect_stdout, suppress
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
"""Folder of the repository."""
DOCS = ROOT / "docs"
"""Folder of the pages."""
MIRRORS = {
    "README.md": "index.md",
    "CHANGELOG.md": "changelog.md",
    "CONTRIBUTING.md": "contributing.md",
    "SECURITY.md": "guides/security.md",
    "benchmarks/RESULTS.md": "benchmarks.md",
    "benchmarks/cpu-all.md": "benchmarks/cpu-all.md",
    "benchmarks/scaling.md": "benchmarks/scaling.md",
    "cluster_configs": "clusters.md",
}
"""Pages of the site that show a file or folder of the repository, by its path there."""
FENCE = re.compile(r"^:::\{(mirror|docstring|commands)\} ?(\S*)\n:::$", re.MULTILINE)
"""A fence to replace; groups: what it is replaced with, and the path of a file, if it takes one."""
LINK = re.compile(r"\]\(([^)\s:#]+)(#[^)\s]*)?\)")
"""A link to a file; groups: its path, and the heading."""


def setup(app: Any) -> dict[str, bool]:
    """Register the extension with Sphinx."""
    app.connect("source-read", expand)
    return {"parallel_read_safe": True}


def expand(app: Any, name: str, source: list[str]) -> None:
    """Replace the fences and the links of one page, in place."""
    folder = (DOCS / name).parent

    def replacement(fence: re.Match[str]) -> str:
        kind, path = fence.groups()
        if kind == "commands":
            return help_texts()
        file = (folder / path).resolve()
        app.env.note_dependency(str(file))
        return mirrored(file, folder) if kind == "mirror" else docstring_of(file)

    source[0] = relinked(FENCE.sub(replacement, source[0]), folder, folder)


def mirrored(file: Path, folder: Path) -> str:
    """Return the text of a Markdown file without its title, with links relative to `folder`."""
    text = re.sub(r"\A# .*\n", "", file.read_text())
    return relinked(text, file.parent, folder)


def relinked(text: str, origin: Path, folder: Path) -> str:
    """Return a text whose links are relative to `origin` with links relative to `folder`."""

    def replacement(link: re.Match[str]) -> str:
        path = (origin / link[1]).resolve()
        shown = MIRRORS.get(os.path.relpath(path, ROOT))
        target = os.path.relpath(DOCS / shown if shown else path, folder)
        return f"]({target}{link[2] or ''})"

    return LINK.sub(replacement, text)


def docstring_of(file: Path) -> str:
    """Return the docstring of a module as Markdown, without its first line."""
    docstring = ast.get_docstring(ast.parse(file.read_text())) or ""
    paragraphs = docstring.split("\n\n")[1:]
    return "\n\n".join(f"```text\n{p}\n```" if is_layout(p) else p for p in paragraphs)


def is_layout(paragraph: str) -> bool:
    """Return whether a paragraph shows folders and files, one a line with what it is."""
    return all(re.match(r"\S*/", line) for line in paragraph.splitlines())


def help_texts() -> str:
    """Return a section for each command, with its help text for a terminal of 80 columns."""
    from ray_kmeans import cli

    os.environ["COLUMNS"] = "80"
    sections = []
    for command in cli.COMMANDS:
        shown = io.StringIO()
        with redirect_stdout(shown), suppress(SystemExit):
            cli.main([command, "--help"])
        plain = re.sub(r"\x1b\[[0-9;]*m", "", shown.getvalue())
        sections.append(f"## {command}\n\n```text\n{plain.strip()}\n```")
    return "\n\n".join(sections)

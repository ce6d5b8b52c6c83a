"""Hook of mkdocs: files of the repository as pages, and links that work on GitHub and on the site alike.

A page's links lead to files of the repository, relative to the page's own file. The site has a page for some of these
files; any other file that a page links to is copied into the site as it is.
"""

import os
import re
from pathlib import Path, PurePosixPath

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parents[2]
PAGES = {
    "README.md": "index.md",
    "CONTRIBUTING.md": "contributing.md",
    "ARCHITECTURE.md": "architecture.md",
    "CHANGELOG.md": "changelog.md",
    "SECURITY.md": "security.md",
}
"""Files of the repository outside docs that are pages of the site."""
PLACES = {
    "params.yaml": "reference/parameters.md",
    "pipelines/studies": "studies.md",
    "scm/jvp": "reference/jvp.md",
    "scm/objectives": "reference/objectives.md",
}
"""Further files and folders, and the page that says what they hold."""
ROOMS = {
    "trigflow": ("scm.trigflow",),
    "jvp": ("scm.jvp",),
    "networks": ("scm.networks",),
    "objectives": (
        "scm.objectives.protocol",
        "scm.objectives.consistency",
        "scm.objectives.diffusion",
        "scm.objectives.distillation",
    ),
    "samplers": ("scm.samplers",),
    "ema": ("scm.ema.profiles", "scm.ema.tracker", "scm.ema.reconstruct"),
}
"""Pages of the Python reference, and the modules that each shows."""
LINK = re.compile(r"(\]\()([^)\s#:]+)(#[^)\s]*)?\)")
FENCE = re.compile(r"^( *```.*?^ *```[^\S\n]*$)", re.MULTILINE | re.DOTALL)
ITEM = re.compile(r" *(?:[-*]|\d+[.]) +(?=\S)")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    for source, page in PAGES.items():
        files.append(File.generated(config, page, abs_src_path=str(ROOT / source)))
    for room, modules in ROOMS.items():
        files.append(File.generated(config, f"reference/{room}.md", content=python_reference(room, modules)))
    return files


def python_reference(room: str, modules: tuple[str, ...]) -> str:
    """A page that mkdocstrings fills; the heading of a single module is the page's own."""
    if len(modules) == 1:
        return f"::: {modules[0]}\n    options: {{heading_level: 1}}\n"
    return f"# scm.{room}\n" + "".join(f"\n::: {module}\n" for module in modules)


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Lays out lists for Python's Markdown, and turns links from places in the repository into places in the site."""
    source, own = place_of(page.file.src_uri), PurePosixPath(page.file.src_uri)

    def turned(link: re.Match[str]) -> str:
        opening, target, anchor = link[1], link[2], link[3] or ""
        there = os.path.normpath(source.parent / target).replace(os.sep, "/")
        place = site_place(there, config, files)
        return f"{opening}{os.path.relpath(place, own.parent).replace(os.sep, '/')}{anchor})"

    parts = FENCE.split(indented(markdown))
    return "".join(part if FENCE.match(part) else LINK.sub(turned, part) for part in parts)


def indented(markdown: str) -> str:
    """Indents what belongs to an item of a list by four spaces, and puts an empty line before a list.

    GitHub indents it by the width of the item's mark, as CommonMark says; Python's Markdown counts in fours.
    """
    lines: list[str] = []
    offsets: list[int] = []  # columns at which the texts of the open items begin
    fenced = False
    for line in markdown.splitlines():
        indent, item = len(line) - len(line.lstrip()), ITEM.match(line)
        if line.strip() and not fenced:
            offsets = [offset for offset in offsets if offset <= indent]
        depth = len([offset for offset in offsets if offset <= indent])
        start = offsets[depth - 1] if depth else 0
        fenced ^= line.lstrip().startswith("```")
        if item and not fenced:
            if not depth and lines and lines[-1].strip() and not within(lines):
                lines.append("")
            offsets.append(item.end())
        lines.append(f"{'    ' * depth}{line[start:]}" if line.strip() else "")
    return "\n".join(lines)


def within(lines: list[str]) -> bool:
    """True if the last paragraph belongs to a list."""
    for line in reversed(lines):
        if not line.strip():
            return False
        if ITEM.match(line):
            return True
    return False


def place_of(page: str) -> PurePosixPath:
    """Where a page's text lies in the repository; generated pages link as if they lay in docs."""
    return PurePosixPath(next((source for source, name in PAGES.items() if name == page), f"docs/{page}"))


def site_place(there: str, config: MkDocsConfig, files: Files) -> str:
    """The place in the site of a file of the repository."""
    known = {**PAGES, **PLACES}
    if there in known:
        return known[there]
    if there.startswith("docs/"):
        return there.removeprefix("docs/")
    if not (ROOT / there).is_file():
        raise PluginError(f"a page links to {there}, which is no file; add it to PLACES in docs/site/pages.py")
    if files.get_file_from_path(there) is None:
        files.append(File.generated(config, there, abs_src_path=str(ROOT / there)))
    return there

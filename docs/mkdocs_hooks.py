"""Hooks of ``make docs``: pages from the repository's root, and links that work in the site."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).parent.parent
ROOT_PAGES = {
    "README.md": "index.md",
    "README.zh-CN.md": "zh-CN.md",
    "CHANGELOG.md": "CHANGELOG.md",
    "CONTRIBUTING.md": "CONTRIBUTING.md",
    "SECURITY.md": "SECURITY.md",
}
_LINK = re.compile(r"\[([^\]]*)\]\(([^)#:]+)(#[^)]*)?\)")


def on_files(files: Files, config: Any) -> Files:
    """Add the pages of the root folder, so that the site has them without copies in ``docs``."""
    for source, target in ROOT_PAGES.items():
        files.append(File.generated(config, target, content=_in_site((ROOT / source).read_text(), ROOT)))
    return files


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Replace links out of ``docs``."""
    return _in_site(markdown, ROOT / "docs")


def _in_site(markdown: str, folder: Path) -> str:
    """Point links to root pages at their copies, and turn links to source files into their names."""

    def replace(match: re.Match[str]) -> str:
        text, target, anchor = match[1], match[2], match[3] or ""
        path = (folder / target).resolve()
        if path.parent == ROOT and path.name in ROOT_PAGES:
            return f"[{text}]({ROOT_PAGES[path.name]}{anchor})"
        if path.is_relative_to(ROOT / "docs"):
            return f"[{text}]({path.relative_to(ROOT / 'docs').as_posix()}{anchor})"
        if not path.exists():
            return match[0]
        name = path.relative_to(ROOT).as_posix()
        return f"`{name}`" if text.strip("`") in {name, path.name} else f"{text} (`{name}`)"

    return _LINK.sub(replace, markdown)

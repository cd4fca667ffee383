"""Files of the repository's root that the site shows, too; links to them work in both places."""

from __future__ import annotations

import re
from pathlib import Path

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parent.parent
PAGES = {"CHANGELOG.md": "changelog.md", "CONTRIBUTING.md": "contributing.md"}


def on_files(files: Files, config) -> Files:
    """Add the root's pages, and results/ as measured/."""
    for name, page in PAGES.items():
        files.append(File.generated(config, page, abs_src_path=str(ROOT / name)))
    for path in sorted((ROOT / "results").iterdir()):
        page = f"measured/{path.name.replace('README', 'index')}"
        files.append(File.generated(config, page, abs_src_path=str(path)))
    return files


def on_page_markdown(markdown: str, page, config, files) -> str:
    """Let links lead to where the site has these files."""
    up = "../" if page.file.src_uri.startswith("measured/") else ""
    for name, target in PAGES.items():
        markdown = re.sub(rf"\]\((\.\./)?{re.escape(name)}", f"]({up}{target}", markdown)
    markdown = markdown.replace("](docs/", "](").replace("](results/", "](measured/")
    return markdown.replace("](../results/README.md", "](measured/index.md").replace(
        "](../results/", "](measured/"
    )

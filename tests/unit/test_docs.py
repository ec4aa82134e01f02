"""What the documents say must be so: every setting and every hook is in them, links lead somewhere."""

from __future__ import annotations

import dataclasses
import inspect
import re
from pathlib import Path

import pytest

import rmq_redis
from rmq_redis import hookspecs
from rmq_redis.config import BrokerConfig, ClientConfig, NameServerConfig, env_name

ROOT = Path(__file__).parent.parent.parent
DOCUMENTS = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("plugins/*.md")])


@pytest.mark.parametrize("config", [NameServerConfig, BrokerConfig, ClientConfig])
def test_every_setting_is_documented_with_its_variable_default_and_help(config: type) -> None:
    text = (ROOT / "docs/configuration.md").read_text()
    for field in dataclasses.fields(config):
        default = str(field.default).lower() if isinstance(field.default, bool) else str(field.default)
        shown = f"`{default}`" if default else "–"
        assert f"| `{field.name}` | `{env_name(field.name)}` | {shown} | {field.metadata['help']} |" in text


def test_every_documented_setting_exists() -> None:
    known = {f.name for c in (NameServerConfig, BrokerConfig, ClientConfig) for f in dataclasses.fields(c)}
    text = (ROOT / "docs/configuration.md").read_text()
    assert set(re.findall(r"^\| `([a-z_]+)` \|", text, re.MULTILINE)) == known


def test_every_hook_is_documented() -> None:
    text = "".join(path.read_text() for path in DOCUMENTS)
    hooks = [name for name in vars(hookspecs) if name.startswith(("register_", "role_"))]
    assert hooks
    assert [name for name in hooks if name not in text] == []


def test_every_public_name_has_a_docstring() -> None:
    silent: list[str] = []
    for name in rmq_redis.__all__:
        value = getattr(rmq_redis, name)
        if inspect.isclass(value):
            members = {f"{name}.{member}": of for member, of in vars(value).items() if not member.startswith("_")}
            silent += [name] if not vars(value).get("__doc__") else []
            silent += [
                member
                for member, of in members.items()
                if (inspect.isfunction(of) or isinstance(of, property)) and not inspect.getdoc(of)
            ]
        elif callable(value) and not inspect.getdoc(value):
            silent.append(name)
    assert silent == []


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_links_point_to_existing_files(document: Path) -> None:
    targets = re.findall(r"\]\(([^)#:]+)\)", document.read_text())
    assert [target for target in targets if not (document.parent / target).exists()] == []


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_anchors_point_to_existing_headings(document: Path) -> None:
    links = re.findall(r"\]\(([^)#:]*)#([^)]+)\)", document.read_text())
    pages = {target: document.parent / target if target else document for target, _ in links}
    assert [link for link in links if link[1] not in headings(pages[link[0]])] == []


def headings(page: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub and the site make them."""
    titles = re.findall(r"^#+ (.*)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


def test_site_navigation_has_every_page() -> None:
    navigation = (ROOT / "mkdocs.yml").read_text().partition("\nnav:\n")[2]
    assert [page.name for page in ROOT.glob("docs/*.md") if page.name not in navigation] == []


def test_both_readmes_and_ci_have_the_same_commands() -> None:
    commands = [re.findall(r"^python3 -m venv .*$", (ROOT / name).read_text(), re.MULTILINE) for name in READMES]
    assert commands[0] == commands[1]
    assert len(commands[0]) == 2
    pytest_part = commands[0][1].partition("python -m ")[2]
    assert pytest_part in (ROOT / ".ci/run").read_text()


@pytest.mark.parametrize("name", ["README.md", "README.zh-CN.md"])
def test_readme_links_to_every_page(name: str) -> None:
    text = (ROOT / name).read_text()
    assert [page.name for page in ROOT.glob("docs/*.md") if f"(docs/{page.name})" not in text] == []


READMES = ("README.md", "README.zh-CN.md")

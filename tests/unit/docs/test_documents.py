"""The documentation against the code: links lead somewhere, commands and options exist, every page is in the index."""

from __future__ import annotations

import pathlib
import re
import shlex

import pytest
import typer

from milliner.cli import main
from milliner.contract import documents

ROOT = pathlib.Path(__file__).parents[3]
PAGES = sorted([ROOT / "README.md", ROOT / "CHANGELOG.md", *(ROOT / "docs").rglob("*.md")])
LINK = re.compile(r"\]\(([^)#\s]+)[^)]*\)")


def commands(page: pathlib.Path) -> list[list[str]]:
    """The words after `milliner` of every such line in the page's code blocks, without comments."""
    found = []
    for block in re.findall(r"^```\w*\n(.*?)^```", page.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE):
        for line in block.replace("\\\n", " ").splitlines():
            words = shlex.split(line, comments=True) if re.match(r"(\.venv/bin/)?milliner ", line.strip()) else []
            if words:
                found.append(words[1:])
    return found


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: pathlib.Path) -> None:
    links = [link for link in LINK.findall(page.read_text(encoding="utf-8")) if "://" not in link]
    missing = [link for link in links if not (page.parent / link).exists()]
    assert not missing


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_commands_exist_with_their_options(page: pathlib.Path) -> None:
    for words in commands(page):
        command = typer.main.get_command(main.app)
        context = typer.Context(command)
        while words and hasattr(command, "get_command") and not words[0].startswith("-"):
            found = command.get_command(context, words[0])
            assert found is not None, f"{page.name} names milliner {words[0]}"
            command, words = found, words[1:]
        known = {option for parameter in command.params for option in parameter.opts}
        used = {word.partition("=")[0] for word in words if re.match(r"--?[a-zA-Z]", word)}
        assert used <= known, f"{page.name}: {command.name} has no {used - known}"


def test_the_readme_shows_commands() -> None:
    assert {words[0] for words in commands(ROOT / "README.md")} >= {"up", "generate", "chat", "bench", "train-adapter"}


def test_every_page_is_in_the_index() -> None:
    index = (ROOT / "docs" / "README.md").read_text(encoding="utf-8")
    pages = {page.name for page in (ROOT / "docs").glob("*.md")} - {"README.md"}
    assert pages <= set(LINK.findall(index))


def test_every_decision_is_in_the_index() -> None:
    index = (ROOT / "docs" / "README.md").read_text(encoding="utf-8")
    decisions = {f"decisions/{page.name}" for page in (ROOT / "docs" / "decisions").glob("*.md")}
    assert decisions <= set(LINK.findall(index))


def test_no_topology_field_that_the_readme_shows_is_unknown() -> None:
    blocks = re.findall(
        r"^```yaml\n(.*?)^```", (ROOT / "README.md").read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE
    )
    assert blocks
    for block in blocks:
        assert documents.parse_topologies(block, origin="README.md")


def anchors(page: pathlib.Path) -> set[str]:
    """The page's headings as GitHub links to them."""
    titles = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_anchors_exist(page: pathlib.Path) -> None:
    links = re.findall(r"\]\(([^)#\s]*)#([^)\s]+)\)", page.read_text(encoding="utf-8"))
    inside = [(page.parent / link if link else page, anchor) for link, anchor in links if "://" not in link]
    assert [(target.name, anchor) for target, anchor in inside if anchor not in anchors(target)] == []


SOURCES = sorted(
    path for folder in ("services", "operator", "tests") for path in (ROOT / folder).rglob("*.py") if path.is_file()
)


def test_documents_that_the_code_cites_exist() -> None:
    cited = {
        (str(source.relative_to(ROOT)), name)
        for source in SOURCES
        for name in re.findall(r"docs/[\w/-]+\.md", source.read_text(encoding="utf-8"))
    }
    assert ("services/milliner/strategies/chunking.py", "docs/algorithms.md") in cited
    assert [(source, name) for source, name in sorted(cited) if not (ROOT / name).is_file()] == []


def defined(reference: str) -> bool:
    """Whether `package.module.name` is a module under `milliner`, or a name that it defines."""
    parts = reference.split(".")
    for length in range(len(parts), 0, -1):
        module = ROOT.joinpath("services", "milliner", *parts[:length])
        name = parts[length] if length < len(parts) else ""
        file = module.with_suffix(".py") if module.with_suffix(".py").is_file() else module / "__init__.py"
        if file.is_file():
            text = file.read_text(encoding="utf-8")
            return not name or bool(re.search(rf"^\s*(class |def |async def )?{name}\b", text, flags=re.MULTILINE))
    return False


def dotted_names(page: pathlib.Path) -> set[str]:
    """`package.module` and `package.module.name` in backticks, fields of the topology and names of files left out."""
    packages = {path.parent.name for path in (ROOT / "services" / "milliner").glob("*/__init__.py")}
    quoted = set(re.findall(r"`(?:milliner\.)?(\w+(?:\.\w+)+)`", page.read_text(encoding="utf-8")))
    fields = (ROOT / "docs" / "topology.md").read_text(encoding="utf-8")
    return {
        name
        for name in quoted
        if name.split(".")[0] in packages
        and name not in fields
        and not re.search(r"\b[a-z]+[A-Z]|\.(py|proto|safetensors)$", name)
    }


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_code_that_a_page_names_exists(page: pathlib.Path) -> None:
    assert {name for name in dotted_names(page) if not defined(name)} == set()
    quoted = set(re.findall(r"`([^`\n]+)`", page.read_text(encoding="utf-8")))
    files = {word for word in quoted if re.fullmatch(r"[\w-]+(/[\w.-]+)+\.(py|proto|yaml|toml|html|json)", word)}
    roots = (ROOT, ROOT / "services" / "milliner", ROOT / "services")
    assert {name for name in files if not any((root / name).exists() for root in roots)} == set()


def test_names_of_code_are_found() -> None:
    assert "strategies.hat.controller" in dotted_names(ROOT / "docs" / "algorithms.md")
    assert defined("engine.scheduler.SchedulingPolicy")
    assert not defined("engine.scheduler.Nothing")
    assert not defined("engine.nothing")

"""What pages point at exists: links and their anchors, paths, make targets, commands, test directories."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import typer
from pages import ROOT, anchor, blocks, headings, markdown_pages, prose
from typer.main import get_command

from skulk.cli.main import GROUPS, VERBS, app

PAGES = markdown_pages()
_LINK = re.compile(r"(?<!!)\[[^\]]+\]\((?P<target>[^)\s]+)\)")
_PATH = re.compile(r"`((?:skulk|tests|docs|fleet|cards|schemas|benchmarks)/[\w./*-]*|\.ci/run|\.importlinter)`")
_MAKE = re.compile(r"^\s*make ([a-z]+)", re.MULTILINE)
# Verbs that pages mention as not there yet.
PLANNED = frozenset({"simulate", "place"})


def name_of(page: Path) -> str:
    return str(page.relative_to(ROOT))


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_links_lead_somewhere(page: Path) -> None:
    broken = []
    for match in _LINK.finditer(prose(page)):
        path, _, fragment = match["target"].partition("#")
        if re.match(r"[a-z]+:", path):
            continue
        target = (page.parent / path).resolve() if path else page
        if not target.exists() or (fragment and fragment not in map(anchor, headings(target))):
            broken.append(match["target"])
    assert broken == []


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_paths_that_are_named_exist(page: Path) -> None:
    assert [path for path in _PATH.findall(prose(page)) if not any(ROOT.glob(path.rstrip("/")))] == []


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_no_fence_is_left_open(page: Path) -> None:
    assert page.read_text("utf-8").count("\n```") % 2 == (1 if page.read_text("utf-8").startswith("```") else 0)


def test_every_page_is_reached_from_the_readme() -> None:
    reached, todo = set(), [ROOT / "README.md"]
    while todo:
        page = todo.pop()
        if page in reached or page.suffix != ".md":
            continue
        reached.add(page)
        for match in _LINK.finditer(prose(page)):
            path = match["target"].partition("#")[0]
            if path and not re.match(r"[a-z]+:", path):
                todo.append((page.parent / path).resolve())
    assert set(PAGES) - reached == set()


# --- commands -----------------------------------------------------------------------------------------------


def targets() -> set[str]:
    return set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE))


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_make_targets_exist(page: Path) -> None:
    fenced = "\n".join(block.text for block in blocks(page) if block.language in ("sh", "console"))
    inline = "\n".join(re.findall(r"`(make [^`]+)`", prose(page)))
    assert set(_MAKE.findall(f"{fenced}\n{inline}")) - targets() == set()


def test_every_target_with_help_is_documented() -> None:
    helped = re.findall(r"^([a-z]+):.*##", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE)
    text = (ROOT / "docs" / "development.md").read_text("utf-8")
    assert [target for target in helped if target != "help" and f"| `make {target}` |" not in text] == []


def in_shell_blocks(page: Path) -> set[str]:
    """Every `skulk …` of a shell block, without what the shell does with it."""
    found: set[str] = set()
    for block in blocks(page):
        if block.language in ("sh", "console"):
            for line in re.sub(r"\\\n\s*", " ", block.text).splitlines():
                found |= set(re.findall(r"(?:^|[;&|] ?|until )(skulk [^;&|>#]+)", line))
    return found


def in_prose(page: Path) -> set[str]:
    return set(re.findall(r"`(skulk [a-z][^`]*)`", prose(page)))


def found_by(find: Callable[[Path], set[str]]) -> list[Any]:
    return [pytest.param(line, id=f"{page.name}: {line}") for page in PAGES for line in sorted(find(page))]


def parsed(line: str) -> tuple[Any, Any, list[str]]:
    """(command, its context, the words after its name)"""
    words = shlex.split(re.sub(r"\$\([^)]*\)", "0" * 40, line.replace("…", "")))[1:]
    command: Any = get_command(app)
    context = typer.Context(command, info_name="skulk")
    while hasattr(command, "commands") and words:
        name = words.pop(0)
        assert name in command.commands, f"there is no verb {name}"
        command = command.commands[name]
        context = typer.Context(command, info_name="skulk", parent=context)
    return command, context, words


@pytest.mark.parametrize("line", found_by(in_shell_blocks))
def test_the_program_takes_every_command(line: str) -> None:
    command, context, words = parsed(line)
    command.parse_args(context, words)


@pytest.mark.parametrize("line", found_by(in_prose))
def test_the_program_has_the_verbs_and_options_that_prose_names(line: str) -> None:
    if line.split()[1] in PLANNED:
        return
    ours = line.partition("\\|")[0].replace("run|stop|probe|add|key|sign", "run")
    command, _, words = parsed(ours)
    options = {option for parameter in command.params for option in parameter.opts}
    assert {word.partition("=")[0] for word in words if word.startswith("-")} <= options


def test_verbs_that_are_planned_are_not_there_yet() -> None:
    assert {name for name, _, _ in VERBS} & PLANNED == set(), "say so in docs/architecture.md and README.md"


def simple_commands(text: str) -> set[str]:
    """The commands of a block, one by one, without comments, deadlines and what differs by the directory."""
    lines = re.sub(r" +#.*| --timeout \w+|\.\./(?=node\.toml)", "", text).replace("*.bak", "fox-tiny.yaml.bak")
    parts = re.split(r"\n| && ", re.sub(r" --temperature 0\b", "", lines))
    return {part.strip() for part in parts if part.strip()}


def test_the_readme_begins_with_the_two_commands() -> None:
    first = next(block.text for block in blocks(ROOT / "README.md") if block.language == "sh")
    assert [line.split("#")[0].strip() for line in first.splitlines()] == ["make demo", "make test"]


def test_the_first_ten_minutes_of_the_readme_are_the_quick_start() -> None:
    """The quick start is run by a test; whatever the README shows of it is therefore run as well."""
    shown = [block.text for block in blocks(ROOT / "README.md") if block.language == "sh"][1]
    run = "\n".join(block.text for block in blocks(ROOT / "docs" / "quickstart.md") if block.language == "console")
    assert simple_commands(shown) - simple_commands(run) == set()


# --- lists --------------------------------------------------------------------------------------------------


def test_every_test_directory_is_described() -> None:
    text = (ROOT / "docs" / "development.md").read_text("utf-8")
    there = {path.parent.name for path in (ROOT / "tests").glob("*/test_*.py")}
    assert there - set(re.findall(r"`tests/(\w+)`", text)) == set()


def test_the_changelog_names_every_verb_until_the_first_release() -> None:
    text = (ROOT / "CHANGELOG.md").read_text("utf-8")
    assert "## [Unreleased]" in text
    verbs = [name for name, _, _ in VERBS]
    assert [name for name in verbs if f"`{name}`" not in text] == []
    for group, _, below in GROUPS:
        (listed,) = re.findall(rf"`{group} ([a-z|]+)`", text)
        assert listed.split("|") == [name for name, _, _ in below]

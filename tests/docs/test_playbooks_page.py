"""The page of the playbooks names every variable that a role reads, with its default, and no page names another one."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from pages import REFERENCE, ROOT, headings, markdown_pages, sections

PAGE = REFERENCE / "playbooks.md"
PLAYBOOKS = ROOT / "playbooks"
ROLES = sorted(path.name for path in (PLAYBOOKS / "roles").iterdir() if path.is_dir())
SHARED = "Shared values"
_ROW = re.compile(r"^\| `(?P<name>skulk_\w+)` \| (?P<default>.+?) \| (?P<meaning>.+) \|$", re.MULTILINE)


def read(path: Path) -> dict[str, Any]:
    return dict(yaml.safe_load(path.read_text("utf-8")) or {}) if path.is_file() else {}


def defaults(section: str) -> dict[str, Any]:
    """What can be set: the shared values, or the defaults of a role."""
    if section == SHARED:
        return read(PLAYBOOKS / "group_vars" / "all.yml")
    return read(PLAYBOOKS / "roles" / section / "defaults" / "main.yml")


def rows(section: str) -> dict[str, tuple[str, str]]:
    """Variable → (default, meaning), as the page has them. The shared values' table is below a heading of depth 2."""
    text = sections(PAGE, depth=2 if section == SHARED else 3)[section]
    found = [(match["name"], (match["default"], match["meaning"])) for match in _ROW.finditer(text)]
    assert len({name for name, _ in found}) == len(found), "a variable has two rows"
    return dict(found)


def shown(value: Any) -> str | None:
    """How the page writes a default; None for one that is worked out on the spot, which it describes in words."""
    if value == "":
        return "empty"
    text = value if isinstance(value, str) else json.dumps(value)
    return None if "{{" in text or (isinstance(value, dict) and value) else f"`{text}`"


@pytest.mark.parametrize("section", [SHARED, *ROLES])
def test_every_variable_has_its_row_and_no_row_is_left_over(section: str) -> None:
    assert set(rows(section)) == set(defaults(section))


@pytest.mark.parametrize("section", [SHARED, *ROLES])
def test_defaults_are_those_of_the_roles(section: str) -> None:
    written = {name: default for name, (default, _) in rows(section).items()}
    wanted = {name: shown(value) for name, value in defaults(section).items()}
    assert {name: written.get(name) for name, text in wanted.items() if text is not None} == {
        name: text for name, text in wanted.items() if text is not None
    }


@pytest.mark.parametrize("role", ROLES)
def test_the_argument_specs_know_what_the_page_lists(role: str) -> None:
    """Ansible refuses what the specification forbids; a variable that it does not know is judged by nobody."""
    specs = read(PLAYBOOKS / "roles" / role / "meta" / "argument_specs.yml")["argument_specs"]
    assert set(specs["main"].get("options", {})) == set(rows(role))


def test_every_role_has_its_heading() -> None:
    assert [text for text in headings(PAGE, 3) if text.startswith("skulk_")] != []
    assert sorted(text for text in headings(PAGE, 3) if text.startswith("skulk_")) == ROLES


def test_every_playbook_is_described() -> None:
    described = re.findall(r"^\| `(\w+)` \|", sections(PAGE, depth=2)["Playbooks of this version"], re.MULTILINE)
    assert sorted(described) == sorted(path.stem for path in PLAYBOOKS.glob("*.yml"))


def test_pages_name_variables_that_exist() -> None:
    known = set().union(*(defaults(section) for section in (SHARED, *ROLES)), ROLES)
    of_roles = re.compile(rf"\b(?:{'|'.join(ROLES)})_\w+")
    wrong = [
        f"{page.relative_to(ROOT)}: {name}"
        for page in markdown_pages()
        for name in sorted(set(of_roles.findall(page.read_text("utf-8"))))
        if name not in known
    ]
    assert wrong == []

"""Order that has no exceptions, and can therefore be checked. What needs judgement (size, names) is for review."""

from __future__ import annotations

import ast
import importlib
import re
import subprocess
import tomllib
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SKULK = ROOT / "skulk"

# Larger files do not belong into a repository that every node fetches; models that tests need are below cards/.
FILE_BYTES_MAX = 1024 * 1024
FORBIDDEN_NAMES = frozenset({"utils", "util", "common", "helper", "helpers", "manager", "handler", "misc"})
# Written in pieces, so that this file does not name them itself.
MACHINE_PATHS = tuple("/" + name + "/" for name in ("root", "work"))
DECISIONS = (
    *("planner", "reconcile", "manifests", "dialects", "wire", "formats", "bootstrap"),
    *("memory.py", "routing.py", "webhooks.py"),
)


@cache
def tracked() -> tuple[Path, ...]:
    """Every file of the repository, new ones included, ignored ones not."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, check=True).stdout
    files = (ROOT / name.decode() for name in listed.split(b"\0") if name)
    return tuple(sorted(file for file in files if file.is_file()))


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


def python_files(*folders: str) -> list[Path]:
    return [file for file in tracked() if file.suffix == ".py" and file.relative_to(ROOT).parts[0] in folders]


@cache
def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text("utf-8"))


def module_of(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


# --- modules ------------------------------------------------------------------------------------------------


def test_every_module_says_why_it_exists() -> None:
    assert [name_of(path) for path in python_files("skulk", "benchmarks") if not ast.get_docstring(tree(path))] == []


def test_no_module_has_a_name_that_says_nothing() -> None:
    files = python_files("skulk", "tests", "benchmarks")
    assert [name_of(path) for path in files if FORBIDDEN_NAMES & {*path.relative_to(ROOT).parts, path.stem}] == []


def test_only_the_command_line_prints() -> None:
    found = [
        f"{name_of(path)}:{node.lineno}"
        for path in python_files("skulk")
        if path.relative_to(SKULK).parts[0] != "cli"
        for node in ast.walk(tree(path))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "print"
    ]
    assert found == []


def test_no_except_without_a_type() -> None:
    found = [
        f"{name_of(path)}:{node.lineno}"
        for path in python_files("skulk", "tests", "benchmarks")
        for node in ast.walk(tree(path))
        if isinstance(node, ast.ExceptHandler) and node.type is None
    ]
    assert found == []


def names_of_all(module: ast.Module) -> list[str] | None:
    for node in module.body:
        if isinstance(node, ast.Assign) and any(isinstance(t, ast.Name) and t.id == "__all__" for t in node.targets):
            return list(ast.literal_eval(node.value))
    return None


@pytest.mark.parametrize("path", [p for p in python_files("skulk") if names_of_all(tree(p))], ids=name_of)
def test_public_names_exist_and_are_sorted(path: Path) -> None:
    names = names_of_all(tree(path))
    assert names is not None
    module = importlib.import_module(module_of(path))
    assert [name for name in names if not hasattr(module, name)] == []
    assert len(names) == len(set(names))


# --- tests --------------------------------------------------------------------------------------------------


def imported(path: Path) -> Iterator[str]:
    """Modules that a file imports, those behind the public names of a package included."""
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.module
            for alias in node.names:
                yield f"{node.module}.{alias.name}"
                yield from defining(node.module, alias.name)


def defining(package: str, name: str) -> Iterator[str]:
    """The module in which a package finds one of its public names."""
    init = ROOT / Path(*package.split(".")) / "__init__.py"
    if not init.is_file():
        return
    for node in tree(init).body:
        if isinstance(node, ast.ImportFrom) and node.module and name in {alias.name for alias in node.names}:
            yield node.module


def decisions() -> list[Path]:
    core = SKULK / "core"
    return [
        path
        for path in python_files("skulk")
        if path.is_relative_to(core) and path.relative_to(core).parts[0] in DECISIONS and path.stem != "__init__"
    ]


def test_every_decision_is_reached_by_a_test() -> None:
    """Imported by a test, or by a module that is: parts behind one public function are tested through it."""
    todo = {module for path in python_files("tests") for module in imported(path)}
    reached: set[str] = set()
    while todo:
        module = todo.pop()
        if module in reached:
            continue
        reached.add(module)
        for file in (
            (ROOT / Path(*module.split("."))).with_suffix(".py"),
            ROOT / Path(*module.split("."), "__init__.py"),
        ):
            # Only down from a decision: what the daemon happens to import does not count as tested.
            if file.is_file() and file.is_relative_to(SKULK / "core"):
                todo |= set(imported(file)) - reached
    assert [name_of(path) for path in decisions() if module_of(path) not in reached] == []


# --- files --------------------------------------------------------------------------------------------------


def test_no_file_is_large() -> None:
    large = [path for path in tracked() if path.stat().st_size > FILE_BYTES_MAX]
    assert [name_of(path) for path in large if path.relative_to(ROOT).parts[0] != "cards"] == []


def test_no_file_knows_the_machine_it_was_written_on() -> None:
    found = []
    for path in tracked():
        data = path.read_bytes()
        if b"\0" in data or path.name == "uv.lock":
            continue
        text = data.decode("utf-8")
        found += [
            f"{name_of(path)}: {machine}" for machine in MACHINE_PATHS if re.search(rf"(?<![\w.~}}]){machine}", text)
        ]
    assert found == []


def test_text_files_end_with_one_newline_and_use_unix_lines() -> None:
    found = []
    for path in tracked():
        data = path.read_bytes()
        if not data or b"\0" in data or path.relative_to(ROOT).parts[0] == "cards":
            continue
        if b"\r\n" in data or not data.endswith(b"\n"):
            found.append(name_of(path))
    assert found == []


def test_nothing_tracked_is_a_link_out_of_the_repository() -> None:
    links = [path for path in tracked() if path.is_symlink()]
    assert [name_of(path) for path in links if not path.resolve().is_relative_to(ROOT)] == []


# --- packaging ----------------------------------------------------------------------------------------------


def test_an_engine_extra_and_its_dependency_group_are_equal() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
    extras = project["project"]["optional-dependencies"]
    groups = project["dependency-groups"]
    assert set(extras["bootstrap"]) < set(groups["ansible"]), "tests run what operators install"
    # Extras are named as packages are, with hyphens; groups as engines are.
    assert {f"engine-{name.replace('-', '_')}": wanted for name, wanted in extras.items() if name != "bootstrap"} == {
        name: wanted for name, wanted in groups.items() if name.startswith("engine-")
    }


def test_every_engine_group_has_its_exported_requirements() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
    groups = {name.removeprefix("engine-") for name in project["dependency-groups"] if name.startswith("engine-")}
    assert {path.stem for path in (SKULK / "engines" / "requirements").glob("*.txt")} == groups


def test_the_version_is_written_once_and_read_everywhere() -> None:
    import skulk

    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
    assert project["project"]["version"] == skulk.__version__

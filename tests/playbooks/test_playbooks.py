"""What every playbook and role has in common, judged by Ansible, by its linter, and by reading them."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
PLAYBOOKS = ROOT / "playbooks"
ROLES = sorted(path for path in (PLAYBOOKS / "roles").iterdir() if path.is_dir())


def called(role: Path) -> str:
    return role.name


def read(path: Path) -> object:
    return yaml.safe_load(path.read_text()) if path.is_file() else None


def ansible(tmp_path: Path, *command: str) -> subprocess.CompletedProcess[str]:
    bin_ = Path(sys.executable).parent
    own = {name: value for name, value in os.environ.items() if not name.startswith(("SKULK_", "ANSIBLE_"))}
    own |= {
        "ANSIBLE_CONFIG": str(PLAYBOOKS / "ansible.cfg"),
        "ANSIBLE_HOME": str(tmp_path / "ansible"),
        "ANSIBLE_NOCOLOR": "1",
        "LC_ALL": "C.UTF-8",
        "PATH": f"{bin_}:{os.environ['PATH']}",
    }
    return subprocess.run(
        [str(bin_ / command[0]), *command[1:]], cwd=ROOT, env=own, capture_output=True, text=True, check=False
    )


def test_all_four_playbooks_are_there() -> None:
    names = [path.name for path in sorted(PLAYBOOKS.glob("*.yml"))]
    assert names == ["bootstrap.yml", "uninstall.yml", "upgrade.yml", "verify.yml"]


def test_ansible_takes_the_playbooks(tmp_path: Path) -> None:
    playbooks = [str(path) for path in sorted(PLAYBOOKS.glob("*.yml"))]
    done = ansible(tmp_path, "ansible-playbook", "--syntax-check", "--inventory", "localhost,", *playbooks)
    assert done.returncode == 0, done.stdout + done.stderr
    assert all(f"playbook: {playbook}" in done.stdout for playbook in playbooks)


# More than a minute of one core.
@pytest.mark.timeout(600)
def test_the_linter_finds_nothing(tmp_path: Path) -> None:
    done = ansible(tmp_path, "ansible-lint", "--offline", "--profile", "production", "--nocolor", "playbooks")
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("role", ROLES, ids=called)
def test_a_role_describes_exactly_the_variables_that_it_gives_values(role: Path) -> None:
    defaults = read(role / "defaults" / "main.yml")
    specs = read(role / "meta" / "argument_specs.yml")
    assert isinstance(specs, dict), "every role says what it takes"
    main = specs["argument_specs"]["main"]
    assert main["short_description"]
    options = main.get("options", {})
    assert set(options) == set(defaults or {})
    assert [name for name, option in options.items() if not (option.get("type") and option.get("description"))] == []
    for entry, spec in specs["argument_specs"].items():
        assert (role / "tasks" / f"{entry}.yml").is_file(), "an entry point that is not there"
        assert spec["short_description"]


@pytest.mark.parametrize("role", ROLES, ids=called)
def test_variables_of_a_role_bear_its_name(role: Path) -> None:
    for kind in ("defaults", "vars"):
        variables = read(role / kind / "main.yml") or {}
        assert isinstance(variables, dict)
        assert [name for name in variables if not name.lstrip("_").startswith(f"{role.name}_")] == []


def task_files() -> Iterator[Path]:
    for role in ROLES:
        yield from sorted(path for kind in ("tasks", "handlers") for path in (role / kind).glob("*.yml"))
    yield from sorted(PLAYBOOKS.glob("*.yml"))


def tasks(entries: object) -> Iterator[dict[str, object]]:
    for entry in entries if isinstance(entries, list) else ():
        if "hosts" not in entry and not {"block", "rescue", "always"} & entry.keys():
            yield entry
        for inner in ("block", "rescue", "always", "tasks", "pre_tasks", "post_tasks", "handlers"):
            yield from tasks(entry.get(inner))


@pytest.mark.parametrize("path", list(task_files()), ids=lambda path: str(path.relative_to(PLAYBOOKS)))
def test_only_builtin_modules_are_called_by_their_full_names(path: Path) -> None:
    """What comes with ansible-core is there for everybody; a collection would have to be installed first."""
    for task in tasks(read(path)):
        assert task.get("name"), "the picture of a run shows names"
        modules = [key for key in task if key.startswith("ansible.builtin.")]
        assert len(modules) == 1, f"{task['name']}: {sorted(task)}"
        assert not [key for key in task if "." in key and key not in modules]


def test_the_scripts_that_machines_run_are_for_any_sh() -> None:
    for path in sorted(PLAYBOOKS.rglob("*.sh")):
        subprocess.run(["sh", "-n", path], check=True)
        assert "[[" not in path.read_text()
    assert os.access(PLAYBOOKS / "inventory" / "fleet", os.X_OK)

"""Every configuration that the role skulk_logging can write, rendered once by Ansible itself."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from variants import ENDPOINT, NODE, ROLE, ROOT, SYSTEMS, VARIANTS, Variant


def _template(name: str, **variables: object) -> str:
    """An expression that gives the text of a template; made by the controller, so that it costs no task."""
    return f"{{{{ lookup('template', {str(ROLE / 'templates' / name)!r}, template_vars={variables!r}) }}}}"


def _of(variant: Variant) -> str:
    return _template(
        f"{variant.shipper}.yaml.j2",
        skulk_logging_shipper=variant.shipper,
        skulk_logging_sink=variant.sink,
        skulk_logging_authenticated=variant.token,
        skulk_logging_endpoint=ENDPOINT,
        skulk_logging_node=NODE,
    )


def _tasks(folder: Path) -> Iterator[dict[str, Any]]:
    yield {"name": "System", "ansible.builtin.set_fact": {"system": "{{ inventory_hostname }}", "cacheable": True}}
    for system in SYSTEMS:
        texts = {f"{variant}.yaml": _of(variant) for variant in VARIANTS if variant.system == system}
        texts |= {"journald.conf": _template("journald.conf.j2")} if system == "Linux" else {}
        yield {
            "name": f"Render what {system} gets",
            "ansible.builtin.copy": {"content": "{{ texts | to_json }}", "dest": str(folder / f"{system}.json")},
            "vars": {"texts": texts},
            "when": f"inventory_hostname == '{system}'",
        }


@pytest.fixture(scope="session")
def rendered(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("rendered")
    variables = [str(ROLE / part / "main.yml") for part in ("defaults", "vars")]
    play = {"hosts": "all", "gather_facts": False, "vars_files": variables, "tasks": [*_tasks(folder)]}
    (folder / "render.yml").write_text(json.dumps([play]))
    local = {"ansible_connection": "local", "ansible_python_interpreter": sys.executable}
    (folder / "hosts.json").write_text(json.dumps({"all": {"hosts": dict.fromkeys(SYSTEMS, local)}}))
    (folder / "ansible.cfg").write_text(
        f"[defaults]\nhome = {folder}\nlocal_tmp = {folder}/tmp\nremote_tmp = {folder}/tmp\n"
    )
    program = Path(sys.executable).with_name("ansible-playbook")
    command = [program, "-i", "hosts.json", "render.yml"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]
    for system in SYSTEMS:
        for name, text in json.loads((folder / f"{system}.json").read_text("utf-8")).items():
            (folder / name).write_text(text, "utf-8")
    return folder


@pytest.fixture
def documented() -> dict[str, list[str]]:
    """The two tables of keys in the reference, by their headings."""
    text = (ROOT / "docs" / "reference" / "logs.md").read_text("utf-8")
    found = {}
    for heading in ("Keys of every line", "Keys of some lines"):
        below = text.partition(f"## {heading}\n")[2].partition("\n## ")[0]
        names = [row.split("|")[1] for row in below.splitlines() if row.startswith("| `")]
        found[heading] = [name.strip(" `") for cell in names for name in cell.split(",")]
    return found

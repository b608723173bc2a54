"""The Ansible role `skulk_secrets`, run by Ansible against this machine with the program of this environment."""

from __future__ import annotations

import getpass
import json
import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.secrets.conftest import SECRET, Ground

ROOT = Path(__file__).resolve().parents[2]
PLAYBOOK = "- {hosts: localhost, gather_facts: false, roles: [skulk_secrets]}\n"


@dataclass
class Role:
    ground: Ground
    base: Path

    def run(self, *arguments: str) -> tuple[int, str]:
        """(how many tasks changed something, the output)"""
        (self.base / "play.yml").write_text(PLAYBOOK)
        bin_ = Path(sys.executable).parent
        variables = {
            "ansible_python_interpreter": sys.executable,
            "skulk_fleet_checkout": str(self.ground.root),
            "skulk_secrets_program": str(bin_ / "skulk"),
            "skulk_secrets_staging": str(self.base / "a node" / "secrets.age"),
            "skulk_secrets_staging_owner": getpass.getuser(),
            "skulk_secrets_target": str(self.base / "a node" / "secrets"),
            "skulk_secrets_owner": getpass.getuser(),
            "skulk_secrets_identity": str(self.ground.hosts["box-1"]),
        }
        (self.base / "variables.json").write_text(json.dumps(variables))
        command = [str(bin_ / "ansible-playbook"), "--connection=local", "--inventory=localhost,"]
        command += [
            f"--extra-vars=@{self.base}/variables.json",
            "--diff",
            "-v",
            *arguments,
            str(self.base / "play.yml"),
        ]
        environment = os.environ | {
            "ANSIBLE_ROLES_PATH": str(ROOT / "playbooks" / "roles"),
            "ANSIBLE_LOCAL_TEMP": str(self.base / "tmp"),
            "ANSIBLE_HOME": str(self.base / "ansible"),
            "ANSIBLE_NOCOLOR": "1",
            "ANSIBLE_PIPELINING": "1",
        }
        environment.pop("ANSIBLE_CONFIG", None)
        done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=self.base, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        assert SECRET not in done.stdout + done.stderr
        (changed,) = re.findall(r"changed=(\d+)", done.stdout)
        return int(changed), done.stdout

    def installed(self) -> dict[str, str]:
        target = self.base / "a node" / "secrets"
        return {path.name: path.read_text() for path in target.iterdir()} if target.exists() else {}


@pytest.fixture
def role(bare: Ground, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Role:
    monkeypatch.setenv("LC_ALL", "C.UTF-8")
    (tmp_path / "a node").mkdir()
    return Role(bare, tmp_path)


# Six runs of Ansible, some seconds each on an idle machine.
@pytest.mark.timeout(600)
def test_the_role_brings_heals_and_removes_secrets_and_then_changes_nothing(role: Role) -> None:
    assert role.run()[0] == 0, "a checkout without secrets"
    assert role.ground.skulk("key").exit_code == 0
    role.ground.put("webhook")
    role.ground.put("token", "of-the-hub")

    changed, told = role.run("--check")
    assert changed == 2, "the directory and the encrypted files would come"
    assert "webhook.age" in told
    assert role.installed() == {}
    assert role.run()[0] == 3
    assert role.installed() == {"token": "of-the-hub", "webhook": SECRET}
    assert (role.base / "a node" / "secrets.age").stat().st_mode & 0o777 == 0o700
    assert role.run()[0] == 0

    (role.base / "a node" / "secrets" / "webhook").chmod(0o444)
    (role.ground.folder / "token.age").unlink()
    changed, told = role.run("--check")
    assert changed == 2, "the encrypted file would go, and the other secret would be healed"
    assert "changed webhook" in told
    assert role.run()[0] == 2
    assert role.installed() == {"webhook": SECRET}
    assert (role.base / "a node" / "secrets" / "webhook").stat().st_mode & 0o777 == 0o400

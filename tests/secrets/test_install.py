"""`skulk secrets install`: what a node makes of encrypted files with its host key."""

from __future__ import annotations

import os
import pwd
from dataclasses import dataclass
from pathlib import Path

import pytest
from typer.testing import Result

from skulk.node.config import WebhookTable
from skulk.node.webhook_secret import webhook_secret
from tests.secrets.conftest import SECRET, Ground


@dataclass
class Node:
    ground: Ground
    target: Path
    key: Path

    def install(self, *arguments: str, key: Path | None = None) -> Result:
        places = [str(self.ground.folder), str(self.target)]
        return self.ground.skulk("install", *places, "--identity", str(key or self.key), *arguments, here=False)

    def told(self, *arguments: str) -> list[str]:
        result = self.install(*arguments)
        assert result.exit_code == 0, result.output
        return result.stdout.splitlines()


@pytest.fixture
def node(ground: Ground, tmp_path: Path) -> Node:
    ground.put("webhook")
    ground.put("token", "of-the-hub")
    return Node(ground, tmp_path / "etc" / "secrets", ground.hosts["box-1"])


def test_secrets_come_in_files_for_their_owner_only_and_the_second_time_nothing_changes(node: Node) -> None:
    assert node.told() == ["changed token", "changed webhook"]
    assert {path.name: path.read_text() for path in node.target.iterdir()} == {"token": "of-the-hub", "webhook": SECRET}
    assert {path.stat().st_mode & 0o7777 for path in node.target.iterdir()} == {0o400}
    assert node.target.stat().st_mode & 0o7777 == 0o711
    inode = (node.target / "token").stat().st_ino
    assert node.told() == ["unchanged"]
    assert (node.target / "token").stat().st_ino == inode


def test_a_rekeyed_secret_is_unchanged_and_another_content_is_not(node: Node) -> None:
    node.told()
    node.ground.node("new", None)
    assert node.ground.skulk("rekey", "--identity", str(node.ground.hosts["mac-1"])).exit_code == 0
    assert node.told() == ["unchanged"]
    node.ground.put("token", "another")
    assert node.told() == ["changed token"]
    assert (node.target / "token").read_text() == "another"


def test_what_somebody_did_to_a_file_is_healed(node: Node, tmp_path: Path) -> None:
    node.told()
    (node.target / "token").chmod(0o644)
    assert node.told() == ["changed token"]
    (node.target / "token").unlink()
    (node.target / "webhook").unlink()
    (tmp_path / "outside").write_text(SECRET)
    (tmp_path / "outside").chmod(0o400)
    os.link(tmp_path / "outside", node.target / "webhook")
    assert node.told() == ["changed token", "changed webhook"]
    assert (node.target / "webhook").stat().st_nlink == 1


def test_a_secret_that_is_gone_from_the_checkout_is_removed_and_nothing_else(node: Node) -> None:
    node.told()
    (node.ground.folder / "token.age").unlink()
    (node.target / "folder").mkdir()
    (node.target / "link").symlink_to("webhook")
    (node.target / "Other").write_text("x")
    part = node.target / ".token.0123456789abcdef.part"
    part.write_text("of an installation that was killed")
    assert node.told("--check") == ["removed token"]
    assert part.exists()
    assert node.told() == ["removed token"]
    assert {path.name for path in node.target.iterdir()} == {"folder", "link", "Other", "webhook"}
    assert node.told() == ["unchanged"]


def test_check_says_the_same_and_does_nothing(node: Node) -> None:
    assert node.told("--check") == ["changed token", "changed webhook"]
    assert not node.target.exists()
    node.told()
    node.ground.put("token", "another")
    assert node.told("--check") == ["changed token"]
    assert (node.target / "token").read_text() == "of-the-hub"


def test_only_the_named_ones_are_touched(node: Node) -> None:
    assert node.told("token") == ["changed token"]
    assert {path.name for path in node.target.iterdir()} == {"token"}
    (node.target / "mine").write_text("x")
    assert node.told("webhook") == ["changed webhook"]
    assert (node.target / "mine").exists()
    for name in ("nothing", "../token", "webhook.age"):
        result = node.install(name)
        assert result.exit_code == 2
        assert name in result.stderr


def test_a_secret_for_other_hosts_is_named_with_the_fix_and_nothing_is_installed(node: Node) -> None:
    stranger = node.ground.hosts["stranger"]
    result = node.install(key=stranger)
    assert result.exit_code == 6
    assert "SK-SEC-003 secret token is not encrypted to" in result.stderr
    assert "skulk secrets rekey" in result.stderr
    assert f"{stranger}.pub" in result.stderr
    assert not node.target.exists()


def test_one_file_that_is_damaged_keeps_all_as_they_are(node: Node) -> None:
    node.told()
    node.ground.put("token", "another")
    whole = (node.ground.folder / "webhook.age").read_bytes()
    for data in (whole[:-100], b"plain text", b""):
        (node.ground.folder / "webhook.age").write_bytes(data)
        result = node.install()
        assert result.exit_code == 2
        assert "SK-SEC-001 secret webhook" in result.stderr
        assert (node.target / "token").read_text() == "of-the-hub"


def test_links_lead_nowhere(node: Node, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.write_text("untouched")
    node.told()
    (node.target / "webhook").unlink()
    (node.target / "webhook").symlink_to(outside)
    assert node.told() == ["changed webhook"]
    assert not (node.target / "webhook").is_symlink()
    assert outside.read_text() == "untouched"
    (node.ground.folder / "token.age").rename(tmp_path / "token.age")
    (node.ground.folder / "token.age").symlink_to(tmp_path / "token.age")
    assert "is a link" in node.install().stderr
    node.target.rename(tmp_path / "real")
    node.target.symlink_to(tmp_path / "real")
    (node.ground.folder / "token.age").unlink()
    result = node.install()
    assert result.exit_code == 2
    assert "SK-SEC-006" in result.stderr
    assert (tmp_path / "real" / "token").exists()


def test_what_cannot_be_written_is_said(node: Node, tmp_path: Path) -> None:
    (tmp_path / "etc").write_text("a file")
    assert "SK-SEC-006" in node.install().stderr
    (tmp_path / "etc").unlink()
    (node.target / "token").mkdir(parents=True)
    assert f"{node.target}/token cannot be written" in node.install().stderr
    assert [path.name for path in node.target.iterdir() if path.name.startswith(".")] == []
    assert "no user" in node.install("--owner", "nobody-of-that-name").stderr
    missing = node.ground.skulk("install", str(tmp_path / "no"), "t", "--identity", str(node.key), here=False)
    assert "is no directory" in missing.stderr
    assert "ssh-keygen -A" in node.install(key=tmp_path / "no").stderr


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")
def test_root_gives_the_files_to_the_daemons_user(node: Node) -> None:
    nobody = pwd.getpwnam("nobody")
    assert node.told("--owner", "nobody") == ["changed token", "changed webhook"]
    facts = (node.target / "token").stat()
    assert (facts.st_uid, facts.st_gid) == (nobody.pw_uid, nobody.pw_gid)
    assert node.target.stat().st_uid == 0
    assert node.told("--owner", "nobody") == ["unchanged"]
    assert node.told() == ["changed token", "changed webhook"]


def test_the_webhooks_secret_may_stand_there(node: Node) -> None:
    node.told()
    assert webhook_secret(WebhookTable(secret_file=node.target / "webhook"), {}) == SECRET.encode()

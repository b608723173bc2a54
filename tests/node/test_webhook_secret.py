"""Where the webhook secret may stand, and what is refused before a daemon starts with it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from skulk.core.errors import CFG_INVALID, InvalidInput
from skulk.node.config import NodeConfig, WebhookTable, load_config
from skulk.node.webhook_secret import SECRET_BYTES_MAX, SECRET_CHARACTERS_MIN, webhook_secret

SECRET = "0123456789abcdef"


def written(path: Path, text: str = SECRET, mode: int = 0o600) -> WebhookTable:
    path.write_text(text)
    path.chmod(mode)
    return WebhookTable(secret_file=path)


def refused(table: WebhookTable, **environment: str) -> str:
    with pytest.raises(InvalidInput) as caught:
        webhook_secret(table, environment)
    assert caught.value.code is CFG_INVALID
    assert SECRET not in str(caught.value)
    return str(caught.value)


def test_nothing_configured_is_no_secret() -> None:
    assert webhook_secret(WebhookTable(), {}) is None


@pytest.mark.parametrize("mode", [0o400, 0o600, 0o640])
def test_a_file_is_read_without_the_line_end(tmp_path: Path, mode: int) -> None:
    assert webhook_secret(written(tmp_path / "s", f"{SECRET}\n", mode), {}) == SECRET.encode()


def test_a_mounted_secret_may_be_a_link(tmp_path: Path) -> None:
    written(tmp_path / "real")
    (tmp_path / "link").symlink_to("real")
    assert webhook_secret(WebhookTable(secret_file=tmp_path / "link"), {}) == SECRET.encode()


@pytest.mark.parametrize("mode", [0o644, 0o602, 0o601])
def test_a_file_that_others_can_touch_is_refused_with_the_command_that_helps(tmp_path: Path, mode: int) -> None:
    assert "chmod o-rwx" in refused(written(tmp_path / "s", mode=mode))


def test_a_file_that_is_missing_empty_short_long_or_no_file_is_refused(tmp_path: Path) -> None:
    assert "No such file" in refused(WebhookTable(secret_file=tmp_path / "nowhere"))
    assert "0 characters" in refused(written(tmp_path / "a", " \n"))
    assert "15 characters" in refused(written(tmp_path / "b", "x" * (SECRET_CHARACTERS_MIN - 1)))
    assert "too long" in refused(written(tmp_path / "c", "x" * (SECRET_BYTES_MAX + 1)))
    assert "secretFile" in refused(WebhookTable(secret_file=tmp_path))
    os.mkfifo(tmp_path / "pipe", 0o600)
    assert "is no file" in refused(WebhookTable(secret_file=tmp_path / "pipe"))


def test_a_broken_signing_token_is_refused() -> None:
    assert "base64" in refused(WebhookTable(secret_env="HOOK"), HOOK="whsec_this is no base64")


def test_a_variable_is_read_once_and_taken_out_of_the_environment() -> None:
    environment = {"HOOK": SECRET, "OTHER": "x"}
    assert webhook_secret(WebhookTable(secret_env="HOOK"), environment) == SECRET.encode()
    assert environment == {"OTHER": "x"}
    assert "HOOK is not set" in refused(WebhookTable(secret_env="HOOK"))


def config(tmp_path: Path, webhook: str) -> NodeConfig:
    (tmp_path / "node.toml").write_text(f'name = "n"\n[source]\nurl = "/r"\n[webhook]\n{webhook}\n')
    return load_config(tmp_path / "node.toml", {})


def test_a_relative_path_is_relative_to_node_toml(tmp_path: Path) -> None:
    assert config(tmp_path, 'secretFile = "hook"').webhook.secret_file == tmp_path / "hook"


@pytest.mark.parametrize(
    ("webhook", "told"),
    [
        ('secretFile = "a"\nsecretEnv = "B"', "only one of"),
        ('secretEnv = "not-a-name, but the secret"', "not the secret itself"),
        ('secret = "0123456789abcdef"', "unknown key"),
    ],
)
def test_what_is_wrong_in_the_table_is_named(tmp_path: Path, webhook: str, told: str) -> None:
    with pytest.raises(InvalidInput, match=told):
        config(tmp_path, webhook)

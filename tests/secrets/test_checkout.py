"""`skulk secrets key|edit|get|check|rekey` in a checkout, with an editor that is a script."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pyrage
import pytest

from skulk.adapters.secrets.editing import edited
from skulk.core.formats.age import read_header
from skulk.core.formats.ssh_key import tag_of
from skulk.core.recipients import SECRET_BYTES_MAX
from tests.secrets.conftest import NODES, SECRET, Ground, public, ssh_keygen

Editor = Callable[[str], Path]


def opened(path: Path, key: Path) -> bytes:
    """Decrypted by the library itself, with a host's key."""
    plain: bytes = pyrage.decrypt(path.read_bytes(), [pyrage.ssh.Identity.from_buffer(key.read_bytes())])
    return plain


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


# --- key ----------------------------------------------------------------------------------------------------


def test_a_key_is_made_once_and_its_public_half_is_listed(bare: Ground) -> None:
    first = bare.skulk("key", "--comment", "ada\nof team 1")
    assert first.exit_code == 0
    assert bare.age_key.stat().st_mode & 0o777 == 0o600
    assert bare.age_key.parent.stat().st_mode & 0o077 == 0
    private = bare.age_key.read_text()
    listed = (bare.folder / "operators.txt").read_text()
    assert listed.startswith("age1")
    assert listed.endswith(" ada of team 1\n")
    assert "AGE-SECRET-KEY" not in first.output + listed
    assert "add fleet/secrets/operators.txt\n" in first.stdout
    assert bare.skulk("key").exit_code == 0
    assert bare.age_key.read_text() == private
    assert (bare.folder / "operators.txt").read_text() == listed


def test_an_ssh_key_that_is_there_is_listed_by_its_public_file(bare: Ground, tmp_path: Path) -> None:
    key = ssh_keygen(tmp_path / "id_ed25519")
    (bare.folder).mkdir()
    (bare.folder / "operators.txt").write_text("# without a line end")
    assert bare.skulk("key", "--identity", str(key), "--comment", "bo").exit_code == 0
    short = " ".join(public(key).split()[:2])
    assert (bare.folder / "operators.txt").read_text() == f"# without a line end\n{short} bo\n"
    bare.put()
    assert bare.skulk("get", "webhook", "--identity", str(key)).stdout == SECRET


def test_a_private_key_is_never_kept_in_the_checkout(bare: Ground) -> None:
    result = bare.skulk("key", "--identity", str(bare.root / "age.key"))
    assert result.exit_code == 2
    assert "SK-SEC-002" in result.stderr
    assert not (bare.root / "age.key").exists()


# --- edit and get -------------------------------------------------------------------------------------------


def test_a_new_secret_is_for_the_operator_and_every_node(
    ground: Ground, editor: Editor, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = editor(f'test ! -s "$1"; stat -c %a "$1" "$(dirname "$1")" > ../modes; printf %s {SECRET} > "$1"')
    monkeypatch.chdir(ground.root)
    result = ground.skulk("edit", "webhook", here=False)
    assert result.exit_code == 0, result.output
    sealed = ground.folder / "webhook.age"
    assert sealed.read_bytes().startswith(b"-----BEGIN AGE ENCRYPTED FILE-----\n")
    assert "operator ada, node box-1, node mac-1" in result.stdout
    assert "  git add fleet/secrets/webhook.age\n" in result.stdout
    for name in NODES:
        assert opened(sealed, ground.hosts[name]) == SECRET.encode()
    with pytest.raises(pyrage.DecryptError):
        opened(sealed, ground.hosts["stranger"])
    assert ground.skulk("get", "webhook").stdout == SECRET
    assert (ground.root.parent / "modes").read_text().split() == ["600", "700"]
    assert list(place.iterdir()) == []
    assert {path.name for path in ground.folder.iterdir()} == {"operators.txt", "webhook.age"}


def test_the_encrypted_files_do_not_disturb_the_manifests(ground: Ground) -> None:
    ground.put("x.yaml")
    assert ground.run("validate", str(ground.root)).exit_code == 0


def test_a_secret_is_changed_and_what_the_editor_leaves_beside_it_is_gone(ground: Ground, editor: Editor) -> None:
    ground.put()
    place = editor('cp "$1" "$1~"; printf more > "$1.new"; cat "$1~" >> "$1.new"; mv "$1.new" "$1"')
    assert ground.skulk("edit", "webhook").exit_code == 0
    assert ground.skulk("get", "webhook").stdout == f"more{SECRET}"
    assert list(place.iterdir()) == []


def test_an_unchanged_secret_is_not_written(ground: Ground, editor: Editor) -> None:
    sealed = ground.put()
    before = sealed.read_bytes()
    editor("true")
    assert "unchanged" in ground.skulk("edit", "webhook").stdout
    ground.put()
    assert sealed.read_bytes() == before
    ground.node("new", public(ground.hosts["stranger"]))
    assert "secrets rekey" in ground.skulk("edit", "webhook").stderr
    assert sealed.read_bytes() == before
    assert "nothing was written" in ground.skulk("edit", "other").stdout
    assert not (ground.folder / "other.age").exists()


@pytest.mark.parametrize(
    ("script", "told"),
    [
        (f'printf {SECRET} > "$1"; exit 3', "ended with 3"),
        ('rm "$1"', "what the editor left"),
        ('rm "$1"; ln -s /etc/hostname "$1"', "is a link"),
        ('rm "$1"; mkdir "$1"', "no regular file"),
        ('head -c 70000 /dev/zero > "$1"', str(SECRET_BYTES_MAX)),
        ('echo > "$1"', "would be empty"),
    ],
)
def test_an_editor_that_fails_changes_nothing(script: str, told: str, ground: Ground, editor: Editor) -> None:
    ground.put()
    before = contents(ground.folder)
    place = editor(script)
    result = ground.skulk("edit", "webhook")
    assert result.exit_code == 2
    assert "SK-SEC-005" in result.stderr
    assert told in result.stderr
    assert str(place) not in result.stderr
    assert contents(ground.folder) == before
    assert list(place.iterdir()) == []


def test_an_editor_that_cannot_be_started_is_named(ground: Ground, monkeypatch: pytest.MonkeyPatch) -> None:
    for command in ("/no/such/editor", "'", " "):
        monkeypatch.setenv("VISUAL", command)
        result = ground.skulk("edit", "webhook")
        assert result.exit_code == 2
        assert "SK-SEC-005" in result.stderr


def test_the_editor_may_have_arguments_and_visual_comes_first(
    ground: Ground, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "my editor").write_text('#!/bin/sh\nprintf %s "$1" > "$2"\n')
    (tmp_path / "my editor").chmod(0o755)
    monkeypatch.setenv("EDITOR", "/bin/false")
    monkeypatch.setenv("VISUAL", f"'{tmp_path}/my editor' --wait")
    assert ground.skulk("edit", "flag").exit_code == 0
    assert ground.skulk("get", "flag").stdout == "--wait"


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 128 + 15), (signal.SIGHUP, 128 + 1)]
)
def test_what_ends_the_program_while_the_editor_is_open_removes_the_plaintext(
    number: signal.Signals, code: int, ground: Ground, editor: Editor, tmp_path: Path
) -> None:
    ground.put()
    before = contents(ground.folder)
    os.mkfifo(tmp_path / "ready")
    place = editor(f'printf %s changed-{SECRET} > "$1"; echo > {tmp_path}/ready; exec sleep 60')
    command = [sys.executable, "-m", "skulk.cli.main", "secrets", "edit", "webhook", "--path", str(ground.root)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True)
    try:
        (tmp_path / "ready").read_text()
        assert len(list(place.iterdir())) == 1
        # Ctrl-C goes to the whole foreground group, a service manager's signal to the program alone.
        if number is signal.SIGINT:
            os.killpg(process.pid, number)
        else:
            process.send_signal(number)
        output, errors = process.communicate(timeout=30)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
    assert process.returncode == code, errors
    assert SECRET.encode() not in output + errors
    assert list(place.iterdir()) == []
    assert contents(ground.folder) == before


def test_what_ends_the_program_while_the_editor_is_being_started_ends_that_too(
    ground: Ground, editor: Editor, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = editor("exec sleep 60")
    started: list[subprocess.Popen[bytes]] = []

    class Told(subprocess.Popen[bytes]):
        def __init__(self, command: list[str]) -> None:
            super().__init__(command)
            started.append(self)
            signal.raise_signal(signal.SIGTERM)

    monkeypatch.setattr(subprocess, "Popen", Told)
    with pytest.raises(SystemExit) as ended:
        edited("webhook", SECRET.encode(), SECRET_BYTES_MAX)
    assert ended.value.code == 128 + signal.SIGTERM
    assert [process.returncode for process in started] == [-signal.SIGKILL]
    assert list(place.iterdir()) == []


def test_a_secret_that_somebody_changed_meanwhile_is_not_overwritten(ground: Ground, editor: Editor) -> None:
    sealed = ground.put()
    other = ground.put("other", "of another")
    editor(f'cp {other} {sealed}; echo mine > "$1"')
    result = ground.skulk("edit", "webhook")
    assert result.exit_code == 2
    assert "meanwhile" in result.stderr
    assert sealed.read_bytes() == other.read_bytes()


def test_a_secret_comes_from_a_file_too_and_may_be_any_bytes(ground: Ground, tmp_path: Path) -> None:
    data = bytes(range(256)) * 256
    assert len(data) == SECRET_BYTES_MAX
    (tmp_path / "in").write_bytes(data)
    assert ground.skulk("edit", "blob", "--from", str(tmp_path / "in")).exit_code == 0
    assert ground.skulk("get", "blob").stdout_bytes == data
    (tmp_path / "in").write_bytes(data + b"x")
    for source, stdin in ((str(tmp_path / "in"), None), ("-", data + b"x")):
        result = ground.skulk("edit", "blob", "--from", source, stdin=stdin)
        assert result.exit_code == 2
        assert str(SECRET_BYTES_MAX) in result.stderr


@pytest.mark.parametrize("name", ["../webhook", "a/b", "..", ".hidden", "Upper", "x" * 64, "", "-", "a\n"])
def test_a_name_that_leaves_the_folder_is_refused(name: str, ground: Ground) -> None:
    before = sorted(ground.root.parent.rglob("*"))
    for arguments in (["edit", "--from", "-"], ["get"]):
        result = ground.skulk(*arguments, stdin=b"x") if not name else ground.skulk(*arguments, "--", name, stdin=b"x")
        assert result.exit_code == 2
    assert sorted(ground.root.parent.rglob("*")) == before


def test_links_in_the_folder_are_not_followed(ground: Ground, tmp_path: Path) -> None:
    sealed = ground.put()
    moved = sealed.rename(tmp_path / "elsewhere.age")
    sealed.symlink_to(moved)
    before = moved.read_bytes()
    assert "SK-SEC-001" in ground.skulk("get", "webhook").stderr
    assert ground.skulk("edit", "webhook", "--from", "-", stdin=b"x").exit_code != 0
    assert moved.read_bytes() == before
    sealed.unlink()
    folder = ground.folder.rename(tmp_path / "outside")
    ground.folder.symlink_to(folder)
    for arguments in (["get", "webhook"], ["check"], ["rekey"], ["key"], ["edit", "new", "--from", "-"]):
        assert ground.skulk(*arguments, stdin=b"x").exit_code != 0
    assert {path.name for path in folder.iterdir()} == {"operators.txt"}


# --- who cannot ---------------------------------------------------------------------------------------------


def test_without_operators_it_says_how_to_become_one(bare: Ground) -> None:
    result = bare.skulk("edit", "webhook", "--from", "-", stdin=SECRET.encode())
    assert result.exit_code == 2
    assert "SK-SEC-004" in result.stderr
    assert "skulk secrets key" in result.stderr
    assert not bare.folder.exists()


def test_a_mistyped_key_of_an_operator_is_told_before_the_editor_opens(ground: Ground, editor: Editor) -> None:
    text = (ground.folder / "operators.txt").read_text()
    place = text.index("age1") + 10
    other = "q" if text[place] != "q" else "p"
    (ground.folder / "operators.txt").write_text(text[:place] + other + text[place + 1 :])
    editor(f"touch {ground.root.parent}/opened")
    found = ground.skulk("check")
    assert found.exit_code == 1
    assert "operator ada is mistyped" in found.stdout
    result = ground.skulk("edit", "webhook")
    assert result.exit_code == 2
    assert "operator ada" in result.stderr
    assert not (ground.root.parent / "opened").exists()


def test_another_identity_does_not_open_it(ground: Ground, tmp_path: Path) -> None:
    ground.put()
    for key in (ground.hosts["stranger"], ssh_keygen(tmp_path / "rsa", kind="rsa")):
        result = ground.skulk("get", "webhook", "--identity", str(key))
        assert result.exit_code == 6
        assert "SK-SEC-003" in result.stderr
        assert result.stdout == ""
    several = ["--identity", str(ground.hosts["stranger"]), "--identity", str(ground.age_key)]
    assert ground.skulk("get", "webhook", *several).stdout == SECRET


def test_the_ssh_key_of_the_home_directory_is_taken_when_there_is_no_other(ground: Ground, tmp_path: Path) -> None:
    (tmp_path / "home" / ".ssh").mkdir(parents=True)
    key = ssh_keygen(tmp_path / "home" / ".ssh" / "id_ed25519")
    assert ground.skulk("key", "--identity", str(key), "--comment", "bo").exit_code == 0
    ground.put()
    ground.age_key.unlink()
    assert ground.skulk("get", "webhook").stdout == SECRET


def test_what_is_wrong_with_an_identity_is_said(ground: Ground, tmp_path: Path) -> None:
    ground.put()
    locked = ssh_keygen(tmp_path / "locked", passphrase="open sesame")
    sealed_key = tmp_path / "sealed"
    sealed_key.write_bytes(pyrage.passphrase.encrypt(ground.age_key.read_bytes(), "open", armored=True))
    sealed_key.chmod(0o600)
    (tmp_path / "empty").write_text("# nothing\n")
    (tmp_path / "empty").chmod(0o600)
    (tmp_path / "noise").write_text("AGE-SECRET-KEY-1QQQQ\n")
    (tmp_path / "noise").chmod(0o600)
    (tmp_path / "pem").write_text("-----BEGIN PRIVATE KEY-----\nQUJD\n-----END PRIVATE KEY-----\n")
    (tmp_path / "pem").chmod(0o600)
    (tmp_path / "open").write_bytes(ground.age_key.read_bytes())
    (tmp_path / "open").chmod(0o644)
    for file, told in (
        (locked, "passphrase"),
        (sealed_key, "passphrase"),
        (tmp_path / "empty", "no private key"),
        (tmp_path / "noise", "noise:1"),
        (tmp_path / "pem", "no SSH key"),
        (tmp_path / "open", "chmod 600"),
        (tmp_path / "nowhere", "no identity"),
        (tmp_path, "no regular file"),
    ):
        result = ground.skulk("get", "webhook", "--identity", str(file))
        assert result.exit_code == 2, file
        assert "SK-SEC-002" in result.stderr
        assert told in result.stderr
        assert "QQQQ" not in result.stderr


def test_a_file_that_is_damaged_is_named(ground: Ground) -> None:
    sealed = ground.put()
    whole = sealed.read_bytes()
    lines = whole.splitlines(keepends=True)
    changed = lines[-2][:8] + (b"A" if lines[-2][8:9] != b"A" else b"B") + lines[-2][9:]
    for data in (b"", SECRET.encode(), whole[:200], b"".join([*lines[:-2], changed, lines[-1]])):
        sealed.write_bytes(data)
        result = ground.skulk("get", "webhook")
        assert result.exit_code == 2
        assert "SK-SEC-001" in result.stderr
        assert "webhook" in result.stderr
        assert result.stdout == ""
        assert ground.skulk("edit", "webhook", "--from", "-", stdin=b"x").exit_code == 2
        assert sealed.read_bytes() == data


def test_a_secret_that_is_not_there_is_answered_with_those_that_are(ground: Ground) -> None:
    assert "secrets edit webhook" in ground.skulk("get", "webhook").stderr
    ground.put("other")
    assert "there are other" in ground.skulk("get", "webhook").stderr


def test_setting_a_secret_that_one_cannot_read_oneself_is_noted(ground: Ground) -> None:
    assert "your own key" not in ground.skulk("edit", "a", "--from", "-", stdin=b"x").stderr
    stranger = ["--identity", str(ground.hosts["stranger"])]
    assert "your own key" in ground.skulk("edit", "b", "--from", "-", *stranger, stdin=b"x").stderr


# --- check --------------------------------------------------------------------------------------------------


def test_a_fleet_without_secrets_has_no_finding(bare: Ground) -> None:
    assert bare.skulk("check").exit_code == 0


def test_check_needs_no_key_and_finds_nothing_right_after_a_change(ground: Ground) -> None:
    ground.put()
    ground.age_key.unlink()
    (ground.folder / "README.md").write_text("What the secrets are for.\n")
    (ground.folder / ".gitkeep").write_text("")
    result = ground.skulk("check")
    assert result.exit_code == 0, result.output
    assert "1 secret" in result.stdout


def finding(ground: Ground) -> str:
    result = ground.skulk("check")
    assert result.exit_code == 1, result.output
    assert "skulk secrets rekey" in result.stderr
    return result.stdout


def test_check_names_who_is_missing_and_what_is_superfluous(ground: Ground) -> None:
    ground.put()
    ground.node("new", public(ground.hosts["stranger"]))
    assert "webhook.age: not encrypted to node new" in finding(ground)
    ground.node("new", None)
    assert ground.skulk("check").exit_code == 0
    assert "no secrets for new" in ground.skulk("check").stderr
    ground.node("box-1", None)
    assert tag_of(public(ground.hosts["box-1"])) in finding(ground)
    ground.node("box-1", public(ground.hosts["box-1"]))
    with (ground.folder / "operators.txt").open("a") as stream:
        stream.write(f"{pyrage.x25519.Identity.generate().to_public()} bo\n")
    assert "1 age key fewer" in finding(ground)


def test_check_finds_plaintext(ground: Ground) -> None:
    ground.put()
    (ground.folder / "token").write_text(SECRET)
    assert f"{ground.folder}/token: is not encrypted" in finding(ground)
    (ground.folder / "token").rename(ground.folder / "token.age")
    assert "token.age: it does not begin like an age file" in finding(ground)
    (ground.folder / "token.age").rename(ground.folder / "Token.age")
    assert "Token.age: is not encrypted, or no secret" in finding(ground)
    (ground.folder / "Token.age").unlink()
    (ground.folder / "operators.txt").write_text(ground.age_key.read_text())
    result = ground.skulk("check")
    assert result.exit_code == 1
    assert "operators.txt:2: this is a private key" in result.stdout
    assert "AGE-SECRET" not in result.output


# --- rekey --------------------------------------------------------------------------------------------------


def test_rekey_reaches_a_new_node_and_shuts_a_removed_one_out(ground: Ground) -> None:
    sealed = ground.put()
    ground.put("other")
    ground.node("new", public(ground.hosts["stranger"]))
    ground.node("box-1", None)
    result = ground.skulk("rekey")
    assert result.exit_code == 0, result.output
    assert "not encrypted to node new" in result.stdout
    assert opened(sealed, ground.hosts["stranger"]) == SECRET.encode()
    with pytest.raises(pyrage.DecryptError):
        opened(sealed, ground.hosts["box-1"])
    assert ground.skulk("check").exit_code == 0
    before = contents(ground.folder)
    assert "nothing to do" in ground.skulk("rekey").stdout
    assert contents(ground.folder) == before


def test_an_operator_who_replaces_another_gets_the_secrets_although_no_header_shows_it(ground: Ground) -> None:
    """Age keys are anonymous: as many as before look the same."""
    sealed = ground.put()
    bo = pyrage.x25519.Identity.generate()
    (ground.folder / "operators.txt").write_text(f"{bo.to_public()} bo\n")
    assert ground.skulk("check").exit_code == 0
    assert "have no names" in ground.skulk("rekey").stdout
    assert pyrage.decrypt(sealed.read_bytes(), [bo]) == SECRET.encode()
    assert ground.skulk("get", "webhook").exit_code == 6


def test_rekey_writes_nothing_when_one_cannot_be_decrypted(ground: Ground) -> None:
    ground.put("a")
    ground.put("b")
    ground.put("c")
    other = pyrage.encrypt(b"x", [pyrage.x25519.Identity.generate().to_public()], armored=True)
    for data, code, exit_code in ((other, "SK-SEC-003", 6), (b"garbage", "SK-SEC-001", 2)):
        (ground.folder / "b.age").write_bytes(data)
        ground.node("new", public(ground.hosts["stranger"]))
        before = contents(ground.folder)
        result = ground.skulk("rekey")
        assert result.exit_code == exit_code
        assert code in result.stderr
        assert "secret b" in result.stderr
        assert contents(ground.folder) == before


def test_rekey_keeps_the_content_and_counts_every_recipient(ground: Ground) -> None:
    sealed = ground.put()
    with (ground.folder / "operators.txt").open("a") as stream:
        stream.write(f"{pyrage.x25519.Identity.generate().to_public()} bo\n")
    assert ground.skulk("rekey").exit_code == 0
    header = read_header(sealed.read_bytes())
    assert header.age_keys == 2
    assert set(header.ssh_tags) == {tag_of(public(ground.hosts[name])) for name in NODES}
    assert ground.skulk("get", "webhook").stdout == SECRET

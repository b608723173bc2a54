"""Remotes that are gone, empty, renamed, slow or hostile, and mirrors that are damaged."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import shutil
import socket
import stat
import subprocess
import time
from pathlib import Path

import psutil
import pytest

from skulk.adapters import child
from skulk.adapters.git import GitRepo
from skulk.adapters.git.command import git
from skulk.core.domain import VerifyMode
from skulk.core.errors import (
    CFG_INVALID,
    SRC_CORRUPT,
    SRC_DISK,
    SRC_EMPTY,
    SRC_NO_BRANCH,
    SRC_TIMEOUT,
    SRC_UNREACHABLE,
    InvalidInput,
    Transient,
)

# As in the fixtures: generous, because other tests run beside these.
GIT_SECONDS = 60.0


def _alive_in_group(group: int) -> list[str]:
    """Names of the group's processes. Dead ones that nobody collected yet do not count."""
    found = []
    for process in psutil.process_iter(["status", "name"]):
        with contextlib.suppress(ProcessLookupError):
            if os.getpgid(process.pid) == group and process.info["status"] != psutil.STATUS_ZOMBIE:
                found.append(process.info["name"])
    return found


def _wait_until_gone(groups: list[int]) -> None:
    """A killed process leaves the table a moment after the signal."""
    deadline = time.monotonic() + 30
    while any(_alive_in_group(group) for group in groups):
        assert time.monotonic() < deadline, [_alive_in_group(group) for group in groups]
        time.sleep(0.02)


def test_a_remote_that_is_gone_is_named_and_the_mirror_still_serves(seeded, repo, refused):
    commit = asyncio.run(repo.head())
    seeded.bare.rename(seeded.bare.with_name("moved.git"))
    error = refused(repo.head(), SRC_UNREACHABLE)
    assert isinstance(error, Transient)
    assert "remote.git" in error.message
    assert [f.path for f in asyncio.run(repo.tree(commit))] == ["fleet/fleet.yaml"]
    seeded.bare.with_name("moved.git").rename(seeded.bare)
    assert asyncio.run(repo.head()) == commit


def test_a_remote_that_was_never_there_leaves_no_mirror_behind(tmp_path, mirror, refused):
    refused(GitRepo(str(tmp_path / "nowhere"), "main", mirror).head(), SRC_UNREACHABLE)
    assert [p.name for p in mirror.parent.iterdir()] == [".mirror.git.lock"]


def test_an_empty_repository_is_told_from_a_missing_branch(remote, mirror, refused):
    repo = GitRepo(remote.url, "main", mirror)
    refused(repo.head(), SRC_EMPTY)
    remote.commit({"a": "b"})
    remote.push(branch="trunk")
    error = refused(repo.head(), SRC_NO_BRANCH)
    assert "'main'" in error.message
    assert "trunk" in error.message
    remote.push()
    assert asyncio.run(repo.head()) == remote.head()


def test_a_branch_that_is_renamed_or_deleted_later_is_noticed(seeded, repo, refused):
    commit = asyncio.run(repo.head())
    subprocess.run(["git", "-C", seeded.bare, "branch", "-m", "main", "trunk"], check=True)
    assert "trunk" in refused(repo.head(), SRC_NO_BRANCH).message
    subprocess.run(["git", "-C", seeded.bare, "update-ref", "-d", "refs/heads/trunk"], check=True)
    refused(repo.head(), SRC_EMPTY)
    assert asyncio.run(repo.tree(commit))


def test_a_branch_whose_name_is_the_end_of_another_is_not_mistaken(seeded, mirror, refused):
    seeded.push(branch="feature/next")
    refused(GitRepo(seeded.url, "next", mirror).head(), SRC_NO_BRANCH)


def test_a_tag_of_the_same_name_is_no_branch(seeded, mirror, refused):
    seeded.git("push", "-q", "origin", "HEAD:refs/tags/release")
    refused(GitRepo(seeded.url, "release", mirror).head(), SRC_NO_BRANCH)


def test_the_mirror_follows_another_branch_and_another_url(seeded, mirror, make_remote):
    async def head(url, branch):
        return await GitRepo(url, branch, mirror).head()

    first = asyncio.run(head(seeded.url, "main"))
    seeded.commit({"fleet/b.yaml": "b"})
    seeded.push(branch="next/main")
    assert asyncio.run(head(seeded.url, "next/main")) == seeded.head() != first
    other = make_remote("other")
    other.commit({"fleet/c.yaml": "c"})
    other.push()
    assert asyncio.run(head(other.url, "main")) == other.head()


@pytest.fixture
def silent_port():
    """A listening socket that takes connections and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


@pytest.fixture
def noted_groups(monkeypatch):
    """The process groups of all git commands that are started."""
    groups = []
    real = child.start

    def noting(*command, **options):
        process = real(*command, **options)
        groups.append(process.pid)
        return process

    monkeypatch.setattr(child, "start", noting)
    return groups


@pytest.mark.parametrize("scheme", ["http", "git"])
def test_a_remote_that_never_answers_ends_in_a_timeout_and_leaves_no_process(
    silent_port, scheme, mirror, refused, noted_groups
):
    repo = GitRepo(f"{scheme}://127.0.0.1:{silent_port}/x.git", "main", mirror, timeout_seconds=0.5)
    refused(repo.head(), SRC_TIMEOUT)
    assert noted_groups
    _wait_until_gone(noted_groups)


def test_a_cancelled_fetch_leaves_no_process(silent_port, mirror, noted_groups):
    async def cancel():
        repo = GitRepo(f"git://127.0.0.1:{silent_port}/x.git", "main", mirror)
        task = asyncio.create_task(repo.head())
        while not noted_groups:  # noqa: ASYNC110 -- the list belongs to the fixture
            await asyncio.sleep(0.01)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(cancel())
    _wait_until_gone(noted_groups)


def test_a_command_that_ignores_the_polite_signal_is_killed(tmp_path, noted_groups):
    """A stubborn child of git (here: an alias) must not outlive its command."""
    marker = tmp_path / "started"
    alias = f"alias.stubborn=!trap '' TERM; touch {marker}; while :; do sleep 60; done"

    async def stubborn():
        task = asyncio.create_task(git("stubborn", timeout_seconds=GIT_SECONDS, settings=(alias,)))
        while not marker.exists():
            assert not task.done()
            await asyncio.sleep(0.01)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(stubborn())
    assert noted_groups
    _wait_until_gone(noted_groups)


def test_git_missing_from_the_machine_is_said(mirror, seeded, refused, monkeypatch):
    monkeypatch.setenv("PATH", "/nonexistent")
    assert "git" in refused(GitRepo(seeded.url, "main", mirror).head(), SRC_UNREACHABLE).message


def _truncate_pack_or_objects(mirror: Path) -> None:
    for file in (mirror / "objects").rglob("*"):
        if file.is_file():
            file.chmod(0o600)
            file.write_bytes(b"")


def _lose_head(mirror: Path) -> None:
    (mirror / "HEAD").unlink()


def _garbage_config(mirror: Path) -> None:
    (mirror / "config").write_text("garbage")


def _garbage_ref(mirror: Path) -> None:
    for file in (mirror / "refs" / "skulk").rglob("*"):
        if file.is_file():
            file.write_text("no object id\n")


def _stale_lock(mirror: Path) -> None:
    (mirror / "refs" / "skulk" / "source.lock").write_text("")


def _a_file_instead(mirror: Path) -> None:
    shutil.rmtree(mirror)
    mirror.write_text("not a repository")


def _objects_gone(mirror: Path) -> None:
    shutil.rmtree(mirror / "objects")


def _other_format(mirror: Path) -> None:
    (mirror / "config").write_text("[core]\n\trepositoryformatversion = 99\n\tbare = true\n")


@pytest.mark.parametrize(
    "damage",
    [
        _truncate_pack_or_objects,
        _lose_head,
        _garbage_config,
        _garbage_ref,
        _stale_lock,
        _a_file_instead,
        _objects_gone,
        _other_format,
    ],
)
def test_a_damaged_mirror_is_made_anew(seeded, repo, mirror, damage):
    asyncio.run(repo.head())
    damage(mirror)
    seeded.commit({"fleet/new.yaml": "new"})
    seeded.push()

    async def read():
        return await repo.tree(await repo.head())

    assert [f.path for f in asyncio.run(read())] == ["fleet/fleet.yaml", "fleet/new.yaml"]
    assert sorted(p.name for p in mirror.parent.iterdir()) == [".mirror.git.lock", "mirror.git"]


def test_damage_that_only_reading_finds_is_repaired_by_the_next_update(seeded, repo, mirror, refused):
    """The fetch sees nothing to do, so only the missing blob tells."""
    commit = asyncio.run(repo.head())
    blob = seeded.git("rev-parse", "HEAD:fleet/fleet.yaml")
    (mirror / "objects" / blob[:2] / blob[2:]).unlink()
    assert asyncio.run(repo.head()) == commit
    refused(repo.tree(commit), SRC_CORRUPT)
    assert asyncio.run(repo.head()) == commit
    assert asyncio.run(repo.tree(commit))


def test_a_damaged_mirror_stays_while_the_remote_is_gone(seeded, repo, mirror, refused):
    asyncio.run(repo.head())
    _garbage_config(mirror)
    shutil.rmtree(seeded.bare)
    refused(repo.head(), SRC_UNREACHABLE)
    assert (mirror / "objects").is_dir()


def test_left_overs_of_a_crash_are_cleared(seeded, repo, mirror):
    mirror.parent.mkdir(parents=True)
    left_over = mirror.parent / ".mirror.git-new-abc"
    (left_over / "mirror.git").mkdir(parents=True)
    asyncio.run(repo.head())
    assert not left_over.exists()


def test_concurrent_updates_of_one_mirror_all_succeed(seeded, mirror):
    async def together():
        return await asyncio.gather(*(GitRepo(seeded.url, "main", mirror).head() for _ in range(4)))

    assert set(asyncio.run(together())) == {seeded.head()}
    seeded.commit({"fleet/b.yaml": "b"})
    seeded.push()
    assert set(asyncio.run(together())) == {seeded.head()}


def test_another_process_that_writes_the_mirror_is_waited_for(seeded, repo, mirror):
    commit = asyncio.run(repo.head())
    lock = os.open(mirror.parent / ".mirror.git.lock", os.O_RDWR)
    fcntl.flock(lock, fcntl.LOCK_EX)

    async def wait():
        task = asyncio.create_task(repo.head())
        done, _ = await asyncio.wait({task}, timeout=0.3)
        assert not done
        assert await repo.tree(commit), "reading needs no lock"
        os.close(lock)
        return await task

    assert asyncio.run(wait()) == commit


def test_a_full_disk_is_told_from_a_bad_remote(seeded, mirror, refused, tmp_path):
    """On a file system of half a megabyte of its own."""
    mount = tmp_path / "small"
    mount.mkdir()
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=512k", "tmpfs", str(mount)], capture_output=True, check=False
    )
    if done.returncode != 0:
        pytest.skip("mounting a tmpfs needs root")
    try:
        repo = GitRepo(seeded.url, "main", mount / "mirror.git")
        commit = asyncio.run(repo.head())
        seeded.commit({"fleet/random.yaml": os.urandom(900_000)})
        seeded.push()
        refused(repo.head(), SRC_DISK)
        assert asyncio.run(repo.tree(commit))
        assert not list((mount).glob(".mirror.git-new-*"))
    finally:
        subprocess.run(["umount", str(mount)], check=True)


def test_a_mirror_where_nothing_can_be_written_is_said(seeded, tmp_path, refused):
    (tmp_path / "file").write_text("in the way")
    refused(GitRepo(seeded.url, "main", tmp_path / "file" / "mirror.git").head(), SRC_DISK)


@pytest.mark.parametrize(
    "url",
    [
        "--upload-pack=touch x",
        "-oProxyCommand=x",
        "ext::sh -c date",
        "fd::17/x",
        "ssh://-oProxyCommand=date/x",
        "ssh://-l@host/x",
        "http:///nohost",
        "ftp://host/x",
        "file+ext://x",
        "host:-oProxyCommand=x",
        "relative/path",
        "https://host/x y",
        "https://host/x\ny",
        "https://[::1/x",
        "",
    ],
)
def test_urls_that_git_could_misread_are_refused_before_git_sees_them(url, mirror):
    with pytest.raises(InvalidInput) as caught:
        GitRepo(url, "main", mirror)
    assert caught.value.code is CFG_INVALID


@pytest.mark.parametrize("branch", ["", "-x", "a..b", "a b", "a:b", "x.lock", "/a", "a/", "a*", "@{u}", "a~1", ".a"])
def test_branches_that_are_no_branch_names_are_refused(branch, mirror):
    with pytest.raises(InvalidInput):
        GitRepo("https://host/x", branch, mirror)


@pytest.mark.parametrize("path", ["/etc", "..", "a/../../b", "a\nb"])
def test_paths_that_leave_the_repository_are_refused(path, mirror):
    with pytest.raises(InvalidInput):
        GitRepo("https://host/x", "main", mirror, path)


@pytest.mark.parametrize("rewritten", ["ext::touch {marker} ", "probe::x"])
def test_a_rewritten_url_cannot_start_a_program(mirror, tmp_path, monkeypatch, refused, rewritten):
    """Even the user's own configuration cannot turn the source into a command."""
    marker = tmp_path / "ran"
    programs = tmp_path / "bin"
    programs.mkdir()
    (programs / "git-remote-probe").write_text(f"#!/bin/sh\ntouch {marker}\n")
    (programs / "git-remote-probe").chmod(0o755)
    monkeypatch.setenv("PATH", f"{programs}:{os.environ['PATH']}")
    config = tmp_path / "gitconfig"
    config.write_text(
        f'[url "{rewritten.format(marker=marker)}"]\n\tinsteadOf = https://host/\n[protocol]\n\tallow = always\n'
    )
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", str(config))
    refused(GitRepo("https://host/x", "main", mirror).head(), SRC_UNREACHABLE)
    assert not marker.exists()


def test_only_commands_that_use_the_network_see_the_users_configuration(tmp_path, monkeypatch):
    config = tmp_path / "gitconfig"
    config.write_text("[probe]\n\tseen = yes\n")
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", str(config))

    async def seen(network):
        return (await git("config", "--get", "probe.seen", timeout_seconds=GIT_SECONDS, network=network)).ok

    assert asyncio.run(seen(True))
    assert not asyncio.run(seen(False))


def test_housekeeping_never_removes_a_commit_that_left_the_branch(seeded, repo, mirror, tmp_path, monkeypatch):
    """Whatever the user's configuration says about garbage: the accepted commit must outlive a force-push."""
    config = tmp_path / "gitconfig"
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", str(config))
    settings = "[gc]\n\tauto = {auto}\n\tpruneExpire = now\n[fetch]\n\tunpackLimit = 100000\n"
    first = seeded.head()

    config.write_text(settings.format(auto=0))
    accepted = seeded.commit({"fleet/accepted.yaml": "x"})
    seeded.push()
    assert asyncio.run(repo.head()) == accepted

    # So many loose objects that git tidies up after the fetch.
    config.write_text(settings.format(auto=1))
    seeded.git("reset", "-q", "--hard", first)
    seeded.commit({f"fleet/e{n}.yaml": f"other {n}" for n in range(1500)})
    seeded.push("--force")
    asyncio.run(repo.head())
    assert list((mirror / "objects" / "pack").glob("*.pack")), "git did tidy up"
    assert [f.path for f in asyncio.run(repo.tree(accepted))] == ["fleet/accepted.yaml", "fleet/fleet.yaml"]


def test_hooks_and_surrounding_git_variables_have_no_effect(seeded, repo, mirror, tmp_path, monkeypatch):
    marker = tmp_path / "ran"
    hooks = tmp_path / "hooks"
    hooks.mkdir()
    for name in ("reference-transaction", "post-fetch", "pre-auto-gc", "post-checkout"):
        hook = hooks / name
        hook.write_text(f"#!/bin/sh\ntouch {marker}\n")
        hook.chmod(hook.stat().st_mode | stat.S_IXUSR)
    config = tmp_path / "gitconfig"
    config.write_text(f"[core]\n\thooksPath = {hooks}\n[fetch]\n\tprune = true\n\trecurseSubmodules = true\n")
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", str(config))
    monkeypatch.setenv("GIT_DIR", str(tmp_path / "elsewhere"))
    monkeypatch.setenv("GIT_OBJECT_DIRECTORY", str(tmp_path / "objects"))
    commit = asyncio.run(repo.head())
    assert asyncio.run(repo.tree(commit))
    assert not marker.exists()
    assert not (mirror / "FETCH_HEAD").exists()


@pytest.mark.parametrize(
    "url",
    ["http://ada:s3cret@127.0.0.1:1/x.git", "http://s3cret@127.0.0.1:1/x.git", "http://127.0.0.1:1/x?token=s3cret"],
)
def test_credentials_of_the_url_are_in_no_message(url, mirror, refused):
    repo = GitRepo(url, "main", mirror)
    error = refused(repo.head(), SRC_UNREACHABLE)
    assert "s3cret" not in str(error)
    assert "s3cret" not in repr(repo._location)
    assert "s3cret" not in repo.label


def test_facts_tell_ancestors_descendants_and_rewritten_history(seeded, repo, mirror):
    async def facts(commit, accepted):
        return await repo.facts(commit, accepted, VerifyMode.OFF)

    async def check():
        first = await repo.head()
        second = seeded.commit({"fleet/b.yaml": "b"}, message="Größe\n\nbody")
        seeded.push()
        assert await repo.head() == second
        forward = await facts(second, first)
        assert (forward.descends, forward.is_ancestor) == (True, False)
        assert forward.subject == "Größe"
        assert forward.author == "Ada <ada@example.org>"
        assert forward.committed_at > 0
        back = await facts(first, second)
        assert (back.descends, back.is_ancestor) == (False, True)
        for same in (await facts(first, first), await facts(first, None), await facts(first, "dir-" + "0" * 40)):
            assert (same.descends, same.is_ancestor) == (True, False)

        seeded.git("reset", "-q", "--hard", first)
        sideways = seeded.commit({"fleet/c.yaml": "c"})
        seeded.push("--force")
        assert await repo.head() == sideways
        rewritten = await facts(sideways, second)
        assert (rewritten.descends, rewritten.is_ancestor) == (False, False)
        assert await repo.tree(second), "the accepted commit outlives the force-push"

        shutil.rmtree(mirror)
        assert await repo.head() == sideways
        lost = await facts(sideways, second)
        assert (lost.descends, lost.is_ancestor) == (False, False)

    asyncio.run(check())


def test_a_remote_never_hints(repo):
    async def wait():
        task = asyncio.create_task(repo.changed())
        done, _ = await asyncio.wait({task}, timeout=0.05)
        task.cancel()
        return done

    assert not asyncio.run(wait())

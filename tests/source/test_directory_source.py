"""A directory that something else writes: read whole or not at all, and noticed when it changes."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import shutil
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from skulk.adapters import directory_read
from skulk.adapters.directory import DirectorySource
from skulk.adapters.directory_read import Snapshot, read_snapshot
from skulk.adapters.directory_watch import wait_for_events
from skulk.core.domain import CommitId, VerifyMode
from skulk.core.errors import SRC_EMPTY, SRC_INVALID, SRC_TIMEOUT, SRC_UNREACHABLE, SkulkError
from skulk.core.ports import FileKind, Signature, TreeFile

# A change must be seen well before the rescan would find it; the tests that want the watch switch the rescan off.
NEVER_SECONDS = 3600.0
SEEN_SECONDS = 60.0


def write(path: Path, content: str = "x") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content)
    return path


@pytest.fixture
def root(tmp_path):
    write(tmp_path / "synced" / "fleet" / "fleet.yaml", "fleet")
    return tmp_path / "synced"


def read(source: DirectorySource) -> dict[str, TreeFile]:
    async def both():
        return await source.tree(await source.head())

    return {file.path: file for file in asyncio.run(both())}


def test_a_state_has_an_id_of_its_content_alone(root, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(root, copy)
    write(copy / "fleet" / "notes.md", "no manifest")
    first = asyncio.run(DirectorySource(root).head())
    assert re.fullmatch(r"dir-[0-9a-f]{40}", first)
    assert asyncio.run(DirectorySource(copy).head()) == first
    write(copy / "fleet" / "fleet.yaml", "other")
    assert asyncio.run(DirectorySource(copy).head()) != first


names = st.text("abc/.-", min_size=1, max_size=8)


@given(
    st.lists(st.tuples(names, st.binary(max_size=8)), max_size=4),
    st.lists(st.tuples(names, st.binary(max_size=8)), max_size=4),
)
def test_two_states_have_one_id_only_when_they_are_equal(left, right):
    def commit(entries):
        return Snapshot(tuple(TreeFile(p, d, size=len(d)) for p, d in entries), "", True, 0.0).commit

    assert (commit(left) == commit(right)) == (left == right)


def test_the_same_manifests_are_chosen_as_from_git(root):
    for path in ("cards/m/card.yml", "cards/m/files/config.yaml", "fleet/notes.md", "other/x.yaml", "x.yaml"):
        write(root / path)
    assert sorted(read(DirectorySource(root))) == ["cards/m/card.yml", "fleet/fleet.yaml"]


def test_links_below_the_root_are_reported_and_not_followed(root, tmp_path):
    outside = write(tmp_path / "outside" / "secret.yaml", "secret")
    (root / "fleet" / "link.yaml").symlink_to(outside)
    (root / "fleet" / "nodes").symlink_to(outside.parent)
    (root / "cards").symlink_to(outside.parent)
    files = read(DirectorySource(root))
    assert {p: (f.kind, f.data) for p, f in files.items() if p != "fleet/fleet.yaml"} == {
        "fleet/link.yaml": (FileKind.SYMLINK, b""),
        "fleet/nodes": (FileKind.SYMLINK, b""),
        "cards": (FileKind.SYMLINK, b""),
    }


def test_large_files_pipes_and_odd_names_do_no_harm(root):
    size = 10 * 1024 * 1024
    write(root / "fleet" / "huge.yaml", "#" * size)
    os.mkfifo(root / "fleet" / "pipe.yaml")
    Path(os.fsdecode(os.fsencode(root) + b"/fleet/caf\xe9.yaml")).write_text("odd")
    files = read(DirectorySource(root))
    assert (files["fleet/huge.yaml"].kind, files["fleet/huge.yaml"].size) == (FileKind.TOO_LARGE, size)
    assert files["fleet/caf\\xe9.yaml"].data == b"odd"
    assert "fleet/pipe.yaml" not in files


def test_too_deep_a_directory_is_refused_by_name(root, refused):
    write(root / "fleet" / Path(*["d"] * 40) / "x.yaml")
    refused(DirectorySource(root).head(), SRC_INVALID)


def test_a_missing_unreadable_or_empty_directory_is_told_apart(root, tmp_path, refused):
    refused(DirectorySource(tmp_path / "nowhere").head(), SRC_UNREACHABLE)
    refused(DirectorySource(root / "fleet" / "fleet.yaml").head(), SRC_UNREACHABLE)
    (tmp_path / "bare").mkdir()
    refused(DirectorySource(tmp_path / "bare").head(), SRC_EMPTY)


def test_every_state_may_follow_every_other_and_none_is_signed(root):
    source = DirectorySource(root)

    async def ask():
        commit = await source.head()
        before = CommitId("0" * 40)
        return (
            commit,
            await source.facts(commit, before, VerifyMode.OFF),
            await source.facts(commit, before, VerifyMode.HEAD),
        )

    commit, off, on = asyncio.run(ask())
    assert (off.descends, off.is_ancestor, off.unsigned) == (True, False, ())
    assert on.unsigned == ((commit, Signature.NONE),)
    assert off.committed_at > 0


def test_an_accepted_state_stays_readable_after_many_changes_and_a_restart(root, tmp_path, refused):
    kept = tmp_path / "kept"
    source = DirectorySource(root, keep_dir=kept, settle_seconds=0.01)

    async def history():
        accepted = await source.head()
        for number in range(8):
            write(root / "fleet" / "fleet.yaml", f"state {number}")
            commit = await source.head()
            await source.facts(commit, accepted, VerifyMode.OFF)
        return accepted

    accepted = asyncio.run(history())
    assert len(list(kept.iterdir())) <= 5, "old states are cleared"
    shutil.rmtree(root)
    restarted = DirectorySource(root, keep_dir=kept)
    assert [f.data for f in asyncio.run(restarted.tree(accepted))] == [b"fleet"]
    (kept / f"{accepted}.json").write_text((kept / f"{accepted}.json").read_text().replace("Zmxl", "Zmxm"))
    refused(DirectorySource(root, keep_dir=kept).tree(accepted), SRC_UNREACHABLE)
    refused(restarted.tree(CommitId("../../etc/passwd")), SRC_UNREACHABLE)


def test_an_accepted_state_outlives_restarts_while_the_directory_is_broken(root, tmp_path):
    """Each life of the daemon sees another broken state and learns late which one was accepted."""
    kept = tmp_path / "kept"
    accepted = asyncio.run(DirectorySource(root, keep_dir=kept).head())

    async def life(number):
        source = DirectorySource(root, keep_dir=kept, settle_seconds=0.01)
        assert await source.tree(accepted)
        for step in range(4):
            write(root / "fleet" / "fleet.yaml", f"broken {number} {step}")
            await source.facts(await source.head(), accepted, VerifyMode.OFF)

    for number in range(4):
        asyncio.run(life(number))
    assert len(list(kept.iterdir())) <= 5


@pytest.fixture
def woken(monkeypatch):
    """(source, change, until): make the change while the source waits, and follow it to the expected state."""
    waits: list[asyncio.Event] = []

    @contextlib.asynccontextmanager
    async def announcing(root):
        async with wait_for_events(root) as event:

            async def wait(seconds):
                waits[-1].set()
                await event(seconds)

            yield wait

    monkeypatch.setattr("skulk.adapters.directory.wait_for_events", announcing)

    async def follow(source, change, until):
        waits.append(asyncio.Event())
        await source.head()
        task = asyncio.create_task(source.changed())
        async with asyncio.timeout(SEEN_SECONDS):
            await waits[-1].wait()
            await asyncio.to_thread(change)
            while True:
                await task
                try:
                    state = {f.path: f.data.decode() for f in await source.tree(await source.head())}
                except SkulkError as error:  # a state on the way
                    state = {"error": str(error)}
                if state == until:
                    return
                task = asyncio.create_task(source.changed())

    return lambda source, change, until: asyncio.run(follow(source, change, until))


@pytest.fixture
def watching(root):
    return DirectorySource(root, settle_seconds=0.05, rescan_seconds=NEVER_SECONDS)


def test_an_atomic_rename_is_seen(root, watching, woken):
    def rename():
        write(root / "fleet" / ".fleet.yaml.swp", "new").replace(root / "fleet" / "fleet.yaml")

    woken(watching, rename, {"fleet/fleet.yaml": "new"})


def test_the_first_file_of_a_folder_that_was_not_there_is_seen(root, watching, woken):
    woken(
        watching,
        lambda: write(root / "cards" / "m" / "card.yaml", "card"),
        {"cards/m/card.yaml": "card", "fleet/fleet.yaml": "fleet"},
    )


def test_a_new_folder_with_a_file_and_a_removed_file_are_seen(root, watching, woken):
    def change():
        write(root / "cards" / "m" / "card.yaml", "card")
        (root / "fleet" / "fleet.yaml").unlink()

    woken(watching, change, {"cards/m/card.yaml": "card"})


def test_a_burst_of_writes_ends_in_its_last_state(root, watching, woken):
    def burst():
        for number in range(300):
            write(root / "fleet" / "nodes" / f"n{number % 50}.yaml", str(number))

    until = {"fleet/fleet.yaml": "fleet"} | {f"fleet/nodes/n{n % 50}.yaml": str(n) for n in range(250, 300)}
    woken(watching, burst, until)


def test_a_swapped_root_link_is_seen_and_read_through_the_new_target(tmp_path, woken):
    write(tmp_path / "rev1" / "fleet" / "fleet.yaml", "one")
    write(tmp_path / "rev2" / "fleet" / "fleet.yaml", "two")
    link = tmp_path / "mount" / "current"
    link.parent.mkdir()
    link.symlink_to(tmp_path / "rev1")
    source = DirectorySource(link, settle_seconds=0.05, rescan_seconds=NEVER_SECONDS)

    def swap():
        (link.parent / "next").symlink_to(tmp_path / "rev2")
        (link.parent / "next").replace(link)

    woken(source, swap, {"fleet/fleet.yaml": "two"})
    woken(
        source,
        lambda: write(tmp_path / "rev2" / "fleet" / "b.yaml"),
        {"fleet/fleet.yaml": "two", "fleet/b.yaml": "x"},
    )


def test_a_root_that_is_removed_and_made_again_is_seen(root, watching, woken):
    def remake():
        shutil.rmtree(root)
        write(root / "fleet" / "fleet.yaml", "back")

    woken(watching, remake, {"fleet/fleet.yaml": "back"})
    woken(watching, lambda: write(root / "fleet" / "fleet.yaml", "again"), {"fleet/fleet.yaml": "again"})


def test_a_root_that_is_gone_is_waited_for_without_spinning(root, watching):
    shutil.rmtree(root)

    async def wait():
        with pytest.raises(Exception, match="SK-SRC-001"):
            await watching.head()
        task = asyncio.create_task(watching.changed())
        done, _ = await asyncio.wait({task}, timeout=0.5)
        assert not done, "nothing changed since the failed read"
        await asyncio.to_thread(write, root / "fleet" / "fleet.yaml", "back")
        await asyncio.wait_for(task, SEEN_SECONDS)
        assert await watching.head()

    asyncio.run(wait())


def test_the_slow_rescan_finds_what_the_watch_misses(root, woken, monkeypatch):
    async def deaf(*_paths, stop_event, **_options):
        await stop_event.wait()
        return
        yield

    monkeypatch.setattr("skulk.adapters.directory_watch.awatch", deaf)
    source = DirectorySource(root, settle_seconds=0.02, rescan_seconds=0.1)
    woken(source, lambda: write(root / "fleet" / "fleet.yaml", "new"), {"fleet/fleet.yaml": "new"})


def test_changes_outside_the_manifests_wake_nobody(root, watching):
    async def wait():
        await watching.head()
        task = asyncio.create_task(watching.changed())
        for path in ("README.md", "fleet/notes.md", "cards/m/files/x.yaml", "../neighbour.yaml"):
            await asyncio.to_thread(write, root / path)
        done, _ = await asyncio.wait({task}, timeout=0.6)
        task.cancel()
        return done

    assert not asyncio.run(wait())


@pytest.fixture
def before_each_read(monkeypatch):
    """Give the steps of a writer; one is taken before each read, until there are none left."""

    def arrange(*steps):
        left = list(steps)

        def reading(directory):
            if left:
                left.pop(0)()
            return read_snapshot(directory)

        monkeypatch.setattr("skulk.adapters.directory.read_snapshot", reading)

    return arrange


# A time stamp that is never "some time ago", however slowly the test runs.
FUTURE = 4_000_000_000


def test_a_file_is_taken_when_its_writer_is_done(root, before_each_read):
    target = root / "fleet" / "fleet.yaml"

    def append():
        with target.open("a") as file:
            file.write(" more")
        os.utime(target, (FUTURE, FUTURE))

    before_each_read(*[append] * 5)
    assert read(DirectorySource(root, settle_seconds=0.01))["fleet/fleet.yaml"].data == b"fleet" + b" more" * 5


def test_a_deletion_under_way_is_not_taken_for_its_result(root, before_each_read):
    """Removals leave no fresh file behind, only a fresh directory."""
    settle = 0.01
    nodes = [write(root / "fleet" / "nodes" / f"{number}.yaml") for number in range(5)]
    while time.time() - max(file.stat().st_ctime for file in (root / "fleet").rglob("*")) <= 2 * settle:
        time.sleep(settle)

    def remove(file):
        file.unlink()
        os.utime(file.parent, (FUTURE, FUTURE))

    before_each_read(*[lambda file=file: remove(file) for file in nodes])
    assert sorted(read(DirectorySource(root, settle_seconds=settle))) == ["fleet/fleet.yaml"]


def test_a_file_that_changes_while_another_is_read_makes_the_read_void(root, monkeypatch):
    """Half of the old state and half of the new one is no state, not even when it is read twice alike."""
    other = write(root / "fleet" / "a.yaml", "old")
    real, changes = directory_read._take, ["new", "newer"]

    def taking(walk, parent, name, shown, status, *, read):
        real(walk, parent, name, shown, status, read=read)
        if read and name == b"fleet.yaml" and changes:
            write(other, changes.pop(0))

    monkeypatch.setattr(directory_read, "_take", taking)
    assert not read_snapshot(root).whole
    assert read(DirectorySource(root, settle_seconds=0.01))["fleet/a.yaml"].data == b"newer"


def test_a_link_that_is_swapped_in_while_reading_leads_nowhere(root, tmp_path, monkeypatch):
    outside = write(tmp_path / "outside" / "fleet.yaml", "secret")
    target, real = root / "fleet" / "fleet.yaml", directory_read._take

    def taking(walk, parent, name, shown, status, *, read):
        if not target.is_symlink():
            target.unlink()
            target.symlink_to(outside)
        real(walk, parent, name, shown, status, read=read)

    monkeypatch.setattr(directory_read, "_take", taking)
    snapshot = read_snapshot(root)
    assert not snapshot.whole
    assert all(file.data != b"secret" for file in snapshot.files)
    assert read(DirectorySource(root, settle_seconds=0.01))["fleet/fleet.yaml"].kind is FileKind.SYMLINK


def test_a_directory_that_never_holds_still_is_an_error(root, refused, before_each_read, monkeypatch):
    monkeypatch.setattr("skulk.adapters.directory.READ_ATTEMPTS_MAX", 5)
    target = root / "fleet" / "fleet.yaml"

    def change(number):
        write(target, str(number))
        os.utime(target, (FUTURE, FUTURE))

    before_each_read(*[lambda number=number: change(number) for number in range(6)])
    refused(DirectorySource(root, settle_seconds=0.01).head(), SRC_TIMEOUT)

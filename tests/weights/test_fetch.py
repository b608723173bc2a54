"""Files come whole and verified, or not at all; every way to fail says which file, where, and what to do."""

import asyncio
import contextlib
import ctypes
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from skulk.adapters.weights import LocalWeights, fetching
from skulk.core.domain import CardFile, HubSource, LocalSource
from skulk.core.formats.content import content_key

MODEL = "model.safetensors"


def test_all_files_of_a_card_arrive_under_their_paths(site: Any) -> None:
    facts = site.fetch()
    assert (facts.ready, facts.active, facts.error) == (True, False, "")
    assert facts.done_bytes == facts.total_bytes == sum(file.bytes for file in site.card.files)
    directory = Path(facts.model_dir)
    for file in site.card.files:
        assert (directory / file.path).read_bytes() == (site.source / file.path).read_bytes()
    assert site.blobs() == {file.sha256 for file in site.card.files}
    assert (directory / MODEL).stat().st_nlink == 2, "one content on disk, two names"
    assert site.drafts() == []
    assert site.wakes


def test_a_restarted_daemon_knows_what_is_whole_and_needs_no_sources(site: Any) -> None:
    first = site.fetch()

    async def story(weights: LocalWeights) -> None:
        assert weights.observe()[site.content] == first
        assert weights.files() == {file.sha256 for file in site.card.files}
        await weights.fetch(site.card, site.content, keep_free_bytes=0)
        assert weights.observe()[site.content].ready

    site.run(story, roots=[])


def test_files_that_are_here_already_are_not_copied_again(site: Any) -> None:
    site.fetch()
    blob = site.store / "blobs" / site.card.files[1].sha256
    before = blob.stat().st_ino
    shared = (site.source / MODEL).read_bytes()
    facts = site.fetch(site.card_with(weights=shared, other=b"new"))
    assert facts.ready
    assert blob.stat().st_ino == before
    assert len(site.blobs()) == 4


def test_the_first_root_that_has_the_source_counts(site: Any, tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    assert site.fetch(roots=[tmp_path / "absent", empty, site.root]).ready


@pytest.mark.parametrize(
    ("damage", "code", "says", "retry"),
    [
        (lambda s: (s.source / MODEL).unlink(), "SK-WGT-002", MODEL, True),
        (lambda s: os.truncate(s.source / MODEL, 100), "SK-WGT-003", "it has 100 bytes, the card says 1048576", True),
        (lambda s: (s.source / MODEL).write_bytes(b"y" * 1048576), "SK-WGT-004", "its sha256 is", True),
        (
            lambda s: (s.source / MODEL).write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\n"),
            "SK-WGT-007",
            "git-lfs pointer",
            True,
        ),
        (lambda s: _replace_by_fifo(s.source / MODEL), "SK-WGT-008", "not a regular file", True),
        (lambda s: _replace_by_directory(s.source / MODEL), "SK-WGT-008", "not a regular file", True),
        (lambda s: _link_out(s, s.source / MODEL), "SK-WGT-006", "leads out of", False),
        (lambda s: _link_out(s, s.source), "SK-WGT-006", "leads out of", False),
        (lambda s: _loop(s.source / MODEL), "SK-WGT-008", MODEL, True),
        (lambda s: s.source.parent.rename(s.root / "elsewhere"), "SK-WGT-001", "tiny/files", True),
    ],
)
def test_bad_sources_are_named_and_leave_nothing_half_done(
    site: Any, damage: Any, code: str, says: str, retry: bool
) -> None:
    damage(site)
    facts = site.fetch()
    assert (facts.ready, facts.active) == (False, False)
    assert facts.error_code == code, facts.error
    assert says in facts.error
    assert facts.retry is retry
    assert facts.failed_at > 0
    assert site.drafts() == []
    assert not (site.store / "models" / site.content).exists()


def _replace_by_fifo(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def _replace_by_directory(path: Path) -> None:
    path.unlink()
    path.mkdir()


def _link_out(site: Any, path: Path) -> None:
    outside = site.root.parent / "outside"
    path.rename(outside)
    path.symlink_to(outside)


def _loop(path: Path) -> None:
    path.unlink()
    path.symlink_to(path)


@contextlib.contextmanager
def _without_read_override() -> Iterator[None]:
    """Root reads everything by CAP_DAC_OVERRIDE and CAP_DAC_READ_SEARCH; this thread, and those it starts, do without
    them for a while (capset(2), version 3: two words each of effective, permitted, inheritable)."""
    if os.geteuid() != 0:
        yield
        return
    libc = ctypes.CDLL(None, use_errno=True)
    header = (ctypes.c_uint32 * 2)(0x20080522, 0)
    data = (ctypes.c_uint32 * 6)()
    assert libc.capget(header, data) == 0
    before = data[0]
    data[0] = before & ~0b110
    assert libc.capset(header, data) == 0
    try:
        yield
    finally:
        data[0] = before
        assert libc.capset(header, data) == 0


@pytest.mark.skipif(sys.platform != "linux" and os.geteuid() == 0, reason="root reads everything")
def test_an_unreadable_file_is_named(site: Any) -> None:
    (site.source / MODEL).chmod(0)
    with _without_read_override():
        facts = site.fetch()
    assert (facts.error_code, facts.retry) == ("SK-WGT-008", True)


def test_a_link_inside_the_root_is_followed(site: Any) -> None:
    target = site.root / "blobs" / "x"
    target.parent.mkdir()
    (site.source / MODEL).rename(target)
    (site.source / MODEL).symlink_to(Path("../../blobs/x"))
    assert site.fetch().ready


@pytest.mark.parametrize(
    "path", ["../x", "/etc/passwd", "a/../../x", "", "a//b", "a\\b", "a\0b", "./a", ".skulk-complete"]
)
def test_paths_that_are_not_plain_are_refused_even_when_the_content_is_here(site: Any, path: str) -> None:
    site.fetch()
    card = replace(site.card, files=(*site.card.files, CardFile(path, 2, site.card.files[2].sha256)))
    facts = site.fetch(card)
    assert (facts.error_code, facts.retry) == ("SK-WGT-006", False)


@pytest.mark.parametrize("name", ["../models/tiny/files", "/etc", "..", "tiny/../tiny/files"])
def test_source_names_that_are_not_plain_are_refused(site: Any, name: str) -> None:
    assert site.fetch(replace(site.card, source=LocalSource(name))).error_code == "SK-WGT-006"


def test_a_hub_source_is_a_terminal_failure_that_says_so(site: Any) -> None:
    facts = site.fetch(replace(site.card, source=HubSource("org/name")))
    assert "local sources only" in facts.error
    assert not facts.retry


def test_a_failure_is_mended_by_the_next_fetch(site: Any) -> None:
    hidden = site.source / "hidden"
    (site.source / MODEL).rename(hidden)

    async def story(weights: LocalWeights) -> None:
        await weights.fetch(site.card, site.content, keep_free_bytes=0)
        assert weights.observe()[site.content].error_code == "SK-WGT-002"
        hidden.rename(site.source / MODEL)
        await weights.fetch(site.card, site.content, keep_free_bytes=0)
        assert weights.observe()[site.content].ready

    site.run(story)


def test_a_file_with_a_wrong_digest_is_read_again_only_after_it_changed(site: Any) -> None:
    good = (site.source / MODEL).read_bytes()
    (site.source / MODEL).write_bytes(b"y" * len(good))

    async def story(weights: LocalWeights) -> None:
        await weights.fetch(site.card, site.content, keep_free_bytes=0)
        first = weights.observe()[site.content]
        assert (first.error_code, "its sha256 is" in first.error) == ("SK-WGT-004", True)
        await weights.fetch(site.card, site.content, keep_free_bytes=0)
        second = weights.observe()[site.content]
        assert (second.error_code, "has not changed since" in second.error) == ("SK-WGT-004", True)
        await weights.forget(site.content)
        assert site.content not in weights.observe()
        await weights.fetch(site.card, site.content, keep_free_bytes=0)
        assert "its sha256 is" in weights.observe()[site.content].error
        (site.source / "new").write_bytes(good)
        (site.source / "new").replace(site.source / MODEL)
        await weights.fetch(site.card, site.content, keep_free_bytes=0)
        assert weights.observe()[site.content].ready

    site.run(story)


def test_missing_space_is_told_before_the_first_byte(site: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetching, "clone", lambda *_: False)
    needed = sum(file.bytes for file in site.card.files)
    site.free = needed + 99
    facts = site.fetch(keep_free=100)
    assert (facts.error_code, facts.retry, facts.done_bytes) == ("SK-WGT-005", True, 0)
    assert f"needs {needed} bytes, {needed - 1} are free beside the 100" in facts.error
    assert site.blobs() == set()
    site.free += 1
    assert site.fetch(keep_free=100).ready


def test_a_disk_that_becomes_full_leaves_no_draft(site: Any, tmp_path: Path) -> None:
    small = tmp_path / "small"
    small.mkdir()
    if os.geteuid() != 0 or sys.platform != "linux":
        pytest.skip("mounting a small tmpfs takes root on Linux")
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=512k", "tmpfs", str(small)], capture_output=True, text=True
    )
    if mounted.returncode != 0:
        pytest.skip(f"a tmpfs cannot be mounted here: {mounted.stderr.strip()}")
    try:
        site.store = small / "store"
        facts = site.fetch()  # free_disk promises more than there is
        assert (facts.error_code, facts.retry) == ("SK-WGT-005", True)
        assert "the disk became full" in facts.error
        assert site.drafts() == []
        assert not facts.ready
    finally:
        subprocess.run(["umount", str(small)], check=True)


def test_a_source_that_grows_or_changes_while_it_is_copied_is_not_taken(
    site: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fetching, "clone", lambda *_: False)
    monkeypatch.setattr(fetching, "CHUNK_BYTES", 64 * 1024)
    write_all = fetching._write_all
    path = site.source / MODEL

    def meddling(descriptor: int, chunk: bytes) -> None:
        write_all(descriptor, chunk)
        if len(chunk) == 64 * 1024:
            with path.open("r+b") as file:
                file.seek(0)
                file.write(b"\xff" * 16)

    monkeypatch.setattr(fetching, "_write_all", meddling)
    facts = site.fetch()
    assert (facts.error_code, facts.retry) == ("SK-WGT-008", True)
    assert "changed while it was copied" in facts.error
    assert site.drafts() == []


class Gate:
    """Stops the copying thread at its first chunk until it is opened."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.reached = threading.Event()
        self.opened = threading.Event()
        self.writes = 0
        monkeypatch.setattr(fetching, "clone", lambda *_: False)
        monkeypatch.setattr(fetching, "CHUNK_BYTES", 64 * 1024)
        write_all = fetching._write_all

        def gated(descriptor: int, chunk: bytes) -> None:
            self.writes += 1
            write_all(descriptor, chunk)
            self.reached.set()
            assert self.opened.wait(60)

        monkeypatch.setattr(fetching, "_write_all", gated)


def test_two_fetches_of_one_content_do_the_work_once_and_show_progress(
    site: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = Gate(monkeypatch)

    async def story(weights: LocalWeights) -> None:
        both = [asyncio.create_task(weights.fetch(site.card, site.content, keep_free_bytes=0)) for _ in range(2)]
        await asyncio.to_thread(gate.reached.wait, 60)
        facts = weights.observe()[site.content]
        assert (facts.active, facts.ready) == (True, False)
        assert facts.total_bytes == sum(file.bytes for file in site.card.files)
        gate.opened.set()
        await asyncio.gather(*both)
        assert weights.observe()[site.content].ready
        assert gate.writes == 18, "two small files and 16 chunks, each once"

    site.run(story)


def test_two_cards_that_share_a_file_write_it_once(site: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    gate = Gate(monkeypatch)
    shared = (site.source / MODEL).read_bytes()
    one, two = site.card_with(a=shared), replace(site.card, files=(site.card.files[1],))

    async def story(weights: LocalWeights) -> None:
        both = [asyncio.create_task(weights.fetch(card, content_key(card), keep_free_bytes=0)) for card in (one, two)]
        await asyncio.to_thread(gate.reached.wait, 60)
        gate.opened.set()
        await asyncio.gather(*both)
        assert all(weights.observe()[content_key(card)].ready for card in (one, two))
        assert gate.writes == 16

    site.run(story)


def test_a_fetch_goes_on_when_one_of_two_callers_is_cancelled(site: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    gate = Gate(monkeypatch)

    async def story(weights: LocalWeights) -> None:
        first, second = (
            asyncio.create_task(weights.fetch(site.card, site.content, keep_free_bytes=0)) for _ in range(2)
        )
        await asyncio.to_thread(gate.reached.wait, 60)
        first.cancel()
        await asyncio.gather(first, return_exceptions=True)
        gate.opened.set()
        await second
        assert weights.observe()[site.content].ready

    site.run(story)


def test_a_cancelled_fetch_stops_and_leaves_no_draft(site: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    gate = Gate(monkeypatch)

    async def story(weights: LocalWeights) -> None:
        only = asyncio.create_task(weights.fetch(site.card, site.content, keep_free_bytes=0))
        await asyncio.to_thread(gate.reached.wait, 60)
        only.cancel()
        await asyncio.gather(only, return_exceptions=True)
        gate.opened.set()
        end = time.monotonic() + 60
        while site.content in weights.observe():
            assert time.monotonic() < end
            await asyncio.sleep(0.005)
        assert site.drafts() == []
        assert gate.writes < 18, "it stopped before the end"

    site.run(story)
    assert site.fetch().ready


def test_kill_9_in_the_middle_leaves_nothing_that_the_next_start_does_not_clean(site: Any) -> None:
    """A real process is killed while it writes; what it left is visible, and gone after the next start."""
    script = (
        "import asyncio, sys, time\n"
        "from pathlib import Path\n"
        "from skulk.adapters.weights import LocalWeights, fetching\n"
        "sys.path.insert(0, sys.argv[3])\n"
        "import conftest\n"
        "fetching.clone = lambda *_: False\n"
        "fetching.CHUNK_BYTES = 65536\n"
        "real = fetching._write_all\n"
        "def slow(descriptor, chunk):\n"
        "    real(descriptor, chunk)\n"
        "    if len(chunk) == 65536:\n"
        "        print('writing', flush=True); time.sleep(60)\n"
        "fetching._write_all = slow\n"
        "card = conftest.card_of(conftest.FILES)\n"
        "w = LocalWeights([Path(sys.argv[1])], Path(sys.argv[2]), lambda: 1 << 40, lambda: None)\n"
        "asyncio.run(w.fetch(card, conftest.content_key(card), keep_free_bytes=0))\n"
    )
    here = str(Path(__file__).parent)
    process = subprocess.Popen(
        [sys.executable, "-c", script, str(site.root), str(site.store), here], stdout=subprocess.PIPE
    )
    assert process.stdout is not None
    assert process.stdout.readline() == b"writing\n"
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert site.drafts(), "the kill came in the middle"

    async def story(weights: LocalWeights) -> None:
        assert weights.observe() == {}
        assert site.drafts() == []
        await weights.fetch(site.card, site.content, keep_free_bytes=0)
        assert weights.observe()[site.content].ready

    site.run(story)


def _remove_link(directory: Path) -> None:
    (directory / MODEL).unlink()


def _replace_link(directory: Path) -> None:
    (directory / MODEL).unlink()
    (directory / MODEL).write_bytes(b"damaged")


def _write_through(directory: Path) -> None:
    (directory / MODEL).chmod(0o644)
    with (directory / MODEL).open("r+b") as file:
        file.write(b"damaged")


def _truncate_through(directory: Path) -> None:
    (directory / MODEL).chmod(0o644)
    os.truncate(directory / MODEL, 7)


def _break_marker(directory: Path) -> None:
    (directory / ".skulk-complete").write_text("{")


@pytest.mark.parametrize("damage", [_remove_link, _replace_link, _write_through, _truncate_through, _break_marker])
@pytest.mark.parametrize("noticed_by", ["restart", "forget"])
def test_a_damaged_model_directory_is_noticed_and_mended(site: Any, damage: Any, noticed_by: str) -> None:
    directory = Path(site.fetch().model_dir)

    async def story(weights: LocalWeights) -> None:
        if noticed_by == "forget":
            assert weights.observe()[site.content].ready
            damage(directory)
            await weights.forget(site.content)
        assert site.content not in weights.observe()
        await weights.fetch(site.card, site.content, keep_free_bytes=0)
        assert weights.observe()[site.content].ready
        assert (directory / MODEL).read_bytes() == (site.source / MODEL).read_bytes()

    if noticed_by == "restart":
        damage(directory)
    site.run(story)


def test_a_touched_blob_is_hashed_again_and_kept_when_it_is_sound(site: Any) -> None:
    site.fetch()
    blob = site.store / "blobs" / site.card.files[1].sha256
    os.utime(blob, (1, 1))
    before = blob.stat().st_ino
    assert site.fetch(roots=[]).ready
    assert blob.stat().st_ino == before


def test_the_key_of_a_content_depends_on_every_file_and_not_on_their_order(site: Any) -> None:
    card = site.card
    assert content_key(replace(card, files=card.files[::-1])) == content_key(card)
    assert content_key(site.with_file(MODEL, path="other")) != content_key(card)
    assert content_key(site.with_file(MODEL, bytes=1)) != content_key(card)
    assert content_key(site.with_file(MODEL, sha256="0" * 64)) != content_key(card)

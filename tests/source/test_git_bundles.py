"""Commits from node to node: bundles that git understands, and hostile ones that leave no trace in the mirror."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import struct
import zlib
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from skulk.adapters.directory import DirectorySource
from skulk.adapters.git import GitRepo, bundles, packs
from skulk.core import errors
from skulk.core.domain import VerifyMode
from skulk.core.ports import Signature

GIT_SECONDS = 60.0
FLEET = "apiVersion: skulk.dev/v1alpha1\nkind: Fleet\n"
TYPES = {"commit": 1, "tree": 2, "blob": 3, "tag": 4}


def size_of(kind: int, size: int) -> bytes:
    first, size = kind << 4 | size & 15, size >> 4
    out = bytearray()
    while size:
        out.append(first | 128)
        first, size = size & 127, size >> 7
    return bytes([*out, first])


def number(value: int) -> bytes:
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    return bytes([*out, value])


def entry(kind: int, data: bytes, *, before: bytes = b"", size: int | None = None) -> bytes:
    return size_of(kind, len(data) if size is None else size) + before + zlib.compress(data)


def pack(*entries: bytes, count: int | None = None) -> bytes:
    body = b"PACK" + struct.pack(">II", 2, len(entries) if count is None else count) + b"".join(entries)
    return body + hashlib.sha1(body, usedforsecurity=False).digest()


def bundle(commit: str, needs: tuple[str, ...], packed: bytes) -> bytes:
    lines = ["# v2 git bundle", *(f"-{need}" for need in needs), f"{commit} refs/heads/main", "", ""]
    return "\n".join(lines).encode() + packed


def object_id(kind: str, data: bytes) -> str:
    return hashlib.sha1(f"{kind} {len(data)}\0".encode() + data, usedforsecurity=False).hexdigest()


def tree_of(*entries: tuple[str, str, str]) -> bytes:
    return b"".join(f"{mode} {name}".encode() + b"\0" + bytes.fromhex(id_) for mode, name, id_ in entries)


def commit_of(tree: str, parent: str | None = None) -> bytes:
    who = "A <a@example.org> 1700000000 +0000"
    parents = f"parent {parent}\n" if parent else ""
    return f"tree {tree}\n{parents}author {who}\ncommitter {who}\n\nm\n".encode()


def contents(directory: Path) -> dict[str, bytes]:
    return {str(p.relative_to(directory)): p.read_bytes() for p in directory.rglob("*") if p.is_file()}


def forged(parent: str, *, blob: bytes | None = b"kind: Evil\n", more: tuple[bytes, ...] = ()) -> tuple[str, bytes]:
    """A commit on `parent` with one manifest, and its bundle. Without `blob` the tree points to nothing."""
    inner = tree_of(("100644", "evil.yaml", object_id("blob", blob or b"kind: Evil\n")))
    outer = tree_of(("40000", "fleet", object_id("tree", inner)))
    made = commit_of(object_id("tree", outer), parent)
    objects = [entry(1, made), entry(2, outer), entry(2, inner), *more]
    if blob is not None:
        objects.append(entry(3, blob))
    return object_id("commit", made), bundle(object_id("commit", made), (parent,), pack(*objects))


@pytest.fixture
def first(repo):
    return asyncio.run(repo.head())


@pytest.fixture
def ahead(seeded, tmp_path, first):
    """A node that has one more commit than `repo`."""
    seeded.commit({"fleet/b.yaml": "b: 1\n"}, message="second")
    seeded.push()
    return GitRepo(seeded.url, "main", tmp_path / "ahead" / "mirror.git", timeout_seconds=GIT_SECONDS)


def refused_without_trace(repo, mirror, commit, data, code=errors.SRC_BUNDLE):
    before = contents(mirror)
    with pytest.raises(errors.SkulkError) as caught:
        asyncio.run(repo.unbundle(commit, data))
    assert caught.value.code is code, str(caught.value)
    assert contents(mirror) == before
    assert [p.name for p in (mirror / "objects").iterdir() if p.name.startswith("tmp")] == []
    with pytest.raises(errors.SkulkError):
        asyncio.run(repo.tree(commit))
    return caught.value


# --- what is given ------------------------------------------------------------------------------------------


def test_a_bundle_is_one_that_git_itself_takes(seeded, ahead, first, tmp_path):
    second = asyncio.run(ahead.head())
    file = tmp_path / "x.bundle"
    file.write_bytes(asyncio.run(ahead.bundle(second, frozenset({first}))))
    seeded.git("bundle", "verify", "-q", str(file))
    assert second in seeded.git("bundle", "list-heads", str(file))
    seeded.git("fetch", "-q", str(file), "refs/skulk/commit:refs/heads/taken")
    assert seeded.git("rev-parse", "taken") == second


def test_only_what_is_lacking_is_sent(seeded, ahead, first):
    seeded.commit({"fleet/noise.yaml": "# " + "".join(hashlib.sha256(bytes([n])).hexdigest() for n in range(200))})
    base = seeded.head()
    seeded.commit({"fleet/c.yaml": "c: 1\n"})
    seeded.push()
    head = asyncio.run(ahead.head())
    whole = asyncio.run(ahead.bundle(head, frozenset()))
    small = asyncio.run(ahead.bundle(head, frozenset({first, base})))
    nothing = asyncio.run(ahead.bundle(head, frozenset({head})))
    assert len(nothing) < len(small) < 1000 < len(whole)


def test_a_commit_with_large_files_is_refused_by_name_and_not_sent(seeded, ahead, monkeypatch, refused):
    second = asyncio.run(ahead.head())
    monkeypatch.setattr(bundles, "BUNDLE_BYTES_MAX", bundles._HEADER_BYTES_MAX + 100)
    error = refused(ahead.bundle(second, frozenset()), errors.SRC_BUNDLE_SIZE)
    assert isinstance(error, errors.Terminal)


# --- what is taken ------------------------------------------------------------------------------------------


def test_a_bundle_of_git_itself_is_taken(seeded, ahead, repo, first, tmp_path):
    file = tmp_path / "x.bundle"
    seeded.git("bundle", "create", "-q", str(file), f"{first}..main")
    asyncio.run(repo.unbundle(seeded.head(), file.read_bytes()))
    assert [f.path for f in asyncio.run(repo.tree(seeded.head()))] == ["fleet/b.yaml", "fleet/fleet.yaml"]


def test_a_commit_from_a_node_is_judged_like_one_from_the_remote(ahead, repo, first):
    second = asyncio.run(ahead.head())
    asyncio.run(repo.unbundle(second, asyncio.run(ahead.bundle(second, frozenset({first})))))
    facts = asyncio.run(repo.facts(second, first, VerifyMode.HEAD))
    assert facts.subject == "second"
    assert facts.unsigned == ((second, Signature.NONE),)


def test_the_remote_goes_on_to_be_fetched_after_a_bundle(seeded, ahead, repo, first):
    second = asyncio.run(ahead.head())
    asyncio.run(repo.unbundle(second, asyncio.run(ahead.bundle(second, frozenset({first})))))
    third = seeded.commit({"fleet/c.yaml": "c: 1\n"})
    seeded.push()
    assert asyncio.run(repo.head()) == third
    assert asyncio.run(repo.facts(third, second, VerifyMode.OFF)).descends


def test_a_node_without_a_mirror_makes_one_from_a_bundle_and_the_remote_adopts_it(seeded, ahead, tmp_path, first):
    second = asyncio.run(ahead.head())
    mirror = tmp_path / "new" / "mirror.git"
    fresh = GitRepo(seeded.url, "main", mirror, timeout_seconds=GIT_SECONDS)
    with pytest.raises(errors.Refused):
        asyncio.run(fresh.unbundle(second, asyncio.run(ahead.bundle(second, frozenset({first})))))
    assert not mirror.exists()
    asyncio.run(fresh.unbundle(second, asyncio.run(ahead.bundle(second, frozenset()))))
    assert asyncio.run(fresh.tree(second))
    assert asyncio.run(fresh.head()) == second
    assert [p.name for p in mirror.parent.iterdir() if "-new-" in p.name] == []


def test_a_state_directory_with_colons_and_quotes_in_its_path_works(seeded, ahead, tmp_path, first):
    second = asyncio.run(ahead.head())
    odd = GitRepo(seeded.url, "main", tmp_path / 'a:b"c\\d' / "mirror.git", timeout_seconds=GIT_SECONDS)
    seeded.git("push", "-q", "--force", "origin", f"{first}:refs/heads/main")
    asyncio.run(odd.head())
    asyncio.run(odd.unbundle(second, asyncio.run(ahead.bundle(second, frozenset({first})))))
    assert asyncio.run(odd.tree(second))


def test_what_an_ended_daemon_left_is_cleared_away(ahead, repo, mirror, first):
    left = mirror / "objects" / "tmp_objdir-skulk-old"
    left.mkdir()
    second = asyncio.run(ahead.head())
    asyncio.run(repo.unbundle(second, asyncio.run(ahead.bundle(second, frozenset({first})))))
    assert not left.exists()


# --- what is not taken --------------------------------------------------------------------------------------


def test_a_forged_commit_is_taken_only_whole(repo, mirror, first):
    good, data = forged(first)
    lacking, hole = forged(first, blob=None)
    assert lacking == good
    refused_without_trace(repo, mirror, good, hole)
    # Whole it is a commit like any other: signatures and ancestry decide about it, not the transport.
    asyncio.run(repo.unbundle(good, data))
    assert [f.data for f in asyncio.run(repo.tree(good))] == [b"kind: Evil\n"]


@pytest.mark.parametrize("half", ["tree", "parent"])
def test_what_the_mirror_holds_by_halves_does_not_complete_a_commit(repo, mirror, first, half):
    """A fetch that failed may leave an object without what it points to."""
    lacking = tree_of(("100644", "gone.yaml", object_id("blob", b"gone")))
    there = lacking if half == "tree" else commit_of(object_id("tree", lacking), first)
    kind = "tree" if half == "tree" else "commit"
    name = object_id(kind, there)
    loose = mirror / "objects" / name[:2] / name[2:]
    loose.parent.mkdir(exist_ok=True)
    loose.write_bytes(zlib.compress(f"{kind} {len(there)}\0".encode() + there))
    below = name if half == "tree" else object_id("tree", b"")
    parent = first if half == "tree" else name
    outer = tree_of(("40000", "fleet", below))
    made = commit_of(object_id("tree", outer), parent)
    commit = object_id("commit", made)
    packed = pack(entry(1, made), entry(2, outer), *([entry(2, b"")] if half == "parent" else []))
    refused_without_trace(repo, mirror, commit, bundle(commit, (parent,), packed))


def test_nothing_comes_along_with_a_commit(repo, mirror, first):
    stowaway = commit_of("4b825dc642cb6eb9a060e54bf8d69288fbee4904", first)
    good, data = forged(first, more=(entry(1, stowaway), entry(2, b"")))
    error = refused_without_trace(repo, mirror, good, data)
    assert "do not belong" in error.message
    with pytest.raises(errors.SkulkError):
        asyncio.run(repo.tree(object_id("commit", stowaway)))


@pytest.mark.parametrize(
    "tree",
    [
        tree_of(("100644", "a", "0" * 40)),
        tree_of(("100644", "a/b", object_id("blob", b"x"))),
        tree_of(("100644", "b", object_id("blob", b"x")), ("100644", "a", object_id("blob", b"x"))),
        tree_of(("100644", "a", object_id("blob", b"x")), ("100644", "a", object_id("blob", b"x"))),
        b"100644 a",
    ],
    ids=["null id", "slash in a name", "unsorted", "twice the same name", "cut"],
)
def test_malformed_objects_are_refused(repo, mirror, first, tree):
    made = commit_of(object_id("tree", tree), first)
    name = object_id("commit", made)
    data = bundle(name, (first,), pack(entry(1, made), entry(2, tree), entry(3, b"x")))
    refused_without_trace(repo, mirror, name, data)


@pytest.mark.parametrize("kind", ["blob", "tree", "tag"])
def test_an_object_of_another_type_is_no_commit(repo, mirror, first, kind):
    text = f"object {first}\ntype commit\ntag t\ntagger A <a@example.org> 1700000000 +0000\n\nm\n"
    tree = tree_of(("100644", "a", object_id("blob", b"below")))
    data = {"blob": b"hello", "tree": tree, "tag": text.encode()}[kind]
    name = object_id(kind, data)
    packed = pack(entry(TYPES[kind], data), entry(3, b"below")) if kind == "tree" else pack(entry(TYPES[kind], data))
    refused_without_trace(repo, mirror, name, bundle(name, (), packed))


def test_headers_that_are_not_ours_are_refused(repo, mirror, first):
    good, data = forged(first)
    packed = data[data.index(b"PACK") :]
    for head in (
        f"# v3 git bundle\n@object-format=sha1\n-{first}\n{good} refs/heads/main\n\n",
        f"# v2 git bundle\n-{first}\n{good} refs/heads/a\n{first} refs/heads/b\n\n",
        f"# v2 git bundle\n-{first}\n\n",
        f"# v2 git bundle\n-{first}\n--upload-pack=x refs/heads/main\n\n",
        f"# v2 git bundle\n-{first}\n{good} refs/heads/main\n",
        "# v2 git bundle\n" + f"-{first}\n" * (bundles.HAVE_MAX + 1) + f"{good} refs/heads/main\n\n",
    ):
        refused_without_trace(repo, mirror, good, head.encode() + packed)
    refused_without_trace(repo, mirror, good, bundle(good, ("e" * 40,), packed))
    refused_without_trace(repo, mirror, good, bundle(good, (first,), pack()))


def test_an_id_that_is_no_commit_never_reaches_git(repo, mirror, first):
    for name in ("--all", "HEAD", "dir-" + "0" * 40, first.upper()):
        refused_without_trace(repo, mirror, name, b"x")


def test_bombs_are_refused_before_git_unpacks_them(repo, mirror, first, monkeypatch):
    zeros = bytes(1024 * 1024)
    monkeypatch.setattr(packs, "OBJECT_BYTES_MAX", 2 * len(zeros))
    monkeypatch.setattr(packs, "UNPACKED_BYTES_MAX", 8 * len(zeros))
    monkeypatch.setattr(packs, "OBJECTS_MAX", 50)
    base = object_id("blob", zeros)
    copy = b"\x80" + b"\xf0\x00\x00\x10"  # copy 1 MiB from the beginning
    delta = number(len(zeros)) + number(2 * len(zeros)) + copy * 2
    bombs = [
        pack(entry(3, zeros * 3)),
        pack(*[entry(3, zeros)] * 9),
        pack(entry(3, zeros), *[entry(7, delta, before=bytes.fromhex(base))] * 4),
        pack(entry(7, number(1) + number(2**60) + b"x", before=bytes.fromhex(base))),
        pack(*[entry(3, b"")] * 51),
        pack(count=2**32 - 1),
    ]
    for bomb in bombs:
        refused_without_trace(repo, mirror, "a" * 40, bundle("a" * 40, (), bomb), errors.SRC_BUNDLE_SIZE)
    huge = bundle("a" * 40, (), b"PACK").ljust(bundles.BUNDLE_BYTES_MAX + 1, b"\0")
    refused_without_trace(repo, mirror, "a" * 40, huge, errors.SRC_BUNDLE_SIZE)


@pytest.mark.parametrize(
    "entries",
    [
        [entry(3, b"hello", size=4)],
        [entry(3, b"hello", size=6)],
        [entry(3, bytes(100_000), size=5)],
        [entry(3, b"hello")[:-3]],
        [size_of(3, 5) + b"not zlib at all"],
        [entry(0, b"x")],
        [entry(5, b"x")],
        [entry(7, b"", before=bytes(20))],
        [entry(7, b"\xff" * 30, before=bytes(20))],
        [b"\xff" * 40],
        [entry(6, b"xx", before=b"\xff" * 4)],
        [entry(3, b"hello") + b"trailing"],
    ],
)
def test_packs_that_lie_about_themselves_are_refused(repo, mirror, first, entries):
    refused_without_trace(repo, mirror, "a" * 40, bundle("a" * 40, (), pack(*entries)))


@settings(max_examples=300)
@given(st.data())
def test_no_damage_to_a_pack_is_more_than_a_bad_pack(data):
    good = pack(
        entry(3, b"hello" * 50),
        entry(7, number(250) + number(3) + b"\x03abc", before=bytes(20)),
        entry(6, number(250) + number(3) + b"\x03abc", before=b"\x80\x10"),
        entry(2, b""),
    )
    assert packs.check_pack(good) == 4
    at = data.draw(st.integers(0, len(good) - 1))
    damaged = data.draw(
        st.sampled_from([good[:at], good[:at] + bytes([data.draw(st.integers(0, 255))]) + good[at + 1 :]])
    )
    with contextlib.suppress(packs.BadPack, packs.LargePack):
        packs.check_pack(damaged)


def test_a_directory_has_no_objects_to_give_or_take(tmp_path, refused):
    (tmp_path / "fleet").mkdir()
    (tmp_path / "fleet" / "fleet.yaml").write_text(FLEET)
    source = DirectorySource(tmp_path)
    commit = asyncio.run(source.head())
    refused(source.bundle(commit, frozenset()), errors.SRC_NO_OBJECTS)
    refused(source.unbundle(commit, b""), errors.SRC_NO_OBJECTS)
    assert asyncio.run(source.older({commit}, commit)) == frozenset()

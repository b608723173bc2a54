"""What a push delivers: exactly the manifests of the commit, whatever else is in the repository."""

from __future__ import annotations

import asyncio

import pytest

from skulk.adapters.git import GitRepo
from skulk.core.domain import CommitId
from skulk.core.errors import SRC_INVALID, SRC_NO_PATH, SRC_UNREACHABLE
from skulk.core.ports import FileKind

LFS_POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"a" * 64 + b"\nsize 12345\n"


def _tree(repo):
    async def read():
        return await repo.tree(await repo.head())

    return {file.path: file for file in asyncio.run(read())}


def test_head_is_the_pushed_commit_and_follows_every_push(seeded, repo):
    async def follow():
        first = await repo.head()
        assert first == seeded.head()
        seeded.commit({"fleet/nodes/a.yaml": "x"})
        assert await repo.head() == first, "not pushed yet"
        seeded.push()
        second = await repo.head()
        assert second == seeded.head() != first
        assert [f.path for f in await repo.tree(second)] == ["fleet/fleet.yaml", "fleet/nodes/a.yaml"]
        assert [f.path for f in await repo.tree(first)] == ["fleet/fleet.yaml"], "older commits stay readable"

    asyncio.run(follow())


def test_only_manifests_of_the_two_folders_are_delivered(seeded, repo):
    seeded.commit(
        {
            "fleet/nodes/a.yml": "a",
            "fleet/notes.md": "no",
            "fleet/a.yaml.bak": "no",
            "cards/m/card.yaml": "c",
            "cards/m/files/config.yaml": "model file",
            "cards/m/files/deep/x.yaml": "model file",
            "fleet/files/kept.yaml": "only cards have model files",
            "other/x.yaml": "no",
            "x.yaml": "no",
            "fleets/x.yaml": "no",
        }
    )
    seeded.push()
    assert sorted(_tree(repo)) == [
        "cards/m/card.yaml",
        "fleet/files/kept.yaml",
        "fleet/fleet.yaml",
        "fleet/nodes/a.yml",
    ]


def test_content_arrives_byte_for_byte_without_filters(seeded, repo):
    """Line endings, an LFS pointer and non-UTF-8 stay as committed: nothing is checked out or smudged."""
    contents = {
        "fleet/crlf.yaml": b"a: 1\r\nb: 2\r\n",
        "fleet/lfs.yaml": LFS_POINTER,
        "fleet/latin1.yaml": b"name: caf\xe9\n",
        "fleet/empty.yaml": b"",
        "fleet/same.yaml": b"name: caf\xe9\n",
    }
    seeded.write({".gitattributes": "*.yaml filter=lfs ident eol=crlf\n"})
    for path, content in contents.items():
        seeded.git("update-index", "--add", "--cacheinfo", f"100644,{seeded.blob(content)},{path}")
    seeded.git("add", ".gitattributes")
    seeded.commit_index()
    seeded.push()
    tree = _tree(repo)
    assert {path: tree[path].data for path in contents} == contents
    assert all(tree[path].size == len(content) for path, content in contents.items())


def test_links_and_submodules_are_reported_and_never_followed(seeded, repo):
    commit = seeded.head()
    secret = seeded.blob(b"/etc/passwd")
    for mode, target, path in (
        ("120000", secret, "fleet/link.yaml"),
        ("120000", secret, "fleet/link-to-folder"),
        ("160000", commit, "fleet/sub"),
        ("160000", commit, "cards"),
        ("160000", commit, "elsewhere"),
    ):
        seeded.git("update-index", "--add", "--cacheinfo", f"{mode},{target},{path}")
    seeded.git("update-index", "--add", "--cacheinfo", f"100644,{seeded.blob(b'[submodule]')},.gitmodules")
    seeded.commit_index()
    seeded.push()
    tree = _tree(repo)
    assert {path: (file.kind, file.data) for path, file in tree.items() if file.kind is not FileKind.FILE} == {
        "fleet/link.yaml": (FileKind.SYMLINK, b""),
        "fleet/link-to-folder": (FileKind.SYMLINK, b""),
        "fleet/sub": (FileKind.SUBMODULE, b""),
        "cards": (FileKind.SUBMODULE, b""),
    }
    assert "fleet/fleet.yaml" in tree


def test_a_manifest_folder_that_is_a_link_is_reported(seeded, repo):
    seeded.git("update-index", "--add", "--cacheinfo", f"120000,{seeded.blob(b'/etc')},cards")
    seeded.commit_index()
    seeded.push()
    assert _tree(repo)["cards"].kind is FileKind.SYMLINK


def test_links_among_model_files_do_not_matter(seeded, repo):
    blob = seeded.blob(b"/models/weights")
    seeded.git("update-index", "--add", "--cacheinfo", f"120000,{blob},cards/m/files/model.safetensors")
    seeded.commit_index()
    seeded.push()
    assert sorted(_tree(repo)) == ["fleet/fleet.yaml"]


def test_a_ten_megabyte_manifest_is_reported_without_its_content(seeded, repo):
    size = 10 * 1024 * 1024
    seeded.commit({"fleet/huge.yaml": b"#" * size, "fleet/exact.yaml": b"#" * 1024 * 1024})
    seeded.push()
    tree = _tree(repo)
    assert tree["fleet/huge.yaml"].kind is FileKind.TOO_LARGE
    assert (tree["fleet/huge.yaml"].data, tree["fleet/huge.yaml"].size) == (b"", size)
    assert tree["fleet/exact.yaml"].kind is FileKind.FILE


def test_paths_that_collide_without_case_are_both_delivered(seeded, repo):
    for path in ("fleet/nodes/A.yaml", "fleet/nodes/a.yaml"):
        seeded.git("update-index", "--add", "--cacheinfo", f"100644,{seeded.blob(path.encode())},{path}")
    seeded.commit_index()
    seeded.push()
    tree = _tree(repo)
    assert tree["fleet/nodes/A.yaml"].data == b"fleet/nodes/A.yaml"
    assert tree["fleet/nodes/a.yaml"].data == b"fleet/nodes/a.yaml"


@pytest.mark.parametrize(
    ("raw", "shown"),
    [
        (b"fleet/caf\xe9.yaml", "fleet/caf\\xe9.yaml"),
        (b"fleet/a\nb.yaml", "fleet/a\\nb.yaml"),
        (b"fleet/\x1b[31m.yaml", "fleet/\\x1b[31m.yaml"),
        ("fleet/größe \U0001f600.yaml".encode(), "fleet/größe \U0001f600.yaml"),
        ("fleet/\u202egnp.yaml".encode(), "fleet/\\u202egnp.yaml"),
    ],
)
def test_odd_paths_are_delivered_printable(seeded, repo, raw, shown):
    record = b"100644 " + seeded.blob(b"odd").encode() + b"\t" + raw + b"\0"
    seeded.git("update-index", "-z", "--add", "--index-info", stdin=record)
    seeded.commit_index()
    seeded.push()
    tree = _tree(repo)
    assert tree[shown].data == b"odd"
    assert all(path.encode("utf-8") for path in tree)


def test_manifests_below_a_path_have_paths_relative_to_it(seeded, mirror):
    seeded.commit({"infra/ai/fleet/fleet.yaml": "inner", "infra/ai/cards/c/card.yaml": "card"})
    seeded.push()
    tree = _tree(GitRepo(seeded.url, "main", mirror, "infra/ai"))
    assert {path: file.data for path, file in tree.items()} == {
        "fleet/fleet.yaml": b"inner",
        "cards/c/card.yaml": b"card",
    }


@pytest.mark.parametrize("path", ["nowhere", "fleet/fleet.yaml", "link", "fleet/*"])
def test_a_path_that_is_no_directory_of_the_commit_is_named(seeded, mirror, path, refused):
    seeded.git("update-index", "--add", "--cacheinfo", f"120000,{seeded.blob(b'fleet')},link")
    seeded.commit_index()
    seeded.push()
    repo = GitRepo(seeded.url, "main", mirror, path)

    async def read():
        await repo.tree(await repo.head())

    assert path in refused(read(), SRC_NO_PATH).message


def test_a_commit_without_the_folders_has_no_manifests(remote, mirror):
    remote.commit({"README.md": "x"})
    remote.push()
    assert _tree(GitRepo(remote.url, "main", mirror)) == {}


def test_a_thousand_manifests_are_read_in_one_go(seeded, repo):
    seeded.commit({f"fleet/deployments/d{i}.yaml": f"name: d{i}\n" for i in range(1000)})
    seeded.push()
    tree = _tree(repo)
    assert len(tree) == 1001
    assert tree["fleet/deployments/d999.yaml"].data == b"name: d999\n"


def test_more_manifests_than_memory_should_hold_are_refused(seeded, repo, refused):
    """One blob under many names: cheap to push, expensive to hold."""
    blob = seeded.blob(b"#" * 1024 * 1024)
    records = "".join(f"100644 {blob}\tfleet/n{i}.yaml\0" for i in range(65))
    seeded.git("update-index", "-z", "--add", "--index-info", stdin=records.encode())
    seeded.commit_index()
    seeded.push()

    async def read():
        await repo.tree(await repo.head())

    refused(read(), SRC_INVALID)


@pytest.mark.parametrize("commit", ["0" * 40, "HEAD", "--help", "dir-" + "0" * 40, ""])
def test_a_commit_that_is_not_there_is_an_error_and_keeps_the_mirror(repo, mirror, commit, refused):
    asyncio.run(repo.head())
    before = mirror.stat().st_ino
    refused(repo.tree(CommitId(commit)), SRC_UNREACHABLE)
    asyncio.run(repo.head())
    assert mirror.stat().st_ino == before

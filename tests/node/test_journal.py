"""What a node remembers on disk, and what happens while it cannot."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from pathlib import Path

import pytest

from skulk.core.coordination import compose
from skulk.core.domain import Blueprint, CommitId, NodeName
from skulk.core.errors import SRC_DISK, Transient
from skulk.core.ports import Persisted
from skulk.node.coordination import Coordination
from skulk.node.journal import FileJournal
from skulk.sim.clock import VirtualClock, run
from skulk.sim.node import SimNode

HEAD = "apiVersion: skulk.dev/v1alpha1\nkind: {kind}\nmetadata:\n  name: demo\nspec:\n"
MANIFESTS = {
    "fleet/fleet.yaml": HEAD.format(kind="Fleet") + "  namespace: demo\n",
    "fleet/nodes/demo.yaml": HEAD.format(kind="Node") + "  ordinal: 1\n",
}


@pytest.mark.parametrize("text", ["", "{{{", "[]", '{"accepted": 5}', "\x00"])
def test_a_damaged_journal_reads_as_empty(tmp_path: Path, text: str):
    (tmp_path / "journal.json").write_text(text)
    assert FileJournal(tmp_path / "journal.json").load() == Persisted()


def test_what_was_saved_is_there_again(tmp_path: Path):
    saved = Persisted(accepted=CommitId("c" * 40))
    FileJournal(tmp_path / "journal.json").save(saved)
    assert FileJournal(tmp_path / "journal.json").load() == saved


def test_a_journal_that_cannot_be_written_is_a_named_error(tmp_path: Path):
    journal = FileJournal(tmp_path / "gone" / "journal.json")
    with pytest.raises(Transient, match=r"journal\.json cannot be written") as caught:
        journal.save(Persisted())
    assert caught.value.code is SRC_DISK


def test_a_commit_that_cannot_be_remembered_is_taken_as_soon_as_it_can(tmp_path: Path):
    async def story() -> None:
        sim = SimNode()
        sim.journal = FileJournal(tmp_path / "journal.json")  # type: ignore[assignment]
        obstacle = tmp_path / "journal.tmp"
        obstacle.mkdir()
        commit = sim.repo.commit(MANIFESTS)
        await sim.boot()
        await sim.run_for(30)
        assert sim.source is not None
        assert sim.source.state.accepted is None, "what is not durable is not acted on"
        assert "SK-SRC-014" in sim.source.state.conditions[0].message
        obstacle.rmdir()
        await sim.run_for(900)
        assert sim.source.state.accepted == commit

    run(story())


def test_promise_document_and_life_survive_and_only_the_newest_body_is_kept(tmp_path: Path):
    path = tmp_path / "journal.json"
    journal = FileJournal(path)
    journal.save(Persisted(accepted=CommitId("c" * 40), promised=7, document=b"first", proof=b"\x00\xff", life=3))
    saved = replace(journal.load(), document=b"second", promised=8)
    journal.save(saved)
    assert FileJournal(path).load() == saved
    assert len(list(tmp_path.iterdir())) == 2
    journal.save(replace(saved, document=None))
    assert FileJournal(path).load().document is None
    assert [p.name for p in tmp_path.iterdir()] == ["journal.json"]


def test_a_damaged_body_is_no_document_and_the_promise_stays(tmp_path: Path):
    path = tmp_path / "journal.json"
    FileJournal(path).save(Persisted(promised=7, document=b"body"))
    (body,) = tmp_path.glob("document-*.json")
    body.write_bytes(b"bod")
    assert FileJournal(path).load() == Persisted(promised=7)
    body.unlink()
    assert FileJournal(path).load() == Persisted(promised=7)
    path.write_text(json.dumps({"promised": 7, "document": "../../etc/passwd", "proof": "!", "life": "x"}))
    assert FileJournal(path).load() == Persisted(promised=7)


def test_a_body_that_cannot_be_written_leaves_the_journal_as_it_was(tmp_path: Path):
    path = tmp_path / "journal.json"
    journal = FileJournal(path)
    journal.save(Persisted(promised=7, document=b"body"))
    for file in tmp_path.glob("document-*"):
        file.unlink()
    # a directory where the next body would be: it cannot be replaced by a file
    digest = hashlib.sha256(hashlib.sha256(b"next").hexdigest().encode()).hexdigest()[:16]
    (tmp_path / f"document-{digest}.json" / "x").mkdir(parents=True)
    with pytest.raises(Transient) as caught:
        journal.save(Persisted(promised=8, document=b"next"))
    assert caught.value.code is SRC_DISK
    assert journal.load().promised == 7
    assert FileJournal(path).load().promised == 7


def test_a_node_with_another_name_does_not_follow_what_was_made_for_the_old_one(tmp_path: Path):
    journal = FileJournal(tmp_path / "journal.json")
    blueprint = Blueprint(CommitId("c" * 40), (), epoch=1)
    document = compose(NodeName("old"), (NodeName("old"),), blueprint)
    journal.save(Persisted(promised=1, document=document.body))
    for name, commit in (("old", blueprint.commit), ("new", None)):
        coordination = Coordination(NodeName(name), journal, VirtualClock(), lambda: None)
        assert coordination.in_force == commit
        assert coordination.state.durable.promised == 1

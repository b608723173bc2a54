"""What a node remembers on disk, and what happens while it cannot."""

from __future__ import annotations

from pathlib import Path

import pytest

from skulk.core.domain import CommitId
from skulk.core.errors import SRC_DISK, Transient
from skulk.core.ports import Persisted
from skulk.node.journal import FileJournal
from skulk.sim.clock import run
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

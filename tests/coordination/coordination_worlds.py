"""Small fleets for coordination tests: n1 … nN with ordinals 1 … N, and deployments of one card."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TypeVar

from skulk.core.coordination import (
    Announce,
    Document,
    Heard,
    Local,
    Observed,
    Outputs,
    Report,
    State,
    Validated,
    compose,
    coordinate,
)
from skulk.core.coordination.limits import EPOCHS_PER_ROUND, SETTLE_SECONDS
from skulk.core.domain import (
    Blueprint,
    BootId,
    Card,
    CardFile,
    CardName,
    CommitId,
    Deployment,
    DeploymentName,
    EngineBuild,
    Fleet,
    KvShape,
    LocalSource,
    Member,
    Node,
    NodeName,
    Placement,
    Quorum,
    Reason,
    RunningPlacement,
)
from skulk.core.planner import plan

T = TypeVar("T")
GIB = 2**30


def card(name: str = "fox", revision: str = "r1") -> Card:
    return Card(
        name=CardName(name),
        model_id=f"org/{name}",
        source=LocalSource(name),
        revision=revision,
        files=(CardFile("model.safetensors", GIB, (name.encode().hex() + "0" * 64)[:64]),),
        storage_bytes=GIB,
        layers=4,
        hidden_size=256,
        kv=KvShape(full_layers=4, kv_heads=4, head_dim=64),
        context_length=8192,
        compatible_backends=("mlx",),
    )


def deployment(name: str, **changes: object) -> Deployment:
    base = Deployment(DeploymentName(name), CardName("fox"), context_tokens=4096)
    return replace(base, **changes)  # type: ignore[arg-type]


def fleet(
    nodes: int | tuple[str, ...] = 3, *deployments: Deployment, quorum: Quorum = Quorum.NONE, revision: str = "r1"
) -> Fleet:
    """Ordinals by the number in the name."""
    names = tuple(f"n{i + 1}" for i in range(nodes)) if isinstance(nodes, int) else nodes
    fox = card(revision=revision)
    return Fleet(
        name="demo",
        namespace="demo",
        commit=CommitId("c"),
        nodes={NodeName(name): Node(NodeName(name), int(name[1:])) for name in names},
        cards={fox.name: fox},
        deployments={d.name: d for d in (deployments or (deployment("chat", replicas=2), deployment("code")))},
        quorum=quorum,
    )


# --- one node by hand ---------------------------------------------------------------------------------------------

BUILD = EngineBuild("mlx-cpu", "mlx", "1.0", "d1")
C1, C2, C3 = CommitId("1" * 40), CommitId("2" * 40), CommitId("3" * 40)


def member(name: str) -> Member:
    return Member(NodeName(name), BootId(f"boot-{name}"), 16 * GIB, (BUILD,), os="linux", arch="x86_64")


def validated(commit: CommitId, wanted: Fleet | None = None) -> Validated:
    return Validated(commit, replace(wanted or fleet(), commit=commit))


def report(name: str, **changes: object) -> Report:
    base = Report(
        node=NodeName(name),
        boot=BootId(f"boot-{name}"),
        promised=0,
        accepted=None,
        validated=frozenset({C1}),
        invalid=(),
        member=member(name),
        running=(),
        refusals=(),
        stock_taken=True,
        graced=False,
    )
    return replace(base, **changes)  # type: ignore[arg-type]


def document(author: str, epoch: int, seq: int = 0, members: str = "n1 n2 n3", commit: CommitId = C1) -> Document:
    """A document with nothing in it, of the `epoch`-th round."""
    number = (epoch - 1) * EPOCHS_PER_ROUND + int(author[1:])
    names = [NodeName(name) for name in members.split()]
    return compose(NodeName(author), names, Blueprint(commit, epoch=number, seq=seq))


def running(placement: Placement, node: str) -> RunningPlacement:
    return RunningPlacement(
        uid=placement.uid,
        deployment=placement.deployment,
        replica=placement.replica,
        model=placement.model,
        node=NodeName(node),
        backend=placement.backend,
        context_tokens=placement.context_tokens,
        concurrency=placement.concurrency,
        launch_hash=placement.launch_hash,
        content_hash=placement.content_hash,
        memory_bytes=placement.ranks[0].memory_bytes,
        complete=True,
    )


@dataclass
class Desk:
    """The coordination of n1, round by round: change the facts, let time pass, see what it wants done."""

    observed: Observed = field(
        default_factory=lambda: Observed(
            Local(member("n1")),
            live=frozenset({NodeName("n1"), NodeName("n2"), NodeName("n3")}),
            changes=2,
            commits=(validated(C1),),
        )
    )
    state: State = field(default_factory=State)
    now: float = 100.0
    planned: list[tuple[Fleet, tuple[Member, ...], tuple[RunningPlacement, ...]]] = field(default_factory=list)
    outputs: Outputs = field(default_factory=Outputs)

    def _plan(self, wanted, sessions, members, running, refusals):  # type: ignore[no-untyped-def]
        self.planned.append((wanted, tuple(members), tuple(running)))
        return plan(wanted, sessions, members, running, refusals)

    def hears(self, *reports: Report, answers: int | None = None) -> Desk:
        """New reports; `answers` is the question they answer, by default the newest one."""
        question = self.state.question if answers is None else answers
        heard = {r.node: Heard(r, question) for r in reports}
        return self.sees(heard={**self.observed.heard, **heard})

    def sees(self, **changes: object) -> Desk:
        self.observed = replace(self.observed, **changes)  # type: ignore[arg-type]
        return self

    def lives(self, names: str, **changes: object) -> Desk:
        """Another membership."""
        live = frozenset(NodeName(name) for name in names.split())
        return self.sees(live=live, changes=self.observed.changes + 1, **changes)

    def round(self, seconds: float = 0.0) -> Outputs:
        """Let time pass, then one round."""
        self.now += seconds
        self.state, self.outputs = coordinate(self.state, self.observed, self.now, self._plan)
        return self.outputs

    def starts_term(self) -> Desk:
        """Settle, and ask."""
        self.round()
        self.round(SETTLE_SECONDS)
        assert self.state.term is not None
        return self

    def publishes(self) -> Desk:
        """A term with n2 and n3 that has published its first document."""
        self.starts_term().hears(report("n2"), report("n3")).round()
        assert self.published
        return self

    def want(self, kind: type[T]) -> list[T]:
        """Actions of this kind in the last round."""
        return [action for action in self.outputs.actions if isinstance(action, kind)]

    @property
    def published(self) -> Document | None:
        """What the last round announced."""
        announced = self.want(Announce)
        held = self.state.durable.document
        return held if held is not None and announced and announced[-1].version == held.version else None

    @property
    def reasons(self) -> set[Reason]:
        """Why it waits."""
        return {line.reason for line in self.outputs.waiting}

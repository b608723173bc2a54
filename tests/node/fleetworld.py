"""A fleet of a, b and c as one node after another sees it: pictures by hand, blueprints by the planner."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

from skulk.core.domain import (
    Blueprint,
    BootId,
    Card,
    CardFile,
    CardName,
    CommitId,
    Condition,
    ConditionType,
    Deployment,
    DeploymentName,
    EngineBuild,
    Fleet,
    FleetView,
    KvShape,
    Launch,
    Link,
    LocalSource,
    Member,
    Node,
    NodeName,
    Placement,
    PlacementUid,
    Presence,
    Reason,
    Resource,
    RunnerFacts,
    ServedModel,
    Share,
    Status,
    WeightsFacts,
)
from skulk.core.formats.content import content_key
from skulk.core.planner import plan
from skulk.core.ports import Machine
from skulk.core.reconcile.ledger import Ledger, Record
from skulk.core.reconcile.machine import Phase
from skulk.core.reconcile.summary import Since
from skulk.core.routing import resolve
from skulk.core.wire.planes_share import decode_share, encode_share
from skulk.node.picture import Picture
from skulk.node.share import share_of
from skulk.node.view import build

GIB = 2**30
A, B, C = NodeName("a"), NodeName("b"), NodeName("c")
COMMIT = CommitId("1" * 40)
CHAT = DeploymentName("chat")
BUILD = EngineBuild("mlx-cpu", "mlx", "1.0", "d1", "cpu")
NOW = 1_000.0
WALL = 1_700_000_000.0
FOX = Card(
    name=CardName("fox"),
    model_id="org/fox",
    source=LocalSource("fox"),
    revision="r1",
    files=(CardFile("model.safetensors", GIB, "f" * 64),),
    storage_bytes=GIB,
    layers=4,
    hidden_size=256,
    kv=KvShape(full_layers=4, kv_heads=4, head_dim=64),
    context_length=8192,
    compatible_backends=("mlx",),
)
ACCEPTED = (
    Condition(ConditionType.READY, Status.TRUE, Reason.COMMIT_ACCEPTED, "the newest commit is accepted", COMMIT, WALL),
)


def deployment(name: str = "chat", **changes: object) -> Deployment:
    return replace(Deployment(DeploymentName(name), FOX.name, context_tokens=4096), **changes)  # type: ignore[arg-type]


def fleet(*deployments: Deployment, nodes: str = "a b c") -> Fleet:
    return Fleet(
        name="demo",
        namespace="demo",
        commit=COMMIT,
        nodes={NodeName(name): Node(NodeName(name), i) for i, name in enumerate(nodes.split(), 1)},
        cards={FOX.name: FOX},
        deployments={d.name: d for d in deployments or (deployment(replicas=2),)},
    )


def blueprint(wanted: Fleet, members: str) -> Blueprint:
    records = [Member(NodeName(name), BootId(name), 16 * GIB, (BUILD,)) for name in members.split()]
    return plan(wanted, (), records, (), ())


def runner(placement: Placement, **changes: object) -> RunnerFacts:
    launch = Launch(
        uid=placement.uid,
        deployment=placement.deployment,
        replica=placement.replica,
        model=placement.model,
        engine="mlx",
        backend=placement.backend,
        engine_digest="d1",
        model_dir="dir",
        context_tokens=placement.context_tokens,
        concurrency=placement.concurrency,
        launch_hash=placement.launch_hash,
        content_hash=placement.content_hash,
        memory_bytes=placement.ranks[0].memory_bytes,
    )
    return replace(RunnerFacts(launch, Link.CONNECTED, pid=7, started_at=NOW - 60), **changes)  # type: ignore[arg-type]


@dataclass
class World:
    """What there is to know. `runners` by uid: on which node, in which phase, with which facts."""

    fleet: Fleet
    blueprint: Blueprint
    presence: dict[NodeName, Presence] = field(default_factory=dict)
    phases: dict[PlacementUid, Phase] = field(default_factory=dict)
    facts: dict[PlacementUid, RunnerFacts] = field(default_factory=dict)
    weights: dict[NodeName, WeightsFacts] = field(default_factory=dict)
    since: dict[NodeName, Since] = field(default_factory=dict)
    now: float = NOW

    def placement(self, node: NodeName) -> Placement:
        (found,) = self.blueprint.on_node(node)
        return found

    def start(self, node: NodeName, phase: Phase = Phase.READY, **changes: object) -> PlacementUid:
        for placement in self.blueprint.on_node(node):
            self.phases[placement.uid] = phase
            self.facts[placement.uid] = runner(placement, **changes)
        return self.placement(node).uid

    def picture(self, node: NodeName, **changes: object) -> Picture:
        """What the node knows by itself, and the presence of the others."""
        here = {p.uid for p in self.blueprint.on_node(node)} & self.phases.keys()
        facts = self.weights.get(node)
        picture = Picture(
            node=node,
            version="1.0",
            fleet=self.fleet,
            attempted=COMMIT,
            accepted=COMMIT,
            leaving=False,
            source=ACCEPTED,
            machine=Machine(16 * GIB, "linux", "arm64", (BUILD,), disk_bytes=GIB),
            blueprint=self.blueprint,
            ledger=Ledger({uid: Record(uid, self.phases[uid], since=NOW - 30) for uid in here}),
            waiting=(),
            routable=frozenset(uid for uid in here if self.phases[uid] is Phase.READY),
            runners={uid: self.facts[uid] for uid in here},
            weights={facts.content: facts} if facts else {},
            files=frozenset({"f" * 64}) if facts and facts.ready else frozenset(),
            why=lambda name: (f"planned {name}",),
            checks=(),
            wall=WALL + self.now,
            wall_offset=WALL,
            presence=self.presence,
        )
        return replace(picture, **changes)  # type: ignore[arg-type]

    def share(self, node: NodeName, change: Callable[[Picture], Picture] = lambda p: p) -> Share:
        """As the others get it: over the wire."""
        picture = change(self.picture(node))
        share = share_of(picture, build(picture, Since(), (), 0))
        assert decode_share(encode_share(share), node) == share
        return share

    def view(self, node: NodeName, shares: Mapping[NodeName, Share], **changes: object) -> FleetView:
        memory = self.since.setdefault(node, Since())
        return build(self.picture(node, shares=shares, **changes), memory, (), 0)

    def all_shares(self) -> dict[NodeName, Share]:
        return {name: self.share(name) for name in self.fleet.nodes}


def world(members: str = "a b c", *deployments: Deployment) -> World:
    """Everybody is live; nothing runs yet."""
    wanted = fleet(*deployments)
    made = World(wanted, blueprint(wanted, members))
    made.presence.update(dict.fromkeys(wanted.nodes, Presence.LIVE))
    return made


def fetching(done: int, total: int = GIB) -> WeightsFacts:
    return WeightsFacts(FOX.name, content_key(FOX), active=True, done_bytes=done, total_bytes=total)


def fetched() -> WeightsFacts:
    return WeightsFacts(FOX.name, content_key(FOX), ready=True)


def named(view: FleetView, kind: str, name: str) -> Resource:
    (found,) = [r for r in view.resources[kind] if r.name == name]
    return found


def model(view: FleetView, name: str = "chat") -> ServedModel:
    found = resolve(name, view.models)
    assert found is not None
    return found


def status(resource: Resource, type_: ConditionType = ConditionType.READY) -> str:
    return next(c.status.value for c in resource.conditions if c.type is type_)

"""Small fleets for planner tests, and a world that does what a blueprint says, one step at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace

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
    PlacementUid,
    Refusal,
    RunningPlacement,
    begun,
)
from skulk.core.memory import GIB
from skulk.core.planner import check, plan
from skulk.core.planner.check import Finding

MLX = EngineBuild("mlx-cpu", "mlx", "0.32.0", "d-mlx", device="cpu")
METAL = EngineBuild("mlx-metal", "mlx", "0.32.0", "d-mlx", device="M4")
VULKAN = EngineBuild(
    "llama_cpp-vulkan",
    "llama_cpp",
    "0.3.9",
    "d-vk",
    device="RX",
    unified=False,
    device_memory_bytes=16 * GIB,
)
LLAMA_CPU = EngineBuild("llama_cpp-cpu", "llama_cpp", "0.3.9", "d-cpu")


def card(name: str = "fox", **changes: object) -> Card:
    """A card of 1 GiB whose KV cache is 4 KiB per token and sequence."""
    base = Card(
        name=CardName(name),
        model_id=f"org/{name}",
        source=LocalSource(name),
        revision="r1",
        files=(CardFile("model.safetensors", GIB, (name.encode().hex() + "0" * 64)[:64]),),
        storage_bytes=GIB,
        layers=4,
        hidden_size=4096,
        kv=KvShape(full_layers=4, kv_heads=4, head_dim=64),
        context_length=8192,
        compatible_backends=("mlx",),
    )
    return replace(base, **changes)  # type: ignore[arg-type]


def node(name: str, ordinal: int = 1, **changes: object) -> Node:
    return replace(Node(NodeName(name), ordinal), **changes)  # type: ignore[arg-type]


def member(name: str, gib: float = 16, builds: tuple[EngineBuild, ...] = (MLX,), **changes: object) -> Member:
    base = Member(NodeName(name), BootId(f"boot-{name}"), int(gib * GIB), builds=builds, os="linux", arch="x86_64")
    return replace(base, **changes)  # type: ignore[arg-type]


def deployment(name: str = "chat", model: str = "fox", **changes: object) -> Deployment:
    base = Deployment(DeploymentName(name), CardName(model), context_tokens=4096)
    return replace(base, **changes)  # type: ignore[arg-type]


def fleet(
    nodes: Iterable[Node], deployments: Iterable[Deployment], cards: Iterable[Card] = (), commit: str = "c1"
) -> Fleet:
    return Fleet(
        name="demo",
        namespace="demo",
        commit=CommitId(commit),
        nodes={n.name: n for n in nodes},
        cards={c.name: c for c in (tuple(cards) or (card(),))},
        deployments={d.name: d for d in deployments},
    )


def as_running(placement: Placement, *, complete: bool = True) -> RunningPlacement:
    """What the member of the placement's node would report."""
    return replace(begun(placement, placement.nodes[0]), complete=complete)


ALWAYS: Callable[[str], bool] = lambda _: True  # noqa: E731  # a constant, not a function definition


@dataclass
class World:
    """Members that obey: `step` plans and does a part of what the blueprint asks for."""

    fleet: Fleet
    members: Sequence[Member]
    refusals: tuple[Refusal, ...] = ()
    running: dict[PlacementUid, RunningPlacement] = field(default_factory=dict)
    started: set[PlacementUid] = field(default_factory=set)
    """Those that have a process and hold memory: a placement that waits for its predecessor has none."""

    def plan(self) -> Blueprint:
        """Plan and lint. Overcommitment is left to the caller: a world may shrink under its placements."""
        found = plan(self.fleet, (), self.members, tuple(self.running.values()), self.refusals)
        notes = [n for n in check(found, self.fleet, self.members) if n.finding is not Finding.OVERCOMMITTED]
        assert notes == []
        return found

    def step(self, happens: Callable[[str], bool] = ALWAYS) -> Blueprint:
        """One round. Each thing that could happen to a placement is asked for by name, so that a test can hold
        it up. Absent members do nothing."""
        blueprint = self.plan()
        live = {m.node for m in self.members}
        before = dict(self.running)
        wanted = {p.uid: p for p in blueprint.placements}
        retiring = {r.uid: r for r in blueprint.retiring}
        for uid, entry in before.items():
            if entry.node in live and happens(uid):
                self._old(uid, entry, wanted, retiring, before)
        for uid, placement in wanted.items():
            if placement.ranks[0].node not in live or not happens(uid):
                continue
            entry = self.running.get(uid)
            if entry is None and uid not in before:
                self.running[uid] = as_running(placement, complete=False)
            elif entry is not None and not entry.complete and not entry.draining:
                if uid in self.started:
                    self.running[uid] = replace(entry, complete=True)
                elif placement.after is None or placement.after not in self.running:
                    self.started.add(uid)
        return blueprint

    def _old(self, uid, entry, wanted, retiring, before):  # type: ignore[no-untyped-def]
        if entry.draining:
            del self.running[uid]
            self.started.discard(uid)
        elif uid in retiring:
            r = retiring[uid]
            ready = r.until is None or ((new := before.get(r.until)) is not None and new.complete and not new.draining)
            if ready and not r.keep:
                self.running[uid] = replace(entry, draining=True)
        elif uid not in wanted:
            self.running[uid] = replace(entry, draining=True)

    def settle(self, rounds: int = 12) -> Blueprint:
        """Step until nothing changes; fail when that takes too long."""
        for _ in range(rounds):
            before, started = dict(self.running), set(self.started)
            blueprint = self.step()
            if (self.running, self.started) == (before, started):
                return blueprint
        raise AssertionError(f"no fixed point within {rounds} rounds")

    def until(self, reached: Callable[[], bool], least_serving: int = 0, rounds: int = 24) -> None:
        """Step until `reached`, with never fewer serving replicas of `chat`; fail when that takes too long."""
        for _ in range(rounds):
            if reached():
                return
            self.step()
            assert len(self.serving()) >= least_serving
        raise AssertionError(f"not reached within {rounds} rounds")

    def push(self, *deployments: Deployment, commit: str = "c2", cards: Iterable[Card] = ()) -> None:
        """A new commit with other deployments (and cards, when given)."""
        self.fleet = replace(
            self.fleet,
            commit=CommitId(commit),
            deployments={d.name: d for d in deployments},
            cards={c.name: c for c in cards} or self.fleet.cards,
        )

    def held_bytes(self, name: str) -> int:
        """Memory that processes on that node hold."""
        return sum(r.memory_bytes for r in self.running.values() if r.node == name and r.uid in self.started)

    def serving(self, name: str = "chat") -> list[RunningPlacement]:
        return [r for r in self.running.values() if r.deployment == name and r.complete and not r.draining]


def one_node(*deployments: Deployment, gib: float = 16, **kwargs: object) -> World:
    return World(fleet([node("a")], deployments or (deployment(),), **kwargs), [member("a", gib)])  # type: ignore[arg-type]

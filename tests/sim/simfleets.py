"""Three simulated nodes with one repository and one network: the real loops and the real planes, on virtual time."""

from __future__ import annotations

from collections.abc import Callable

from simworlds import card, deployment, node, tree

from skulk.core.domain import PlacementUid
from skulk.core.wire.planes_roster import public_key_text
from skulk.sim.fakes import FakeRepo
from skulk.sim.node import SimNode
from skulk.sim.planes import SimNetwork, sim_key

NAMES = ("a", "b", "c")
CARDS = {"fox": card("fox"), "owl": card("owl")}


def files(**deployments: str) -> dict[str, str]:
    made = tree(deployments, CARDS)
    del made["fleet/nodes/demo.yaml"]
    for ordinal, name in enumerate(NAMES, 1):
        text = node(name, address=f"10.0.0.{ordinal}", publicKey=public_key_text(sim_key(name)))
        made[f"fleet/nodes/{name}.yaml"] = text.replace("ordinal: 1", f"ordinal: {ordinal}")
    return made


CHAT = files(chat=deployment("chat", "fox", contextTokens="2048"))


def apart(replicas: int, **spec: str) -> dict[str, str]:
    """So many replicas, each on a node of its own."""
    wanted = {"contextTokens": "2048", "replicas": str(replicas), "placement": "{spread: node}", **spec}
    return files(chat=deployment("chat", "fox", **wanted))


TWICE = apart(2)


class Fleet:
    """Three machines, one repository, one network."""

    def __init__(self, seed: int = 0) -> None:
        self.network = SimNetwork(seed=seed)
        self.repo = FakeRepo()
        self.nodes = {n: SimNode(n, seed=seed + i, network=self.network, repo=self.repo) for i, n in enumerate(NAMES)}

    def __getitem__(self, name: str) -> SimNode:
        return self.nodes[name]

    async def boot(self) -> None:
        for sim in self.nodes.values():
            await sim.boot()

    async def pass_time(self, seconds: float) -> None:
        """An error of a loop comes out here instead of being lost."""
        for sim in self.nodes.values():
            await sim.run_for(seconds / len(self.nodes))

    async def until(self, met: Callable[[], bool], seconds: float = 60.0) -> float:
        clock = self["a"].clock
        began = clock.now()
        while not met():
            assert clock.now() - began < seconds, f"not within {seconds} s: {self.documents()}"
            await self.pass_time(0.06)
        return clock.now() - began

    def documents(self) -> dict[str, tuple[int, int, str] | None]:
        """Epoch, seq and commit of the document that each live daemon follows."""
        found: dict[str, tuple[int, int, str] | None] = {}
        for name, sim in self.nodes.items():
            document = sim.coordination.state.durable.document if sim.loop is not None else None
            found[name] = None if document is None else (*document.version.key, document.commit)
        return found

    def agreed(self, commit: str, *names: str) -> bool:
        """These nodes follow one document, of that commit."""
        held = {self.documents()[name] for name in names or NAMES}
        return len(held) == 1 and (document := held.pop()) is not None and document[2] == commit

    def alive(self) -> dict[PlacementUid, str]:
        return {u: n for n, sim in self.nodes.items() for u, p in sim.host.processes.items() if p.alive}

    def ready(self, wanted: int) -> bool:
        """So many runners live, and they serve on nodes that are up."""
        serving = [h for sim in self.nodes.values() if sim.loop is not None for h in sim.serving.values()]
        return len(self.alive()) == wanted == sum(map(len, serving))

    @property
    def coordinator(self) -> str:
        names = {sim.coordination.outputs.coordinator for sim in self.nodes.values() if sim.loop is not None}
        assert len(names) == 1, names
        return str(names.pop())

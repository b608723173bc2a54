"""An Ansible inventory from the Node manifests, in the form that dynamic inventory scripts print (Ansible's
documentation, "Developing dynamic inventory"). Pure; knows nothing of how a host is logged into beyond its address.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from skulk.core.domain.desired import Fleet, Node, Participation
from skulk.core.domain.ids import NodeName
from skulk.core.wire.planes_roster import PLANES_PORT, host_and_port

SSH_PORT = 22

ALL_NODES = "skulk_nodes"
"""The group of every declared node."""


def inventory(fleet: Fleet) -> dict[str, object]:
    """Groups with their hosts, and `_meta.hostvars`: what `--list` prints. Everything in a fixed order."""
    groups: dict[str, list[str]] = {ALL_NODES: []}
    for name, node in sorted(fleet.nodes.items()):
        for group in (ALL_NODES, *groups_of(node)):
            groups.setdefault(group, []).append(name)
    listed: dict[str, object] = {name: {"hosts": hosts} for name, hosts in sorted(groups.items())}
    listed["all"] = {"children": sorted(groups)}
    listed["_meta"] = {"hostvars": {name: host_variables(fleet, name) for name in sorted(fleet.nodes)}}
    return listed


def groups_of(node: Node) -> tuple[str, ...]:
    """By platform, backend, role and label; names that Ansible takes: letters, digits and underscores."""
    groups = [f"role_{node.participation.value}"]
    if node.os is not None:
        groups.append(f"os_{node.os}")
        if node.arch is not None:
            groups.append(f"platform_{node.os}_{node.arch}")
    groups += [f"backend_{backend}" for backend in node.backends or ()]
    groups += [f"label_{key}_{value}" for key, value in sorted(node.labels.items())]
    if node.cordon or node.drain:
        groups.append("cordoned")
    return tuple(dict.fromkeys(re.sub(r"\W", "_", group, flags=re.ASCII) for group in groups))


def host_variables(fleet: Fleet, name: NodeName) -> dict[str, object]:
    """How the host is logged into (what is not known is left out: then Ansible's and ssh's own settings hold), and
    what a playbook needs to know of the node and its fleet."""
    node = fleet.nodes[name]
    address = None if node.address is None else host_and_port(node.address)
    found: dict[str, object] = {
        "skulk_node_name": name,
        "skulk_node_ordinal": node.ordinal,
        "skulk_node_place": fleet.places.get(f"Node/{name}", ""),
        "skulk_node_engines": list(engines_of(node)),
        "skulk_node_spec": _spec(fleet, name),
        "skulk_fleet_name": fleet.name,
        "skulk_fleet_namespace": fleet.namespace,
        "skulk_fleet_version": fleet.version or "",
        # Without keys a gateway beyond loopback refuses to start.
        "skulk_fleet_open": bool(fleet.access.keys) or fleet.access.anonymous,
        "skulk_planes_port": PLANES_PORT if address is None else address[1],
    }
    if node.ssh.host is not None or address is not None:
        found["ansible_host"] = node.ssh.host or (address[0] if address is not None else "")
    if node.ssh.port != SSH_PORT:
        found["ansible_port"] = node.ssh.port
    if node.ssh.user is not None:
        found["ansible_user"] = node.ssh.user
    return found


def engines_of(node: Node) -> tuple[str, ...]:
    """The engines that the node's backends ask for (`mlx-metal` → `mlx`), in their order. Backends that are not
    declared: `mlx`, which runs on every machine that Skulk does. None for a node that runs no models."""
    if node.participation is Participation.MANAGEMENT:
        return ()
    if node.backends is None:
        return ("mlx",)
    return tuple(dict.fromkeys(backend.partition("-")[0] for backend in node.backends))


def _spec(fleet: Fleet, name: NodeName) -> Mapping[str, object]:
    spec = fleet.documents.get(f"Node/{name}", {}).get("spec", {})
    return spec if isinstance(spec, Mapping) else {}

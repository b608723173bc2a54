"""The node's own readings and health as Prometheus metrics. What was not measured has no sample. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from prometheus_client.core import GaugeMetricFamily, Metric

from skulk.core.domain import FleetView
from skulk.core.health import HealthState
from skulk.core.readings import Values, entries, number, text

# metric → (help, kind of reading, its value)
_PLAIN = {
    "skulk_node_memory_total_bytes": ("Memory of the machine.", "memory", "totalBytes"),
    "skulk_node_memory_available_bytes": ("Memory that can be used now.", "memory", "availableBytes"),
    "skulk_node_swap_used_bytes": ("Memory that is swapped out.", "memory", "swapUsedBytes"),
    "skulk_node_cpu_utilisation_ratio": ("Part of processor time in use, 0 to 1.", "system", "cpuUtilisation"),
    "skulk_node_temperature_celsius": ("The hottest sensor of the processor.", "system", "temperatureCelsius"),
    "skulk_node_power_watts": ("Power of the processor package.", "system", "powerWatts"),
    "skulk_daemon_resident_bytes": ("Memory of the daemon itself.", "daemon", "residentBytes"),
    "skulk_daemon_loop_lag_seconds": ("How late the daemon's loop was, at worst.", "daemon", "loopLagSeconds"),
}
_DEVICE = {
    "skulk_accelerator_utilisation_ratio": ("Part of the time in use, 0 to 1.", "utilisation"),
    "skulk_accelerator_memory_total_bytes": ("Memory that the device can use.", "memoryTotalBytes"),
    "skulk_accelerator_memory_used_bytes": ("Memory of the device in use.", "memoryUsedBytes"),
    "skulk_accelerator_temperature_celsius": ("Temperature of the device.", "temperatureCelsius"),
    "skulk_accelerator_power_watts": ("Power of the device.", "powerWatts"),
}


def machine_metrics(view: FleetView) -> Iterator[Metric]:
    """From the status of the Node resource of the node that answers."""
    own = next((r.status for r in view.resources.get("nodes", ()) if r.name == view.node), {})
    readings = _mapping(own.get("readings"))
    for name, (about, kind, key) in _PLAIN.items():
        family = GaugeMetricFamily(name, about, labels=())
        _add(family, (), number(_mapping(readings.get(kind)), key))
        yield family
    free = GaugeMetricFamily("skulk_node_disk_free_bytes", "Free at a directory of the node.", labels=("path",))
    for disk in entries(_mapping(readings.get("disk")), "disks"):
        _add(free, (text(disk, "path") or "",), number(disk, "freeBytes"))
    yield free
    yield from _devices(_mapping(readings.get("accelerator")))
    yield _health(_mapping(own.get("health")))


def _devices(accelerator: Values) -> Iterator[Metric]:
    for name, (about, key) in _DEVICE.items():
        family = GaugeMetricFamily(name, about, labels=("device", "name", "vendor"))
        # Two equal cards have equal names; the number tells them apart.
        for index, device in enumerate(entries(accelerator, "devices")):
            labels = (str(index), text(device, "name") or "", text(device, "vendor") or "")
            _add(family, labels, number(device, key))
        yield family


def _health(health: Values) -> Metric:
    family = GaugeMetricFamily("skulk_node_health", "1 for the state that the node is in.", labels=("state",))
    state = text(health, "state")
    for known in HealthState:
        if state is not None:
            family.add_metric((known.value,), float(known.value == state))
    return family


def _add(family: GaugeMetricFamily, labels: tuple[str, ...], value: float | None) -> None:
    if value is not None:
        family.add_metric(labels, value)


def _mapping(value: object) -> Values:
    return value if isinstance(value, Mapping) else {}

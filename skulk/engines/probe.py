"""What an engine environment can do: one JSON line on stdout, nothing else, from a process that ends at once.

`<python of the environment> -I -B …/skulk/engines/probe.py <engine>` prints `{engine, version, devices}`, each
device `{compute, name, memoryBytes, unified}`; exit code 1 with the reason on stderr when the engine cannot be
used. Asks the library for its devices; never a log line, never a capability flag that is compiled in.
"""

from __future__ import annotations

import json
import os
import platform
import sys
from pathlib import Path

Device = dict[str, object]


def main(argv: list[str]) -> int:
    # Libraries print on import; whatever they say goes to stderr, the answer alone to the real stdout.
    answer = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    probes = {"mlx": _mlx, "llama_cpp": _llama_cpp, "scripted": _scripted}
    engine = argv[1] if len(argv) == 2 else ""
    if engine not in probes:
        sys.stderr.write(f"usage: probe.py {'|'.join(probes)}\n")
        return 2
    try:
        version, devices = probes[engine]()
    except Exception as error:  # noqa: BLE001  # a broken environment fails in any way; the reason is the answer
        sys.stderr.write(f"{type(error).__name__}: {error}\n")
        return 1
    with answer:
        answer.write(json.dumps({"engine": engine, "version": version, "devices": devices}) + "\n")
    return 0


def _mlx() -> tuple[str, list[Device]]:
    from importlib.metadata import version

    import mlx.core as mx

    info = mx.device_info()
    device: Device = {
        "compute": "cpu",
        "name": str(info.get("device_name") or platform.machine()),
        "memoryBytes": None,
        "unified": True,
    }
    if mx.metal.is_available():
        device["compute"] = "metal"
        device["memoryBytes"] = info.get("memory_size")
    # A backend that cannot add two numbers is not one, whatever it says of itself.
    mx.eval(mx.array([1.0]) + mx.array([1.0]))
    return f"{version('mlx-lm')}+mlx.{version('mlx')}", [device]


def _llama_cpp() -> tuple[str, list[Device]]:
    # Importable is what lies here, as in a runner.
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
    from skulk.engines.llama_cpp.devices import cpu_name, gpu_devices, import_library

    library = import_library()
    library.llama_backend_init()
    devices: list[Device] = []
    found = gpu_devices(library)
    for compute in dict.fromkeys(device.compute for device in found):
        # One model is spread over all devices of a kind, so they are one backend with all their memory.
        alike = [device for device in found if device.compute == compute]
        known = [device.memory_bytes for device in alike if device.memory_bytes is not None]
        devices.append(
            {
                "compute": compute,
                "name": ", ".join(device.name for device in alike),
                "memoryBytes": sum(known) if len(known) == len(alike) else None,
                "unified": all(device.unified for device in alike),
            }
        )
    # Every build computes on the CPU too, and one that found no device computes nowhere else.
    devices.append({"compute": "cpu", "name": cpu_name(), "memoryBytes": None, "unified": True})
    return str(library.__version__), devices


def _scripted() -> tuple[str, list[Device]]:
    return "1", [{"compute": "cpu", "name": platform.machine(), "memoryBytes": None, "unified": True}]


if __name__ == "__main__":
    code = main(sys.argv)
    sys.stderr.flush()
    os._exit(code)

"""The environment variables of a child process: an allowlist, so that no secret of the daemon reaches an engine.

Hub tokens, key files, proxy passwords and whatever else the service manager put there stay behind.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

_NAMES = frozenset(
    {"PATH", "HOME", "USER", "LOGNAME", "LANG", "LANGUAGE", "TMPDIR", "TZ", "LD_LIBRARY_PATH", "LD_PRELOAD"}
)
_PATTERNS = (
    re.compile(r"LC_[A-Z]+"),
    re.compile(r"(OMP|KMP|GOMP|OPENBLAS|MKL|VECLIB|MLX|METAL|MTL|GGML|LLAMA|VK|HIP|ROCR|CUDA|HSA)_[A-Z0-9_]+"),
)
_OURS = re.compile(r"SKULK_[A-Z0-9_]+_DEADLINE_SECONDS|SKULK_MAX_OUTPUT_TOKENS|SKULK_MAX_TOKENS")
"""Before secrets are sorted out: the names of these say "token" and mean another kind."""
_SECRET = re.compile(r"TOKEN|SECRET|PASSW|CREDENTIAL|API_?KEY|PRIVATE")
"""Not even a variable with an allowed prefix passes when its name says that it is one."""
_FIXED = {
    # Everything a runner loads is on disk and verified; a library that wants the network is a mistake.
    "HF_HUB_OFFLINE": "1",
    "TRANSFORMERS_OFFLINE": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "TOKENIZERS_PARALLELISM": "false",
}


def child_environment(own: Mapping[str, str], extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """What of `own` a child may see, with the fixed offline settings; `extra` is added last."""
    kept = {name: value for name, value in own.items() if _allowed(name)}
    # A waiting OpenMP thread spins by default and would take a core from the other runners of the machine.
    kept.setdefault("OMP_WAIT_POLICY", "passive")
    return kept | _FIXED | dict(extra or {})


def _allowed(name: str) -> bool:
    if _OURS.fullmatch(name):
        return True
    if _SECRET.search(name):
        return False
    return name in _NAMES or any(pattern.fullmatch(name) for pattern in _PATTERNS)

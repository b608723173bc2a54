"""What the child process may import: its code is placed alone beside an engine's environment."""

from __future__ import annotations

import ast
import sys
from pathlib import Path

import skulk

ROOT = Path(skulk.__file__).parent
PLACED = [ROOT / "__init__.py", ROOT / "core/__init__.py", ROOT / "core/errors.py"]
PLACED += [p for d in ("core/domain", "core/formats", "core/wire", "engines") for p in sorted((ROOT / d).rglob("*.py"))]
OWN = ("skulk.core.errors", "skulk.core.domain", "skulk.core.formats", "skulk.core.wire", "skulk.engines")
ENGINE_PACKAGES = {"numpy", "jinja2", "llguidance", "mlx", "mlx_lm", "llama_cpp", "tokenizers", "transformers"}


def imported(file):
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}: imports are absolute here"
            yield node.module


def test_placed_code_imports_only_what_is_placed_the_standard_library_and_engine_packages():
    for file in PLACED:
        for module in imported(file):
            top = module.partition(".")[0]
            allowed = top in sys.stdlib_module_names or module == "skulk" or module.startswith(OWN)
            if file.is_relative_to(ROOT / "engines"):
                allowed = allowed or top in ENGINE_PACKAGES
            assert allowed, f"{file.relative_to(ROOT)} imports {module}"

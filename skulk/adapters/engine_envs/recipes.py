"""Which engines have to be compiled here, how, and from which line of their requirements. Compiles nothing."""

from __future__ import annotations

import hashlib
import platform
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Recipe:
    """A package that is published as source only. The arguments decide what comes out, so they are a part of the
    names of wheel and environment."""

    distribution: str
    cmake_arguments: tuple[str, ...]


RECIPES: Mapping[str, Recipe] = {
    # Without NATIVE=OFF the library takes the instructions of the machine that compiles it, and a wheel that is copied
    # to an older one dies with an illegal instruction. AVX2 and its like stay on.
    "llama_cpp": Recipe("llama-cpp-python", ("-DGGML_NATIVE=OFF",)),
}


def distribution(engine: str) -> str:
    """The package whose version is the engine's."""
    recipe = RECIPES.get(engine)
    return recipe.distribution if recipe is not None else engine.replace("_", "-")


def split_requirements(text: str, name: str) -> tuple[str, str]:
    """(the entry of one package with its hashes, everything else); options such as `--no-index` are in both."""
    entry: list[str] = []
    rest: list[str] = []
    inside = False
    for line in text.splitlines(keepends=True):
        if line.startswith("--"):
            entry.append(line)
            rest.append(line)
            continue
        if not line.startswith((" ", "\t")):
            inside = re.match(rf"{re.escape(name)}(\[[^\]]*\])?==", line) is not None
        (entry if inside else rest).append(line)
    return "".join(entry), "".join(rest)


def wheel_key(recipe: Recipe, entry: str) -> str:
    """16 hex digits over what a compiled wheel depends on: source (by hash), arguments, machine and C library."""
    machine = f"{sys.platform}-{platform.machine().lower()}-{'-'.join(platform.libc_ver())}"
    facts = "\0".join((entry, *recipe.cmake_arguments, machine))
    return hashlib.sha256(facts.encode()).hexdigest()[:16]

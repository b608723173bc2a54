"""One draw after the other from the same logits: ours, and the one of the library whose engine it is.

`<python of the engine's environment> -I -B bare_sampling.py ROOT ENGINE`: ROOT holds the package skulk. Answers each
line on stdin, a JSON object with settings (of `Sampling`), draws and size (of the vocabulary), with the CPU seconds of
each side. Imports nothing of Skulk before ROOT is on the path.
"""

from __future__ import annotations

import ctypes
import importlib
import json
import os
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

Draw = Callable[[int], int]
"""The token at a position."""


def main(root: str, engine: str) -> None:
    sys.path.insert(0, root)
    # A library that prints must not come between the answers.
    out = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    for line in sys.stdin:
        order = json.loads(line)
        logits = zipf_logits(order["size"])
        mine, theirs = {"llama_cpp": _llama_cpp, "mlx": _mlx}[engine](logits, order["settings"])
        sides = {"skulk": mine, "library": theirs}
        if order["number"] % 2:
            sides = dict(reversed(sides.items()))
        print(json.dumps({name: _cpu(draw, order["draws"]) for name, draw in sides.items()}), file=out)


def zipf_logits(size: int) -> np.ndarray:
    """As a language model answers: the token of rank r has a probability of about 1 / r^1.5, anywhere in the
    vocabulary. float32 [size]."""
    rng = np.random.default_rng(1)
    logits = -1.5 * np.log(np.arange(1, size + 1)) + rng.normal(0, 0.5, size)
    return rng.permutation(logits).astype(np.float32)


def _cpu(draw: Draw, draws: int) -> float:
    draw(0)
    began = time.process_time()
    drawn = {draw(position) for position in range(1, draws + 1)}
    spent = time.process_time() - began
    if len(drawn) < 2:
        raise RuntimeError(f"{draws} draws gave one token only: {drawn}")
    return spent


def _ours(settings: Mapping[str, float]) -> Callable[[np.ndarray, int], int]:
    from skulk.core.domain.requests import Sampling
    from skulk.engines.sampling import sample

    sampling = Sampling(seed=7, **settings)  # type: ignore[arg-type]
    return lambda logits, position: sample(logits, sampling, position)


def _llama_cpp(logits: np.ndarray, settings: Mapping[str, float]) -> tuple[Draw, Draw]:
    """As llama-server does: all tokens into the library's array, then through its chain."""
    library: Any = importlib.import_module("llama_cpp")
    chain = library.llama_sampler_chain_init(library.llama_sampler_chain_default_params())
    if "top_k" in settings:
        library.llama_sampler_chain_add(chain, library.llama_sampler_init_top_k(settings["top_k"]))
    if "top_p" in settings:
        library.llama_sampler_chain_add(chain, library.llama_sampler_init_top_p(settings["top_p"], 1))
    if "min_p" in settings:
        library.llama_sampler_chain_add(chain, library.llama_sampler_init_min_p(settings["min_p"], 1))
    library.llama_sampler_chain_add(chain, library.llama_sampler_init_temp(settings["temperature"]))
    library.llama_sampler_chain_add(chain, library.llama_sampler_init_dist(7))
    fields = np.dtype([("id", np.int32), ("logit", np.float32), ("p", np.float32)])
    if fields.itemsize != ctypes.sizeof(library.llama_token_data):
        raise RuntimeError("llama_token_data has other fields than these")
    tokens = np.zeros(logits.size, fields)
    ids = np.arange(logits.size, dtype=np.int32)

    def theirs(position: int) -> int:
        tokens["id"], tokens["logit"], tokens["p"] = ids, logits, 0
        data = tokens.ctypes.data_as(ctypes.POINTER(library.llama_token_data))
        candidates = library.llama_token_data_array(data, tokens.size, -1, False)
        library.llama_sampler_apply(chain, ctypes.byref(candidates))
        return int(candidates.data[candidates.selected].id)

    mine = _ours(settings)
    return (lambda position: mine(logits, position)), theirs


def _mlx(logits: np.ndarray, settings: Mapping[str, float]) -> tuple[Draw, Draw]:
    """From the array of mlx that a model returns, on both sides."""
    mx: Any = importlib.import_module("mlx.core")
    named = {"temp": settings["temperature"], **{name: settings[name] for name in settings if name != "temperature"}}
    sampler = importlib.import_module("mlx_lm.sample_utils").make_sampler(**named)
    array = mx.array(logits)[None]

    def theirs(position: int) -> int:
        return int(sampler(array - mx.logsumexp(array, axis=-1, keepdims=True)).item())

    mine = _ours(settings)
    return (lambda position: mine(np.array(array[0], copy=False), position)), theirs


if __name__ == "__main__":
    main(*sys.argv[1:])

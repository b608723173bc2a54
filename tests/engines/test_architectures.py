"""Batching on mlx with caches of every kind: full, sliding window, recurrent, both. Models of random weights."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

pytestmark = [pytest.mark.engine, pytest.mark.timeout(3600)]

_COMMON = {"vocab_size": 2048, "hidden_size": 64, "intermediate_size": 128, "rms_norm_eps": 1e-6}
_ATTENTION = {"num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16, "max_position_embeddings": 4096}
_WINDOW = {"sliding_window": 32, "sliding_window_pattern": 3, "rope_local_base_freq": 1e4, "query_pre_attn_scalar": 16}
_LINEAR = {
    **{"linear_num_value_heads": 4, "linear_num_key_heads": 2, "linear_key_head_dim": 16, "linear_value_head_dim": 16},
    **{"linear_conv_kernel_dim": 4, "full_attention_interval": 2},
}
_ROPE = {"type": "default", "rope_theta": 1e4, "partial_rotary_factor": 0.5, "mrope_section": [1, 1, 2]}
CONFIGS = {
    "llama": {**_COMMON, **_ATTENTION, "num_hidden_layers": 2, "rope_theta": 1e4, "tie_word_embeddings": True},
    "gemma3_text": {**_COMMON, **_ATTENTION, **_WINDOW, "num_hidden_layers": 6, "rope_theta": 1e4},
    "mamba2": {
        **_COMMON,
        **{"num_heads": 8, "head_dim": 16, "state_size": 16, "num_hidden_layers": 2, "conv_kernel": 4, "n_groups": 1},
        **{"use_bias": False, "use_conv_bias": True, "tie_word_embeddings": True, "layer_norm_epsilon": 1e-5},
        **{"time_step_limit": [0.0, 1e9], "time_step_rank": "auto"},
    },
    "qwen3_5": {
        "text_config": {
            **_COMMON,
            **_ATTENTION,
            **_LINEAR,
            **{"model_type": "qwen3_5_text", "num_hidden_layers": 4, "tie_word_embeddings": True},
            "rope_parameters": _ROPE,
        }
    },
}

# Writes the model and loads it. `answers` starts a request each `stagger` steps, with 0 as many at once as there are
# slots.
HEAD = """
import importlib, json, random, sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
launch_file, directory = Path(sys.argv[2]), Path(sys.argv[3])
import mlx.core as mx
from mlx.utils import tree_flatten
from skulk.core.domain.requests import Sampling
from skulk.core.wire.launch import launch_from_json
from skulk.engines.engine import Job
from skulk.engines.mlx.engine import MlxEngine

mx.set_default_device(mx.cpu)
mx.random.seed(3)
config = json.loads((directory / "config.json").read_text())
module = importlib.import_module("mlx_lm.models." + config["model_type"])
weights = dict(tree_flatten(module.Model(module.ModelArgs.from_dict(config)).parameters()))
weights = {
    name: (array if array.ndim < 2 else mx.random.normal(array.shape) * 0.2).astype(mx.float32)
    for name, array in weights.items()
}
mx.save_safetensors(str(directory / "model.safetensors"), weights)
engine = MlxEngine(launch_from_json(json.loads(launch_file.read_text())))
engine.load(lambda share: None)
engine.warm_up(lambda: None)


cached = []


def answers(jobs, stagger):
    got, waiting, running, step = {job.request: [] for job in jobs}, list(jobs), 0, 0
    while waiting or running:
        while waiting and running < engine.slots and (not stagger or step % stagger == 0):
            cached.append(engine.start(waiting.pop(0)))
            running += 1
            if stagger:
                break
        step += 1
        for emission in engine.step():
            assert emission.error is None, emission
            got[emission.request] += emission.ids
            running -= emission.finish is not None
    return got


def jobs_of(lengths, beginning=()):
    draw = random.Random(2)
    return [
        Job(
            f"r{i}",
            (*beginning, *(draw.randrange(20, 2000) for _ in range(length))),
            Sampling(seed=i, temperature=0.0 if i % 2 else 0.7, logit_bias=((2, -100.0),)),
            24,
        )
        for i, length in enumerate(lengths)
    ]


alone = {}
"""
JOINING = """
jobs = jobs_of([5, 40, 90, 150, 33, 1])
for job in jobs:
    alone |= answers([job], 1)
print(json.dumps({"alone": alone, "together": answers(jobs, 3)}))
"""
# Four at once, of different lengths, that begin as a kept conversation does, and one that does not.
BEGINNING = """
jobs = [*jobs_of([25, 40, 31], beginning=(7, 8, 9)), *jobs_of([1, 1, 1, 22])[3:]]
for job in jobs:
    engine._batch.forget()
    alone |= answers([job], 1)
engine._batch.forget()
answers(jobs_of([5, 50], beginning=(7, 8, 9))[1:], 1)
cached.clear()
passes = []
run = engine._batch._decoder._read_together
engine._batch._decoder._read_together = lambda chunks: passes.append(len(chunks)) or run(chunks)
together = answers(jobs, 0)
print(json.dumps({"alone": alone, "together": together, "cached": cached, "passes": passes}))
"""
# The third pass over all rows breaks after the library has begun to write into the caches.
LOST = """
jobs = jobs_of([5, 40, 90])
for job in jobs:
    engine._batch.forget()
    alone |= answers([job], 1)
decoder = engine._batch._decoder
model, passes = decoder._model, []


class Breaks:
    def __getattr__(self, name):
        return getattr(model, name)

    def __call__(self, tokens, cache):
        logits = model(tokens, cache=cache)
        if tokens.shape == (3, 1):
            passes.append(decoder._steps)
            if len(passes) == 3:
                mx.eval(logits)
                raise RuntimeError("no kernel")
        return logits


decoder._model = Breaks()
print(json.dumps({"alone": alone, "together": answers(jobs, 0), "passes": len(passes)}))
"""
READING = """
from skulk.engines.batching import Chunk, Unusable, Wanted

decoder = engine._batch._decoder
chunks = [Chunk(None, (1,), 0, wanted) for wanted in (Wanted.MOST_PROBABLE, Wanted.LOGITS) for _ in range(2)]
found = {}
for dtype in (mx.float32, mx.bfloat16):
    logits = mx.broadcast_to(mx.arange(8, dtype=dtype) * mx.array([1, 1, -1, 1])[:, None].astype(dtype), (4, 8))
    broken = mx.array([[0] * 8, [0, 1] + [0] * 6, [0] * 8, [0] * 7 + [1]]) == 1
    logits = mx.where(broken, mx.array(float("nan"), dtype), logits)
    outcomes = decoder._read(logits, chunks)
    found[str(dtype)] = [str(o) if isinstance(o, Unusable) else getattr(o, "tolist", lambda o=o: o)() for o in outcomes]
print(json.dumps(found))
"""


@pytest.fixture
def answered(mlx_python, fox_tiny, launch, printed, tmp_path):
    """What a script prints about a model of that kind."""

    def ask(name, script):
        directory = tmp_path / name
        directory.mkdir()
        for file in fox_tiny.iterdir():
            if "token" in file.name or file.name.startswith("chat"):
                (directory / file.name).write_bytes(file.read_bytes())
        (directory / "config.json").write_text(json.dumps({**CONFIGS[name], "model_type": name, "eos_token_id": 2}))
        placed = replace(launch, engine="mlx", backend="mlx-cpu", model_dir=str(directory), concurrency=4)
        return printed(mlx_python, HEAD + script, placed, directory)

    return ask


@pytest.mark.parametrize("name", CONFIGS)
def test_company_changes_no_answer_whatever_the_cache(name, answered):
    got = answered(name, JOINING)
    assert got["together"] == got["alone"]
    assert all(len(ids) == 24 for ids in got["alone"].values())
    assert len({tuple(ids) for ids in got["alone"].values()}) == 6


def test_prompts_that_are_read_in_one_pass_go_on_from_what_is_kept(answered):
    got = answered("llama", BEGINNING)
    assert got["cached"] == [3, 3, 3, 0]
    assert got["passes"] == [4]
    assert got["together"] == got["alone"]


def test_a_step_that_breaks_for_all_rows_is_made_good_from_the_beginning(answered):
    got = answered("llama", LOST)
    assert got["passes"] > 3
    assert got["together"] == got["alone"]


def test_the_most_probable_token_and_logits_that_are_none_are_found_for_every_kind_of_number(answered):
    unusable = "the highest logit is nan: the model's output is unusable"
    found = [7, unusable, [0.0, -1.0, -2.0, -3.0, -4.0, -5.0, -6.0, -7.0], unusable]
    assert answered("llama", READING) == {"mlx.core.float32": found, "mlx.core.bfloat16": found}

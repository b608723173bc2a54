"""The warm-up that engines of one kind share: whatever is compiled lazily is compiled before the first client waits."""

from __future__ import annotations

from skulk.core.domain.ids import RequestId
from skulk.core.domain.requests import Sampling
from skulk.core.errors import ENG_GENERATE
from skulk.engines.engine import Engine, EngineFailure, Job, WarmUpProgress

_TOKENS = 2
_PROMPT = (0, 1) * 16
"""Long enough for the kernels of matrix products, not only of matrix-vector products; ids that every model has."""
_REQUEST = RequestId("warm-up")


def generate_a_little(engine: Engine, progress: WarmUpProgress) -> None:
    """Both ways of choosing a token. `progress` is called after every step. Raises EngineFailure when there is none."""
    for temperature in (0.0, 1.0):
        engine.start(Job(_REQUEST, _PROMPT, Sampling(seed=0, temperature=temperature), _TOKENS))
        ended = False
        while not ended:
            emissions = engine.step()
            for emission in emissions:
                if emission.error is not None:
                    raise EngineFailure(ENG_GENERATE, f"the model does not generate: {emission.error}")
            ended = any(emission.finish is not None for emission in emissions)
            progress()

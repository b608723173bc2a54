"""From a commit and the facts to a blueprint: pure, deterministic, with a reason for every "no".

    room          the account of memory
    survey        nodes and what they report
    eligibility   filters over declared and reported facts
    offers        what each node can offer to a new replica
    search        which offer is best
    standing      whether what runs stays as it is
    rollout       the update story of one deployment
    planning      all of them: `plan`
    check, why    linter and explanations over a finished plan
    digests, document   identities, and the blueprint as bytes

It does not decide what a node does next (`skulk.core.reconcile`), nor who may publish a plan.
"""

from skulk.core.planner.check import Finding, Note, check
from skulk.core.planner.digests import content_hash, launch_hash, placement_uid
from skulk.core.planner.document import DocumentError, from_json, to_json
from skulk.core.planner.planning import plan
from skulk.core.planner.why import why

__all__ = [
    "DocumentError",
    "Finding",
    "Note",
    "check",
    "content_hash",
    "from_json",
    "launch_hash",
    "placement_uid",
    "plan",
    "to_json",
    "why",
]

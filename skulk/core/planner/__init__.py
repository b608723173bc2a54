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
    declared      member records from manifests, for planning while no node is there
    rehearsal     plan, take it as done, plan again, until nothing is left to do
    diff          what a commit changes, read from a rehearsal
    digests, document   identities, and the blueprint as bytes

It does not decide what a node does next (`skulk.core.reconcile`), nor who may publish a plan.
"""

from skulk.core.planner.check import Finding, Note, check
from skulk.core.planner.declared import Declared, Remark, declared_members
from skulk.core.planner.diff import Action, Change, Diff, diff
from skulk.core.planner.digests import content_hash, launch_hash, placement_uid
from skulk.core.planner.document import DocumentError, from_json, to_json
from skulk.core.planner.planning import plan
from skulk.core.planner.rehearsal import Rehearsal, Step, rehearse
from skulk.core.planner.why import why

__all__ = [
    "Action",
    "Change",
    "Declared",
    "Diff",
    "DocumentError",
    "Finding",
    "Note",
    "Rehearsal",
    "Remark",
    "Step",
    "check",
    "content_hash",
    "declared_members",
    "diff",
    "from_json",
    "launch_hash",
    "placement_uid",
    "plan",
    "rehearse",
    "to_json",
    "why",
]

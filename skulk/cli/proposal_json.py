"""The answer of `skulk plan` as JSON. Its form is documented in docs/guides/plan.md and only ever grows. Pure."""

from __future__ import annotations

from skulk.cli.proposal import Proposal, Side
from skulk.core.domain import RunningPlacement
from skulk.core.planner import Action, Change, Remark

FORMAT = 1
"""Grows when something that was there changes its meaning."""


def as_json(proposal: Proposal) -> dict[str, object]:
    """JSON values, camelCase keys; sizes in bytes."""
    diff = proposal.diff
    return {
        "format": FORMAT,
        "changed": diff.changed,
        "base": _side(proposal.base),
        "target": _side(proposal.target),
        "facts": "declared" if proposal.live is None else "live",
        "counts": {action.value: diff.count(action) for action in Action},
        "steps": diff.steps,
        "settled": diff.settled,
        "manifests": [{"kind": e.kind, "name": e.name, "how": e.how, "fields": list(e.fields)} for e in diff.edits],
        "replicas": [_change(change) for change in diff.changes],
        "unplaced": [
            {"deployment": u.deployment, "replica": u.replica, "reason": u.reason.value, "message": u.message}
            for u in diff.unplaced
        ],
        "outages": [
            {"deployment": w.outage.deployment, "step": w.step, "message": w.outage.message} for w in diff.outages
        ],
        "downloads": [
            {"node": d.node, "bytes": d.bytes, "files": d.files, "models": list(d.models)} for d in diff.downloads
        ],
        "memory": [
            {
                "node": m.node,
                "pool": m.pool.value,
                "usableBytes": m.usable_bytes,
                "beforeBytes": m.before_bytes,
                "peakBytes": m.peak_bytes,
                "afterBytes": m.after_bytes,
            }
            for m in diff.memory
        ],
        "leftOut": [_remark(remark) for remark in proposal.left_out],
        "assumed": [_remark(remark) for remark in proposal.assumed],
        "warnings": [{"finding": n.finding.value, "subject": n.subject, "message": n.message} for n in diff.notes],
    }


def _side(side: Side) -> dict[str, object]:
    return {"revision": side.name, "commit": side.commit}


def _change(change: Change) -> dict[str, object]:
    return {
        "action": change.action.value,
        "deployment": change.deployment,
        "replica": change.replica,
        "before": _placement(change.before),
        "after": _placement(change.after),
        "strategy": change.strategy.value if change.strategy is not None else None,
        "reason": change.reason.value if change.reason is not None else None,
        "message": change.message,
        "step": change.step,
    }


def _placement(entry: RunningPlacement | None) -> dict[str, object] | None:
    if entry is None:
        return None
    return {
        "uid": entry.uid,
        "model": entry.model,
        "node": entry.node,
        "backend": entry.backend,
        "contextTokens": entry.context_tokens,
        "concurrency": entry.concurrency,
        "memoryBytes": entry.memory_bytes,
    }


def _remark(remark: Remark) -> dict[str, object]:
    return {"node": remark.node, "message": remark.message}

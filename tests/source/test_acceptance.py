"""Which commits a node takes: the rules in their order, as tables, and what always holds."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from skulk.core.domain import CommitId, Deployment, DeploymentName, Fleet, Node, NodeName, Prune, Reason, VerifyMode
from skulk.core.domain.ids import CardName
from skulk.core.errors import (
    SRC_ANCESTOR,
    SRC_FORCED,
    SRC_INVALID,
    SRC_NAMESPACE,
    SRC_PRUNE,
    SRC_UNSIGNED,
)
from skulk.core.ports import CommitFacts, Signature
from skulk.core.reconcile.acceptance import (
    Accept,
    Membership,
    Reject,
    SourcePolicy,
    judge,
    required_verification,
)

OLD, NEW, MID = (CommitId(c * 40) for c in "abc")
POLICY = SourcePolicy(namespace="home", node=NodeName("n0"))


@dataclass(frozen=True)
class Finding:
    file: str = "fleet/a.yaml"
    line: int = 3
    column: int = 7
    severity: str = "error"
    code: str = "SK-MAN-001"
    message: str = "is wrong"


@dataclass(frozen=True)
class Candidate:
    fleet: Fleet | None
    diagnostics: tuple[Finding, ...] = ()


def fleet(
    commit=NEW, nodes=("n0",), deployments=(), namespace="home", share=0.5, allow=(), verify=VerifyMode.OFF
) -> Fleet:
    return Fleet(
        name="f",
        namespace=namespace,
        commit=commit,
        nodes={NodeName(n): Node(NodeName(n), i) for i, n in enumerate(nodes)},
        deployments={DeploymentName(d): Deployment(DeploymentName(d), CardName("c")) for d in deployments},
        prune=Prune(share, tuple(allow)),
        verify=verify,
    )


def facts(commit=NEW, **changes) -> CommitFacts:
    return CommitFacts(commit, **changes)


def test_a_good_descendant_is_accepted_with_its_fleet():
    candidate = fleet(deployments=["d"])
    assert judge(facts(), Candidate(candidate), fleet(OLD), POLICY) == Accept(candidate)


def test_the_first_commit_needs_no_history():
    assert isinstance(judge(facts(), Candidate(fleet()), None, POLICY), Accept)


def test_the_accepted_commit_again_changes_nothing_whatever_else_is_said():
    """Also when the policy changed meanwhile: what was accepted stays."""
    accepted = fleet(OLD, namespace="other")
    verdict = judge(facts(OLD, unsigned=((OLD, Signature.BAD),)), Candidate(None), accepted, POLICY)
    assert verdict == Accept(accepted, unchanged=True)


BAD = Candidate(None, (Finding(),))
UNSIGNED = ((NEW, Signature.NONE),)
STRICT = SourcePolicy("home", NodeName("n0"), VerifyMode.HEAD)


@pytest.mark.parametrize(
    ("given_facts", "candidate", "policy", "code", "reason"),
    [
        (facts(is_ancestor=True, descends=False, unsigned=UNSIGNED), BAD, STRICT, SRC_ANCESTOR, Reason.STALE_COMMIT),
        (facts(descends=False, unsigned=UNSIGNED), BAD, STRICT, SRC_FORCED, Reason.HISTORY_REWRITTEN),
        (facts(unsigned=UNSIGNED), BAD, STRICT, SRC_UNSIGNED, Reason.SIGNATURE_REFUSED),
        (facts(), BAD, STRICT, SRC_INVALID, Reason.INVALID_MANIFESTS),
        (facts(), Candidate(fleet(namespace="x", nodes=())), STRICT, SRC_NAMESPACE, Reason.NAMESPACE_MISMATCH),
        (facts(), Candidate(fleet(nodes=())), STRICT, SRC_PRUNE, Reason.PRUNE_PROTECTED),
    ],
)
def test_ancestry_comes_before_signatures_before_content(given_facts, candidate, policy, code, reason):
    """Each row has every later fault as well."""
    verdict = judge(given_facts, candidate, fleet(OLD, nodes=["n0", "n1"]), policy)
    assert isinstance(verdict, Reject)
    assert (verdict.code, verdict.reason) == (code, reason)
    assert NEW[:12] in verdict.message


def test_a_force_push_needs_the_local_allowance_and_an_ancestor_gets_none():
    policy = SourcePolicy("home", NodeName("n0"), allow_force_push=True)
    assert isinstance(judge(facts(descends=False), Candidate(fleet()), fleet(OLD), policy), Accept)
    verdict = judge(facts(descends=False, is_ancestor=True), Candidate(fleet()), fleet(OLD), policy)
    assert isinstance(verdict, Reject)
    assert verdict.code is SRC_ANCESTOR


@pytest.mark.parametrize("node", list(VerifyMode))
@pytest.mark.parametrize("repository", list(VerifyMode))
def test_the_stricter_verification_counts_and_the_candidate_cannot_loosen_it(node, repository):
    order = list(VerifyMode)
    policy = SourcePolicy("home", NodeName("n0"), node)
    accepted = fleet(OLD, verify=repository)
    required = required_verification(policy, accepted)
    assert order.index(required) == max(order.index(node), order.index(repository))
    given_facts = facts(unsigned=((NEW, Signature.UNTRUSTED), (MID, Signature.BAD)))
    verdict = judge(given_facts, Candidate(fleet(verify=VerifyMode.OFF)), accepted, policy)
    expected = {VerifyMode.OFF: (), VerifyMode.HEAD: (NEW,), VerifyMode.EVERY: (NEW, MID)}[required]
    assert (verdict.names if isinstance(verdict, Reject) else ()) == expected


def test_a_fleet_that_asks_for_signatures_does_so_from_the_next_commit_on():
    candidate = Candidate(fleet(verify=VerifyMode.EVERY))
    assert isinstance(judge(facts(unsigned=UNSIGNED), candidate, fleet(OLD), POLICY), Accept)


def test_a_signature_refusal_says_which_commit_has_what():
    unsigned = tuple((CommitId(f"{i:040}"), Signature.NONE) for i in range(8))
    policy = SourcePolicy("home", NodeName("n0"), VerifyMode.EVERY)
    verdict = judge(facts(unsigned=unsigned), Candidate(fleet()), fleet(OLD), policy)
    assert isinstance(verdict, Reject)
    assert "000000000000 has no signature" in verdict.message
    assert "and 3 more" in verdict.message
    assert len(verdict.names) == 8


def test_invalid_manifests_are_shown_with_place_and_count():
    findings = (*(Finding(line=n) for n in range(1, 6)), Finding(severity="warning", file="w.yaml"))
    verdict = judge(facts(), Candidate(None, findings), fleet(OLD), POLICY)
    assert isinstance(verdict, Reject)
    assert "5 errors" in verdict.message
    assert "fleet/a.yaml:1:7 SK-MAN-001 is wrong" in verdict.message
    assert "and 2 more" in verdict.message
    assert verdict.names == ("fleet/a.yaml",)


def test_warnings_of_the_manifests_are_handed_on():
    verdict = judge(facts(), Candidate(fleet(), (Finding(severity="warning"),)), fleet(OLD), POLICY)
    assert isinstance(verdict, Accept)
    assert verdict.warnings == ("fleet/a.yaml:3:7 SK-MAN-001 is wrong",)


def _names(count, prefix="d"):
    return [f"{prefix}{n}" for n in range(count)]


@pytest.mark.parametrize(
    ("before", "after", "share", "allow", "protected"),
    [
        (1, 0, 0.5, (), ()),
        (2, 1, 0.1, (), ()),
        (2, 0, 0.5, (), ("d0", "d1")),
        (4, 2, 0.5, (), ()),
        (5, 2, 0.5, (), ("d2", "d3", "d4")),
        (5, 2, 0.5, ("d2", "d3", "d4"), ()),
        (5, 2, 0.5, ("d2", "d3"), ("d4",)),
        (5, 2, 1.0, (), ()),
        (4, 2, 0.0, (), ("d2", "d3")),
        (100, 71, 0.29, (), ()),
        (100, 70, 0.29, (), tuple(sorted(f"d{n}" for n in range(70, 100)))),
    ],
)
@pytest.mark.parametrize("kind", ["nodes", "deployments"])
def test_removing_much_at_once_needs_the_names_in_the_commit(kind, before, after, share, allow, protected):
    keep = {"nodes": ["n0"]} if kind == "deployments" else {}
    accepted = fleet(OLD, share=share, **keep | {kind: _names(before)})
    candidate = fleet(share=1.0, allow=allow, **keep | {kind: _names(after)})
    verdict = judge(facts(), Candidate(candidate), accepted, POLICY)
    assert (verdict.names if isinstance(verdict, Reject) else ()) == protected
    if isinstance(verdict, Reject):
        assert verdict.code is SRC_PRUNE
        assert f"removes {before - after} of {before} {kind}" in verdict.message


def test_deployments_and_nodes_are_counted_apart():
    accepted = fleet(OLD, nodes=["n0", "n1"], deployments=["a", "b"])
    one_of_each = judge(facts(), Candidate(fleet(nodes=["n0"], deployments=["a"])), accepted, POLICY)
    assert isinstance(one_of_each, Accept)


def test_an_allowance_for_what_is_not_removed_is_a_warning():
    accepted = fleet(OLD, deployments=["a", "b"])
    verdict = judge(facts(), Candidate(fleet(deployments=["b"], allow=["a", "b", "typo"])), accepted, POLICY)
    assert isinstance(verdict, Accept)
    assert [w.split("'")[1] for w in verdict.warnings] == ["b", "typo"]


@pytest.mark.parametrize(
    ("before", "after", "membership", "leaving", "reason"),
    [
        (["n0"], ["n0"], Membership.MEMBER, False, Reason.COMMIT_ACCEPTED),
        (["n1"], ["n0", "n1"], Membership.MEMBER, False, Reason.COMMIT_ACCEPTED),
        (["n0", "n1"], ["n1"], Membership.LEAVING, True, Reason.LEAVING),
        (["n1"], ["n1"], Membership.OUTSIDE, True, Reason.NODE_NOT_IN_FLEET),
        (None, ["n1"], Membership.OUTSIDE, True, Reason.NODE_NOT_IN_FLEET),
        (None, ["n0"], Membership.MEMBER, False, Reason.COMMIT_ACCEPTED),
    ],
)
def test_a_node_knows_whether_it_belongs(before, after, membership, leaving, reason):
    accepted = None if before is None else fleet(OLD, nodes=before)
    verdict = judge(facts(), Candidate(fleet(nodes=after)), accepted, POLICY)
    assert isinstance(verdict, Accept)
    assert (verdict.membership, verdict.leaving, verdict.reason) == (membership, leaving, reason)


subsets = st.lists(st.sampled_from(_names(8)), unique=True)


@given(subsets, subsets, subsets, st.floats(0, 1), st.booleans(), st.booleans(), st.booleans())
def test_what_always_holds(before, after, allow, share, descends, is_ancestor, force):
    accepted = fleet(OLD, deployments=before, share=share)
    candidate = fleet(deployments=after, allow=allow)
    policy = SourcePolicy("home", NodeName("n0"), allow_force_push=force)
    given_facts = facts(descends=descends and not is_ancestor, is_ancestor=is_ancestor)
    verdict = judge(given_facts, Candidate(candidate), accepted, policy)
    assert verdict == judge(given_facts, Candidate(candidate), accepted, policy)
    removed = set(before) - set(after)
    if isinstance(verdict, Accept):
        assert not is_ancestor, "never backwards"
        assert given_facts.descends or force
        assert len(removed) < 2 or len(removed) <= share * len(before) + 1e-9 or removed <= set(allow)
    else:
        assert verdict.names
        if verdict.code is SRC_PRUNE:
            fixed = fleet(deployments=after, allow=[*allow, *verdict.names])
            again = judge(given_facts, Candidate(fixed), accepted, policy)
            assert isinstance(again, Accept), "the names it gives are exactly what is missing"

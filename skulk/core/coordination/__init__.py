"""Who publishes blueprints, and which one a node follows: pure, one state machine per node, no consensus store.

    document      a blueprint with author and members, as bytes; versions, and how epochs are dealt out
    facts         reports, validated commits, what came over the planes
    planes_report reports and questions as bytes
    state         what a node remembers; what of it must be durable
    actions       what coordination wants done
    membership    settling, absences, patience
    acceptance    which document this node follows, and what it must fetch for that
    election      who coordinates; terms, discovery, comparison
    commits       how a commit comes into force
    publishing    when a document is published, and what it is planned from
    coordinate    one round of all of it

It does not plan (the planner is an argument), nor act on a document (`skulk.core.reconcile`), nor sign, send, store.
What follows from the rules: a coordinator's death moves nothing, both sides of a partition go on, and after the last
fault there is one document again. With `quorum: none` two coordinators at once are allowed; two documents with one
number are not.
"""

from skulk.core.coordination.acceptance import Objection, objection
from skulk.core.coordination.actions import Action, Announce, Ask, FetchBody, Obtain, Persist
from skulk.core.coordination.context import Plan, report_of
from skulk.core.coordination.coordinate import RULES, Outputs, coordinate
from skulk.core.coordination.document import Document, DocumentError, Version, compose, epoch_after, read
from skulk.core.coordination.facts import Heard, Invalid, Local, Observed, Report, Validated
from skulk.core.coordination.state import Durable, State, Term

__all__ = [
    "RULES",
    "Action",
    "Announce",
    "Ask",
    "Document",
    "DocumentError",
    "Durable",
    "FetchBody",
    "Heard",
    "Invalid",
    "Local",
    "Objection",
    "Observed",
    "Obtain",
    "Outputs",
    "Persist",
    "Plan",
    "Report",
    "State",
    "Term",
    "Validated",
    "Version",
    "compose",
    "coordinate",
    "epoch_after",
    "objection",
    "read",
    "report_of",
]

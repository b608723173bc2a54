"""What a run of the playbooks looks like while it goes on, how each node ended, and why: decided from Ansible's events.

Pure: `skulk.adapters.ansible` runs Ansible and hands its events over, `skulk.cli.verbs.bootstrap` shows what comes out.
"""

from __future__ import annotations

from skulk.core.bootstrap.events import Event, HostBegan, HostDone, Outcome, TaskBegan, read_event
from skulk.core.bootstrap.failures import Failure, Kind, Target, explain
from skulk.core.bootstrap.picture import Change, NodePicture, Picture, fold
from skulk.core.bootstrap.report import Ending, NodeReport, Status, ending_of, reports

__all__ = [
    "Change",
    "Ending",
    "Event",
    "Failure",
    "HostBegan",
    "HostDone",
    "Kind",
    "NodePicture",
    "NodeReport",
    "Outcome",
    "Picture",
    "Status",
    "Target",
    "TaskBegan",
    "ending_of",
    "explain",
    "fold",
    "read_event",
    "reports",
]

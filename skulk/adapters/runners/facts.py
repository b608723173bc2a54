"""How each message of a runner changes what is known of it: pure functions from facts to facts.

`now` is seconds on the daemon's monotonic clock. A phase name that this version does not know changes nothing, so
that a newer runner can be followed.
"""

from __future__ import annotations

from dataclasses import replace

from skulk.core.domain import LastWords, Link, RunnerFacts, RunnerReport
from skulk.core.wire.runner import Heartbeat, Hello, Report


def after_hello(facts: RunnerFacts, hello: Hello, now: float) -> RunnerFacts:
    facts = after_phase(facts, hello.phase, now)
    return replace(
        facts,
        link=Link.CONNECTED,
        # What the daemon wrote after spawning is trusted before what the process says of itself.
        pid=facts.pid if facts.pid is not None else hello.pid,
        last_heartbeat_at=now,
        last_words=None,
    )


def after_heartbeat(facts: RunnerFacts, beat: Heartbeat, now: float) -> RunnerFacts:
    facts = replace(after_phase(facts, beat.phase, now), last_heartbeat_at=now, resident_bytes=beat.resident_bytes)
    if beat.progress != facts.steps:
        facts = replace(facts, steps=beat.progress, last_progress_at=now)
    return facts


def after_report(facts: RunnerFacts, report: Report, now: float) -> RunnerFacts:
    facts = after_phase(facts, report.phase, now)
    if facts.report is RunnerReport.LOADING:
        facts = replace(facts, load_share=min(1.0, max(0.0, report.share)))
    elif facts.report is RunnerReport.WARMING:
        facts = replace(facts, last_progress_at=now)
    if report.code is not None:
        facts = replace(facts, last_words=LastWords(None, report.code, report.detail))
    return facts


def after_count(facts: RunnerFacts, running: int, waiting: int, now: float) -> RunnerFacts:
    """So many requests run and wait in it. Where none ran, nothing could make progress: the time for the first step
    begins now, however long the runner had nothing to do."""
    progress = now if running and not facts.running else facts.last_progress_at
    return replace(facts, running=running, waiting=waiting, last_progress_at=progress)


def after_phase(facts: RunnerFacts, phase: str, now: float) -> RunnerFacts:
    try:
        report = RunnerReport(phase)
    except ValueError:
        return facts
    return facts if report is facts.report else replace(facts, report=report, report_since=now)

"""What `/metrics` shows, in Prometheus' text format; each name has a heading in docs/reference/metrics.md.

Request metrics follow OpenTelemetry's semantic conventions for generative AI (names and buckets), counted here.
State metrics are read from the view at each scrape, so they can neither drift nor outlive their subject. Every
app has its own registry. Labels hold only names of the fleet, never what a client invented.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import GaugeMetricFamily, InfoMetricFamily, Metric
from prometheus_client.registry import Collector

from skulk.core.dialects.openai_encode import Stats, Usage
from skulk.core.domain import FleetView
from skulk.core.ports import Serving
from skulk.gateway.machine_metrics import machine_metrics
from skulk.gateway.readiness import is_ready

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
PROVIDER = "skulk"
UNKNOWN_MODEL = "unknown"
"""Label of requests for a model that the fleet does not serve: clients could invent any number of names."""

# Bucket bounds: the advice of OpenTelemetry's conventions for these metrics (seconds, tokens).
FIRST_TOKEN_BUCKETS = (
    *(0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1),
    *(0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0),
)
OUTPUT_TOKEN_BUCKETS = (0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5)
DURATION_BUCKETS = tuple(0.01 * 2**power for power in range(14))
TOKEN_BUCKETS = tuple(float(4**power) for power in range(14))
QUEUE_BUCKETS = (0.001, 0.01, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, 600.0)
"""Up to the default deadline."""
SPEED_BUCKETS = tuple(float(2**power) for power in range(16))
"""Tokens per second: from a large model on a small processor to a prompt on a large accelerator."""


@dataclass(slots=True)
class Note:
    """What is known of one HTTP request when it is over: written along the way, logged and counted once."""

    request_id: str
    started: float
    """Monotonic seconds."""
    model: str = ""
    command_id: str = ""
    status: int = 0
    """What the client saw; 499 when it was gone before anything could be sent."""
    error: str = ""
    """Code of the failure; set for error events too, whose status stays 200."""
    finish: str = ""
    usage: Usage | None = None
    first_token: float | None = None
    """Monotonic seconds."""
    tenant: str = ""
    """Name of the API key; empty without one."""
    prompt_seconds: float = 0.0
    """From a choice's acceptance to its first token, of the choice that was first; by the runner's clock, like the two
    below: what comes in one piece over a network was not made in one moment."""
    first_made: float = 0.0
    """Seconds from a choice's arrival at the runner to its first token; the least of all choices."""
    last_made: float = 0.0
    """The same to its last token; the most."""
    queue_seconds: float = 0.0
    """Of the choice that waited longest."""
    choices: int = 1

    def token(self, now: float, queued: float, seconds: float) -> None:
        """Tokens are here. `queued`, `seconds`: how long their choice waited, and from then to these tokens."""
        made = queued + seconds
        if self.first_token is None:
            self.first_token = now
            self.prompt_seconds, self.first_made = seconds, made
        self.first_made = min(self.first_made, made)
        self.last_made = max(self.last_made, made)


def stats_of(note: Note, usage: Usage) -> Stats:
    """How fast the request was: the first token as its client saw it, the rest by the runner's clock."""
    computed = usage.prompt - usage.cached
    # The first token of each choice comes with the end of its prompt.
    later = usage.completion - note.choices
    return Stats(
        prompt_tps=_rate(computed, note.prompt_seconds),
        generation_tps=_rate(later, note.last_made - note.first_made),
        prompt_tokens=usage.prompt,
        generation_tokens=usage.completion,
        time_to_first_token_seconds=None if note.first_token is None else note.first_token - note.started,
        queue_seconds=note.queue_seconds,
    )


def _rate(tokens: int, seconds: float) -> float | None:
    return tokens / seconds if tokens > 0 and seconds > 0 else None


class Metrics:
    """Counters of one app, and the collector of its view."""

    def __init__(self, serving: Serving, collectors: tuple[Collector, ...] = ()) -> None:
        self.registry = CollectorRegistry(auto_describe=False)
        labels = ("gen_ai_request_model", "gen_ai_provider_name")
        self._first_token = Histogram(
            "gen_ai_server_time_to_first_token_seconds",
            "From the arrival of a request to its first token.",
            labels,
            buckets=FIRST_TOKEN_BUCKETS,
            registry=self.registry,
        )
        self._output_token = Histogram(
            "gen_ai_server_time_per_output_token_seconds",
            "Mean time between tokens after the first one, per request.",
            labels,
            buckets=OUTPUT_TOKEN_BUCKETS,
            registry=self.registry,
        )
        self._duration = Histogram(
            "gen_ai_server_request_duration_seconds",
            "From the arrival of a request to its last byte; error_type is empty for a success.",
            (*labels, "error_type"),
            buckets=DURATION_BUCKETS,
            registry=self.registry,
        )
        self._tokens = Histogram(
            "gen_ai_client_token_usage",
            "Tokens per request; gen_ai_token_type is input or output.",
            (*labels, "gen_ai_token_type"),
            buckets=TOKEN_BUCKETS,
            registry=self.registry,
        )
        self._queue = Histogram(
            "skulk_request_queue_seconds",
            "How long a request waited for a free slot of its runner.",
            labels,
            buckets=QUEUE_BUCKETS,
            registry=self.registry,
        )
        self._prompt_speed = Histogram(
            "skulk_prompt_tokens_per_second",
            "Prompt tokens that were computed per second, from the acceptance to the first token, per request.",
            labels,
            buckets=SPEED_BUCKETS,
            registry=self.registry,
        )
        self._generation_speed = Histogram(
            "skulk_generation_tokens_per_second",
            "Tokens per second after the first one, per request.",
            labels,
            buckets=SPEED_BUCKETS,
            registry=self.registry,
        )
        self._http = Counter(
            "skulk_http_requests",
            "HTTP requests by route template, method and status.",
            ("route", "method", "status"),
            registry=self.registry,
        )
        self._webhooks = Counter(
            "skulk_webhook_deliveries",
            "Webhook deliveries by the forge's way of signing and what became of them.",
            ("provider", "outcome"),
            registry=self.registry,
        )
        self.registry.register(ViewCollector(serving))
        for collector in collectors:
            self.registry.register(collector)

    def count_http(self, route: str, method: str, status: int) -> None:
        self._http.labels(route, method, str(status)).inc()

    def count_webhook(self, provider: str, outcome: str) -> None:
        """Both are words of ours; `provider` is empty where the signature was not looked at."""
        self._webhooks.labels(provider, outcome).inc()

    def count_generation(self, note: Note, now: float) -> None:
        """Count a finished chat request; `note.model` is a canonical name or UNKNOWN_MODEL."""
        labels = (note.model or UNKNOWN_MODEL, PROVIDER)
        self._duration.labels(*labels, note.error).observe(now - note.started)
        if note.first_token is not None:
            self._first_token.labels(*labels).observe(note.first_token - note.started)
        if note.usage is None:
            return
        stats = stats_of(note, note.usage)
        self._queue.labels(*labels).observe(stats.queue_seconds)
        if stats.prompt_tps is not None:
            self._prompt_speed.labels(*labels).observe(stats.prompt_tps)
        if stats.generation_tps is not None:
            self._generation_speed.labels(*labels).observe(stats.generation_tps)
        self._tokens.labels(*labels, "input").observe(note.usage.prompt)
        self._tokens.labels(*labels, "output").observe(note.usage.completion)
        later = note.usage.completion - note.choices
        if later > 0:
            # Choices come side by side: each has its share of the later tokens in all of the time.
            seconds = (note.last_made - note.first_made) * note.choices
            self._output_token.labels(*labels).observe(seconds / later)

    def text(self) -> bytes:
        return generate_latest(self.registry)


class ViewCollector(Collector):
    """Gauges of the node's view as it is at the scrape."""

    def __init__(self, serving: Serving) -> None:
        self._serving = serving

    def collect(self) -> Iterator[Metric]:
        view = self._serving.view()
        yield InfoMetricFamily(
            "skulk_build", "The version that runs.", value={"version": view.version, "node": view.node}
        )
        commits = GaugeMetricFamily(
            "skulk_applied_commit_info",
            "The commit in force; always 1.",
            labels=("node", "commit"),
        )
        if view.in_force is not None:
            commits.add_metric((view.node, view.in_force), 1)
        yield commits
        yield GaugeMetricFamily("skulk_node_ready", "1 when /readyz says ready.", value=float(is_ready(view)))
        yield GaugeMetricFamily("skulk_view_generation", "Generation of the node's view.", value=view.generation)
        yield _conditions(view)
        yield _runners(view)
        yield from _load(view)
        yield from machine_metrics(view)


def _conditions(view: FleetView) -> Metric:
    family = GaugeMetricFamily(
        "skulk_condition",
        "A condition that holds now; always 1.",
        labels=("kind", "name", "type", "status", "reason"),
    )
    for condition in view.conditions:
        labels = (condition.type.value, condition.status.value, condition.reason.value)
        family.add_metric(("node", view.node, *labels), 1)
    for kind, resources in view.resources.items():
        for resource in resources:
            for condition in resource.conditions:
                labels = (condition.type.value, condition.status.value, condition.reason.value)
                # A node is also a resource; its own conditions stand once.
                if (kind, resource.name) != ("nodes", view.node):
                    family.add_metric((resource.kind, resource.name, *labels), 1)
    return family


def _runners(view: FleetView) -> Metric:
    family = GaugeMetricFamily(
        "skulk_runner_state", "The phase a runner is in; always 1.", labels=("runner", "deployment", "state")
    )
    for runner in view.resources.get("runners", ()):
        # Every node is scraped, and each shows the whole fleet: counted by all, a runner would be counted often.
        if runner.status.get("node", view.node) != view.node:
            continue
        deployment = runner.spec.get("deployment") or runner.status.get("deployment") or ""
        state = runner.status.get("phase") or runner.status.get("state") or "unknown"
        family.add_metric((runner.name, str(deployment), str(state)), 1)
    return family


def _load(view: FleetView) -> Iterator[Metric]:
    running = GaugeMetricFamily(
        "skulk_requests_running", "Requests being generated.", labels=("model", "deployment", "placement")
    )
    waiting = GaugeMetricFamily(
        "skulk_requests_waiting", "Requests queued at a runner.", labels=("model", "deployment", "placement")
    )
    seen: set[str] = set()
    for model in view.models:
        for route in model.routes:
            if route.uid not in seen and route.node == view.node:
                seen.add(route.uid)
                labels = (model.names[0], route.deployment, route.uid)
                running.add_metric(labels, route.running)
                waiting.add_metric(labels, route.waiting)
    yield running
    yield waiting

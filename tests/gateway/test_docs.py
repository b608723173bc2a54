"""The reference pages have a heading for every route and every metric, and none for what is gone."""

import re
from pathlib import Path

from fastapi.routing import APIRoute
from prometheus_client.parser import text_string_to_metric_families

from skulk.core.dialects.openai import HONOURED, TRIVIAL
from skulk.gateway import GatewaySettings, create_app
from skulk.gateway.metrics import Metrics

REFERENCE = Path(__file__).parents[2] / "docs" / "reference"


def headings(page):
    return set(re.findall(r"^### `([^`]+)`", (REFERENCE / page).read_text(), re.MULTILINE))


def test_every_route_has_a_heading(serving):
    paths = create_app(serving, GatewaySettings()).openapi()["paths"]
    routes = {f"{method.upper()} {path}" for path, item in paths.items() for method in item if method != "head"}
    assert headings("http-api.md") == routes | {"GET /api/openapi.json"}


def test_routes_are_in_the_description_exactly_once(serving):
    app = create_app(serving, GatewaySettings())
    names = [operation["operationId"] for item in app.openapi()["paths"].values() for operation in item.values()]
    assert len(names) == len(set(names))
    assert not [route for route in app.routes if isinstance(route, APIRoute) and not route.include_in_schema]


def test_every_metric_has_a_heading(serving):
    families = text_string_to_metric_families(Metrics(serving).text().decode())
    # The parser cuts the endings that Prometheus adds.
    names = {family.name for family in families if not family.name.endswith("_created")}
    documented = {re.sub("_(info|total)$", "", name) for name in headings("metrics.md")}
    assert documented == {re.sub("_(info|total)$", "", name) for name in names}


def test_every_request_field_is_described():
    page = (REFERENCE / "http-api.md").read_text()
    missing = [name for name in (*HONOURED, *TRIVIAL) if f"| `{name}` |" not in page]
    assert missing == []

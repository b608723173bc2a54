"""HTTP for clients: OpenAI's routes, the fleet API, health and metrics. Thin; sees core and ports only."""

from skulk.gateway.app import create_app
from skulk.gateway.settings import GatewaySettings

__all__ = ["GatewaySettings", "create_app"]

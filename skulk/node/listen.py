"""The gateway's listener: loopback until the accepted Fleet allows more, moved when that changes.

Sockets are bound here, before anything else of the daemon starts, so that a taken port is a named error instead of
a traceback from inside the server.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import ipaddress
import socket
from collections.abc import Iterator

import structlog
import uvicorn
from fastapi import FastAPI

from skulk.core import errors
from skulk.core.domain import Access
from skulk.node.http_protocol import HttpProtocol

_log = structlog.get_logger(component="gateway")

LOOPBACK = "127.0.0.1"
BACKLOG = 512


def is_loopback(host: str) -> bool:
    """`localhost` and loopback addresses; any other name may lead outside."""
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host == "localhost"


def permitted(access: Access) -> bool:
    """May the gateway listen beyond loopback?"""
    return bool(access.keys) or access.anonymous


def bind(host: str, port: int) -> socket.socket:
    """A listening socket. Raises Terminal CFG_PORT_TAKEN, or CFG_INVALID for an address that is not ours."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_STREAM)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        sock.bind((host, port))
        sock.listen(BACKLOG)
    except OSError as error:
        sock.close()
        if error.errno == errno.EADDRINUSE:
            raise errors.Terminal(
                errors.CFG_PORT_TAKEN, f"port {port} on {host} is in use by another program"
            ) from None
        raise errors.InvalidInput(errors.CFG_INVALID, f"listen.host {host!r}: {error.strerror}") from None
    sock.setblocking(False)
    return sock


class _Server(uvicorn.Server):
    """uvicorn without its signal handling: the daemon decides when to end."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


class Listener:
    """One gateway on one address at a time."""

    def __init__(self, app: FastAPI, host: str, port: int) -> None:
        self._host = host
        self._port = port
        self._at = LOOPBACK if not is_loopback(host) else host
        self._sockets = [bind(self._at, port)]
        config = uvicorn.Config(
            app,
            http=HttpProtocol,
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
            timeout_keep_alive=75,
        )
        self._server = _Server(config)
        self._task: asyncio.Task[None] | None = None

    @property
    def address(self) -> str:
        return f"{self._at}:{self._port}"

    @property
    def loopback(self) -> bool:
        return is_loopback(self._at)

    async def start(self) -> None:
        self._task = asyncio.create_task(self._server.serve(sockets=self._sockets))
        while not self._server.started:
            if self._task.done():
                await self._task
            await asyncio.sleep(0.01)

    async def follow(self, access: Access) -> None:
        """Move between loopback and the configured address as the Fleet's keys come and go. Open connections on
        the old socket go on; the application itself refuses what is not authorised."""
        target = self._host if is_loopback(self._host) or permitted(access) else LOOPBACK
        if target == self._at or not self._server.started:
            return
        for server in self._server.servers:
            server.close()
        for sock in self._sockets:
            sock.close()
        previous, self._at = self._at, target
        try:
            self._sockets = [bind(target, self._port)]
        except errors.SkulkError as error:
            _log.error("rebind_failed", address=self.address, error=error.message)
            self._at = previous
            self._sockets = [bind(previous, self._port)]
        await self._server.startup(sockets=self._sockets)
        _log.info("gateway_moved", address=self.address, keys=len(access.keys), anonymous=access.anonymous)

    async def stop(self, seconds: float) -> None:
        """Stop accepting, give open responses `seconds`, close."""
        self._server.config.timeout_graceful_shutdown = max(1, int(seconds))
        self._server.should_exit = True
        if self._task is not None:
            await self._task

"""HTTP/1.1 of the gateway: uvicorn's protocol over llhttp, with what llhttp leaves to its users.

It collects a request line, header or trailer of any length, and reads ahead of the answers: what it cannot read may
stand behind a request that is being answered.
"""

from __future__ import annotations

from http import HTTPStatus

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

HEAD_BYTES_MAX = 64 * 1024
"""Request line and headers, or trailers, together. Cookies and tokens of a proxy fit several times."""


class HttpProtocol(HttpToolsProtocol):
    """One client connection. What cannot be read ends it, after the answers that are due."""

    _piece = 0
    """Bytes of what is being read, less those of bodies."""
    _outside_body = 0
    """Bytes since the message, or its newest chunk, began, less those of the body. What stands before it in the same
    piece counts, because the parser tells no places; clients send a request when the one before is answered."""
    _unreadable = False
    """Nothing is read any more: what came was no HTTP, or too much."""

    def data_received(self, data: bytes) -> None:
        if self._unreadable:
            return
        self._piece = len(data)
        self._outside_body += len(data)
        super().data_received(data)
        if self._outside_body > HEAD_BYTES_MAX:
            self._refuse_head()

    def send_400_response(self, msg: str) -> None:
        """Called for what is no HTTP."""
        self._refuse(HTTPStatus.BAD_REQUEST, msg)

    # --- called by the parser -------------------------------------------------------------------------------

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._outside_body = self._piece

    def on_headers_complete(self) -> None:
        # A whole head may come in one piece, together with a body.
        if len(self.url) + sum(len(name) + len(value) for name, value in self.headers) > HEAD_BYTES_MAX:
            self._refuse_head()
            raise ValueError("the head is too large")  # no more of this piece is parsed
        self._outside_body = 0
        super().on_headers_complete()

    def on_chunk_header(self) -> None:
        # The framing of many small chunks is no head; endless trailers follow the last one.
        self._outside_body = 0

    def on_body(self, body: bytes) -> None:
        super().on_body(body)
        self._piece -= len(body)
        self._outside_body -= len(body)

    # --- small parts ----------------------------------------------------------------------------------------

    def _refuse_head(self) -> None:
        self._refuse(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE, f"more than {HEAD_BYTES_MAX} bytes of headers")

    def _refuse(self, status: HTTPStatus, message: str) -> None:
        """The first reason counts."""
        if self._unreadable:
            return
        self._unreadable = True
        answering = self.cycle is not None and not self.cycle.response_complete
        if answering and not self.cycle.more_body:
            # The newest request came whole: it is answered, and then the connection ends.
            self.cycle.keep_alive = False
            return
        if answering and self.cycle.response_started:
            self.transport.abort()
            return
        head = f"HTTP/1.1 {status.value} {status.phrase}\r\ncontent-type: text/plain; charset=utf-8\r\n"
        head += f"content-length: {len(message)}\r\nconnection: close\r\n\r\n"
        self.transport.write((head + message).encode("ascii"))
        self.transport.close()

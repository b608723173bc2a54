"""A fleet's own certificate authority: a node makes key and request, the operator's machine signs.

The authority's key stays with the operator and never enters git; a node's key never leaves the node. What a node does
with the finished files is in `skulk.adapters.zenoh.certificates`.
"""

from __future__ import annotations

from skulk.adapters.certificates.authority import (
    AUTHORITY_DAYS,
    CERTIFICATE_DAYS,
    RENEWAL_DAYS,
    Authority,
    Signed,
    authority_certificate,
    authority_files,
    common_name,
    load_authority,
    make_authority,
    renewal_reason,
    sign,
    valid_until,
)
from skulk.adapters.certificates.files import read_passphrase, write_new, write_public
from skulk.adapters.certificates.requests import Request, make_key_and_request, read_request, request_in

__all__ = [
    "AUTHORITY_DAYS",
    "CERTIFICATE_DAYS",
    "RENEWAL_DAYS",
    "Authority",
    "Request",
    "Signed",
    "authority_certificate",
    "authority_files",
    "common_name",
    "load_authority",
    "make_authority",
    "make_key_and_request",
    "read_passphrase",
    "read_request",
    "renewal_reason",
    "request_in",
    "sign",
    "valid_until",
    "write_new",
    "write_public",
]

"""The types that manifest fields are made of, each with its check, its fault code and its JSON Schema.

A check and its schema stand side by side so that editor and loader agree. Checks raise `PydanticCustomError`
whose type is the fault code; `skulk.core.manifests.structure` turns that into a diagnostic. No field is
declared here.
"""

from __future__ import annotations

import re
from fractions import Fraction
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, WithJsonSchema
from pydantic.alias_generators import to_camel
from pydantic_core import PydanticCustomError

from skulk.core.formats.ssh_key import SSH_KEY_CHARACTERS_MAX, SSH_KEY_PATTERN
from skulk.core.manifests import codes
from skulk.core.manifests.codes import ManifestCode
from skulk.core.manifests.diagnostics import quoted
from skulk.core.wire.planes_roster import ADDRESS_PATTERN, PUBLIC_KEY_PATTERN

API_VERSION = "skulk.dev/v1alpha1"

KIB, MIB, GIB, TIB = 1024, 1024**2, 1024**3, 1024**4
UNITS: dict[str, int] = {
    "B": 1,
    "KB": 1000,
    "MB": 1000**2,
    "GB": 1000**3,
    "TB": 1000**4,
    "KiB": KIB,
    "MiB": MIB,
    "GiB": GIB,
    "TiB": TIB,
}

NAME_PATTERN = "^[a-z0-9]([a-z0-9.-]{0,61}[a-z0-9])?$"
QUANTITY_PATTERN = "^(0|[1-9][0-9]{0,11})(\\.[0-9]{1,6})?(B|KB|MB|GB|TB|KiB|MiB|GiB|TiB)$"
DIGEST_PATTERN = "^[0-9a-f]{64}$"
# No leading slash, no backslash, no drive letter or scheme (colon), no empty, `.` or `..` segment, no control
# characters. Written with lookaheads that ECMAScript and Python read alike.
PATH_PATTERN = "^(?!/)(?!.*//)(?!(.*/)?\\.{1,2}(/|$))[^\\\\:\\x00-\\x1f\\x7f]*[^\\\\:/\\x00-\\x1f\\x7f]$"
LABEL_KEY_PATTERN = "^(?!skulk\\.dev/)[A-Za-z0-9]([A-Za-z0-9._/-]{0,61}[A-Za-z0-9])?$"
LABEL_PATTERN = "^[A-Za-z0-9]([A-Za-z0-9._/-]{0,61}[A-Za-z0-9])?$"
# What clients write into `model`: our names and the Hub's OWNER/NAME, with the colon of other servers' tags.
MODEL_NAME_PATTERN = "^[A-Za-z0-9]([A-Za-z0-9._:/-]{0,126}[A-Za-z0-9])?$"
HUB_PATTERN = "^[A-Za-z0-9][A-Za-z0-9._-]{0,95}/[A-Za-z0-9][A-Za-z0-9._-]{0,95}$"
BACKEND_PATTERN = "^[a-z][a-z0-9_]{0,31}(-[a-z0-9_]{1,31})?$"
REVISION_PATTERN = "^[A-Za-z0-9]([A-Za-z0-9._/-]{0,126}[A-Za-z0-9])?$"

# Long enough for every real path of a model repository, short enough for every file system.
PATH_CHARACTERS_MAX = 255
# Free text such as a licence or a family is a word or two.
TEXT_CHARACTERS_MAX = 200
# Lists of names and tags; a fleet is meant for about 50 nodes.
LIST_ENTRIES_MAX = 256
# A sharded model has a few hundred files at most.
CARD_FILES_MAX = 4096
# 1 EiB: beyond it a number of bytes is a typing error, below it every sum fits 64 bits.
BYTES_MAX = 1 << 60
# Far above every context window known, so that a typing error is caught and products stay in 64 bits.
CONTEXT_TOKENS_MAX = 1 << 27


class Manifest(BaseModel):
    """Base of all manifest models: strict, frozen, no unknown fields, camelCase in YAML."""

    model_config = ConfigDict(
        strict=True,
        frozen=True,
        extra="forbid",
        alias_generator=to_camel,
        validate_by_alias=True,
        validate_by_name=False,
        allow_inf_nan=False,
    )


def fault(code: ManifestCode, message: str) -> PydanticCustomError:
    """The error that carries a fault code through pydantic. Braces are doubled: pydantic formats templates."""
    return PydanticCustomError(code.id, message.replace("{", "{{").replace("}", "}}"))


def _matching(
    pattern: str, code: ManifestCode, message: str, *, show: bool = True, **schema: object
) -> tuple[AfterValidator, WithJsonSchema]:
    """A check of text against a pattern. With `show` false the message never repeats the value: it may be a secret."""
    compiled = re.compile(pattern.removesuffix("$") + r"\Z")

    def check(value: str) -> str:
        maximum = schema.get("maxLength")
        if compiled.match(value) is None or (isinstance(maximum, int) and len(value) > maximum):
            raise fault(code, f"{quoted(value)} {message}" if show else message)
        return value

    return AfterValidator(check), WithJsonSchema({"type": "string", "pattern": pattern, **schema})


Name = Annotated[str, *_matching(NAME_PATTERN, codes.BAD_NAME, "is not a name")]
Quantity = Annotated[str, *_matching(QUANTITY_PATTERN, codes.BAD_QUANTITY, "is not a quantity")]
Digest = Annotated[str, *_matching(DIGEST_PATTERN, codes.BAD_DIGEST, "this is not a sha256 digest", show=False)]
RelativePath = Annotated[
    str,
    *_matching(
        PATH_PATTERN, codes.BAD_PATH, "is not a plain relative path", minLength=1, maxLength=PATH_CHARACTERS_MAX
    ),
]
ModelName = Annotated[
    str,
    *_matching(
        MODEL_NAME_PATTERN, codes.BAD_TEXT, "is not a model name: use letters, digits and . _ : / - (at most 128)"
    ),
]
HubRepository = Annotated[str, *_matching(HUB_PATTERN, codes.BAD_TEXT, "is not a Hub repository: write OWNER/NAME")]
Backend = Annotated[
    str,
    *_matching(
        BACKEND_PATTERN, codes.BAD_TEXT, "is not a backend: write <engine>-<compute> or <engine>, in lower case"
    ),
]
Revision = Annotated[
    str,
    *_matching(REVISION_PATTERN, codes.BAD_TEXT, "is not a revision: use letters, digits and . _ / - (at most 128)"),
]
Address = Annotated[
    str, *_matching(ADDRESS_PATTERN, codes.BAD_TEXT, "is not an address: write HOST, HOST:PORT or [IPV6]:PORT")
]
PublicKey = Annotated[
    str,
    *_matching(
        PUBLIC_KEY_PATTERN,
        codes.BAD_TEXT,
        "is not a public key: write ed25519: and 32 bytes in base64, as `skulk node sign` does",
    ),
]
SshHostKey = Annotated[
    str,
    *_matching(
        SSH_KEY_PATTERN,
        codes.BAD_TEXT,
        "is not an SSH host key: write the line of the host's /etc/ssh/ssh_host_ed25519_key.pub, "
        "ssh-ed25519 AAAA… with a comment or without, nothing before it",
        maxLength=SSH_KEY_CHARACTERS_MAX,
    ),
]

# Not a leading dash, which ssh would read as an option.
SshHost = Annotated[
    str,
    *_matching("^[A-Za-z0-9_][A-Za-z0-9._:%-]{0,252}$", codes.BAD_TEXT, "is not a host: write a name or an IP address"),
]
AccountName = Annotated[
    str, *_matching("^[A-Za-z_][A-Za-z0-9_.-]{0,31}$", codes.BAD_TEXT, "is not the name of an account")
]
# PEP 440, public versions: what a wheel of a release is called.
Version = Annotated[
    str,
    *_matching(
        "^[0-9]+(\\.[0-9]+){1,3}((a|b|rc)[0-9]+)?(\\.post[0-9]+)?(\\.dev[0-9]+)?$",
        codes.BAD_TEXT,
        "is not a version: write it like 1.2.0",
    ),
]

Text = Annotated[str, Field(max_length=TEXT_CHARACTERS_MAX)]
Effort = Literal["none", "minimal", "low", "medium", "high", "xhigh"]
ByteCount = Annotated[int, Field(ge=0, le=BYTES_MAX)]
ContextTokens = Annotated[int, Field(ge=1, le=CONTEXT_TOKENS_MAX)]
Layers = Annotated[int, Field(ge=1, le=10_000)]
Width = Annotated[int, Field(ge=1, le=1_000_000)]


def _check_unique(values: list[Any]) -> list[Any]:
    seen: set[Any] = set()
    for value in values:
        if value in seen:
            raise fault(codes.DUPLICATE_ENTRY, f"{quoted(value)} is listed twice")
        seen.add(value)
    return values


Unique = (AfterValidator(_check_unique), Field(max_length=LIST_ENTRIES_MAX, json_schema_extra={"uniqueItems": True}))
Names = Annotated[list[Name], *Unique]
ModelNames = Annotated[list[ModelName], *Unique]
Backends = Annotated[list[Backend], *Unique]
Texts = Annotated[list[Text], *Unique]


_LABEL_FORM = "is not a label: use 1 to 63 letters, digits and . _ / -"


def _not_reserved(key: str) -> str:
    if key.startswith("skulk.dev/"):
        raise fault(codes.RESERVED_LABEL, f"label {quoted(key)} is made by Skulk")
    return key


LabelText = Annotated[str, *_matching(LABEL_PATTERN, codes.BAD_TEXT, _LABEL_FORM)]
OwnLabelKey = Annotated[LabelText, AfterValidator(_not_reserved)]


def _label_schema(key_pattern: str) -> WithJsonSchema:
    return WithJsonSchema(
        {
            "type": "object",
            "propertyNames": {"pattern": key_pattern},
            "additionalProperties": {"type": "string", "pattern": LABEL_PATTERN},
        }
    )


Labels = Annotated[dict[OwnLabelKey, LabelText], _label_schema(LABEL_KEY_PATTERN)]
"""What a node says of itself; keys below `skulk.dev/` are reserved for what Skulk says."""
Selector = Annotated[dict[LabelText, LabelText], _label_schema(LABEL_PATTERN)]
"""Labels that a node must have, the built-in ones below `skulk.dev/` included."""


def _check_scalar(value: Any) -> Any:
    if not isinstance(value, (str, int, float, bool)):
        raise fault(codes.WRONG_TYPE, "an option is a text, a number or a truth value")
    return value


Options = Annotated[
    dict[str, Annotated[Any, AfterValidator(_check_scalar)]],
    WithJsonSchema({"type": "object", "additionalProperties": {"type": ["string", "number", "boolean"]}}),
]


def parse_quantity(text: str) -> int:
    """Bytes of a quantity such as `1.5GiB` (KB, MB… are powers of 1000, KiB, MiB… of 1024), rounded down.

    Raises ValueError for anything else; a validated manifest holds nothing else.
    """
    if re.fullmatch(QUANTITY_PATTERN, text) is None:
        raise ValueError(f"{quoted(text)} is not a quantity")
    number = text.rstrip("BKMGTi")
    return int(Fraction(number) * UNITS[text[len(number) :]])

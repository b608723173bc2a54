"""The registry of manifest faults: one stable, searchable code per distinct thing that can be wrong.

0xx the YAML layer · 1xx one document (structure and values) · 2xx rules across files · 4xx card import.
`BEYOND_SCHEMA` lists the faults that no JSON Schema can see, with the reason; an editor that only knows the
schemas is silent about them. This module holds no checks: it names them.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class ManifestCode:
    """A stable code, what it means in one line, and what to do about it."""

    id: str
    title: str
    fix: str


CODES: dict[str, ManifestCode] = {}


def _code(number: str, title: str, fix: str) -> ManifestCode:
    id_ = f"SK-MAN-{number}"
    if id_ in CODES:
        raise ValueError(f"manifest code {id_} is registered twice")
    CODES[id_] = entry = ManifestCode(id_, title, fix)
    return entry


# --- the YAML layer -----------------------------------------------------------------------------------------
NOT_UTF8 = _code("001", "the file is not UTF-8", "save it as UTF-8")
SYNTAX = _code("002", "the file is not well-formed YAML", "correct the syntax at the place named")
NO_MAPPING = _code("003", "the file does not hold a mapping", "start with apiVersion, kind, metadata and spec")
SEVERAL_DOCUMENTS = _code("004", "several documents in one file", "put each document into a file of its own")
DUPLICATE_KEY = _code("005", "a key appears twice", "keep one of the two")
ANCHOR = _code("006", "anchors and aliases are not allowed", "write the value out where it is needed")
TAG = _code("007", "tags are not allowed", "remove the tag; quote the value if a string is meant")
FILE_TOO_LARGE = _code("008", "the file is larger than 1 MiB", "split it; a manifest is a few kilobytes")
TOO_DEEP = _code("009", "nested deeper than 32 levels", "flatten the document")
KEY_NOT_STRING = _code("010", "a key is not a plain string", "quote the key")
LEADING_ZERO = _code("011", "a number starts with a zero", "drop the zero, or quote it if a string is meant")
NUMBER_OUT_OF_RANGE = _code(
    "012", "a number has no finite value, or too many digits", "write a smaller number, or quote it"
)
DIRECTIVE = _code("013", "a YAML directive asks for another version than 1.2", "remove the % line")
LFS_POINTER = _code(
    "014",
    "the file is a git-lfs pointer, not YAML",
    "take *.yaml out of .gitattributes and commit the content itself",
)
TOO_MANY_FAULTS = _code("015", "too many faults in one file", "correct the first ones and validate again")

# --- one document -------------------------------------------------------------------------------------------
UNKNOWN_FIELD = _code("101", "an unknown field", "correct the spelling or remove it; `skulk explain KIND.FIELD`")
MISSING_FIELD = _code("102", "a required field is missing", "add it; `skulk explain KIND.FIELD`")
WRONG_TYPE = _code("103", "a value of the wrong type", "write a value of the named type")
YES_NO = _code("104", "yes, no, on and off are words, not truth values", "write true or false")
NOT_QUOTED = _code("105", "a number or truth value where text is expected", "quote it")
NO_VALUE = _code("106", "a key without a value", "give it a value or leave the key out")
NOT_ALLOWED_VALUE = _code("107", "not one of the allowed values", "use one of those listed")
OUT_OF_BOUNDS = _code("108", "a number outside its range", "choose a number within the range")
BAD_LENGTH = _code("109", "a text or list of the wrong length", "keep within the limit")
BAD_NAME = _code("110", "a malformed name", "use 1 to 63 of a-z 0-9 . - and start and end with a letter or digit")
BAD_QUANTITY = _code("111", "a malformed quantity", "write a number and a unit, such as 2GiB or 500MB")
BAD_DIGEST = _code("112", "a malformed sha256", "write the 64 lower-case hexadecimal digits of `sha256sum`")
BAD_PATH = _code(
    "113", "an unsafe path", "use a plain relative path with /: no leading /, no .., no backslash, no drive"
)
BAD_TEXT = _code("114", "malformed text", "use the characters that the message names")
RESERVED_LABEL = _code("115", "labels starting with skulk.dev/ are made by Skulk", "choose another label key")
DECIMAL_POINT = _code("116", "a whole number written with a decimal point", "leave the point out")
UNKNOWN_KIND = _code("117", "an unknown kind", "use Fleet, Node, Deployment or ModelCard")
UNKNOWN_VERSION = _code("118", "an unknown apiVersion", "use skulk.dev/v1alpha1")
DUPLICATE_ENTRY = _code("119", "a list names the same thing twice", "keep one of the two")
ONE_SOURCE = _code("120", "a card's source is exactly one of hub and local", "write {local: NAME} or {hub: OWNER/NAME}")
NO_FILES = _code("121", "a card with a local source lists no files", "list every file with bytes and sha256")
UNKNOWN_OPTION = _code("122", "an engine option that the engine does not have", "leave it out")
OPTIONS_WITHOUT_ENGINE = _code(
    "123", "engine options without an engine name", "name the engine whose options these are"
)
OPTION_VALUE = _code("125", "an engine option has a value that it does not take", "write one of its values")
NO_EFFECT = _code("124", "a field that has no effect in this version", "leave it out")
DUPLICATE_FILE = _code("130", "a card lists the same file twice", "keep one of the two")
GGUF_NOT_LISTED = _code("131", "ggufFile is not among the card's files", "list it under files, or correct it")
WINDOW_LAYERS = _code("132", "more sliding-window layers than layers", "kv.slidingWindow.layers is at most nLayers")
PREFERENCE_INCOMPATIBLE = _code(
    "133", "a preferred backend is not compatible", "add it to compatibleBackends, or remove it"
)
DUPLICATE_ACCESS_KEY = _code("134", "two access keys share a name or a digest", "give each key its own")

# --- across files -------------------------------------------------------------------------------------------
NO_FLEET = _code("201", "no Fleet manifest", "add fleet/fleet.yaml with kind Fleet")
TWO_FLEETS = _code("202", "more than one Fleet manifest", "keep one, in fleet/fleet.yaml")
WRONG_PLACE = _code(
    "203",
    "a manifest in the wrong place",
    "Fleet in fleet/fleet.yaml, Node in fleet/nodes/, Deployment in fleet/deployments/, ModelCard in cards/",
)
DUPLICATE_NAME = _code("204", "two manifests of one kind share a name", "rename one of them")
DUPLICATE_ORDINAL = _code("205", "two nodes share an ordinal", "give the newer node the next free ordinal")
UNKNOWN_CARD = _code("206", "a deployment names a card that does not exist", "add the card, or correct model")
UNKNOWN_NAME = _code("207", "a list names something that does not exist", "correct it, or remove it")
NAME_CLASH = _code(
    "208", "one name would stand for two models", "rename the deployment or the alias, or change modelId"
)
CONTEXT_ABOVE_CARD = _code("209", "more context than the card allows", "lower contextTokens")
CASE_COLLISION = _code("210", "two paths differ only in upper and lower case", "rename one: macOS cannot hold both")
SYMLINK = _code("211", "a symbolic link among the manifests", "commit the file itself")
SUBMODULE = _code("212", "a submodule among the manifests", "commit the files themselves")
TOO_MANY_FILES = _code("213", "more than 5,000 manifest files", "split the fleet")
HUB_SOURCE = _code(
    "214", "this version does not fetch from the Hub", "use a card with a local source for this deployment"
)
ENGINE_NOT_COMPATIBLE = _code(
    "215", "the card is not compatible with the deployment's engine", "correct engine.name, or the card"
)
DUPLICATE_ENDPOINT = _code("216", "two nodes share an address and port", "give each node its own address or port")
DUPLICATE_PUBLIC_KEY = _code(
    "217",
    "two nodes share a public key",
    "make a key on each node: `skulk node key`, then `skulk node sign`",
)
DUPLICATE_SSH_HOST_KEY = _code(
    "218",
    "two nodes share an SSH host key",
    "write each machine's own; after copying a disk: rm /etc/ssh/ssh_host_*, then ssh-keygen -A",
)

# --- card import --------------------------------------------------------------------------------------------
IMPORT_NOT_TOML = _code("401", "the card to import is not TOML", "import a TOML model card")
IMPORT_INCOMPLETE = _code("402", "the imported card must be completed by hand", "add what the message names")
IMPORT_LEFT_OUT = _code("403", "a field of the card was left out", "nothing, if you do not need it")
IMPORT_INVALID = _code("404", "the card to import is invalid", "correct the card")


@dataclass(frozen=True, slots=True)
class BeyondSchema:
    """A fault that JSON Schema cannot express, and why."""

    code: ManifestCode
    why: str


_TEXT = "a schema sees the parsed value, not the text of the file"
_FILES = "a schema sees one file, not the others"

BEYOND_SCHEMA: tuple[BeyondSchema, ...] = (
    *(
        BeyondSchema(code, _TEXT)
        for code in (
            NOT_UTF8,
            SYNTAX,
            SEVERAL_DOCUMENTS,
            DUPLICATE_KEY,
            ANCHOR,
            TAG,
            FILE_TOO_LARGE,
            TOO_DEEP,
            KEY_NOT_STRING,
            LEADING_ZERO,
            NUMBER_OUT_OF_RANGE,
            DIRECTIVE,
            LFS_POINTER,
            TOO_MANY_FAULTS,
        )
    ),
    BeyondSchema(DECIMAL_POINT, "JSON Schema holds 4.0 for an integer"),
    BeyondSchema(DUPLICATE_FILE, "a schema compares whole list entries, not one field of them"),
    BeyondSchema(GGUF_NOT_LISTED, "a schema cannot compare two fields"),
    BeyondSchema(WINDOW_LAYERS, "a schema cannot compare two fields"),
    BeyondSchema(PREFERENCE_INCOMPATIBLE, "a schema cannot compare two fields"),
    BeyondSchema(DUPLICATE_ACCESS_KEY, "a schema compares whole list entries, not one field of them"),
    *(
        BeyondSchema(code, _FILES)
        for code in (
            NO_FLEET,
            TWO_FLEETS,
            WRONG_PLACE,
            DUPLICATE_NAME,
            DUPLICATE_ORDINAL,
            DUPLICATE_ENDPOINT,
            DUPLICATE_PUBLIC_KEY,
            DUPLICATE_SSH_HOST_KEY,
            UNKNOWN_CARD,
            NAME_CLASH,
            CONTEXT_ABOVE_CARD,
            CASE_COLLISION,
            SYMLINK,
            SUBMODULE,
            TOO_MANY_FILES,
            HUB_SOURCE,
        )
    ),
)
"""Only errors: warnings (`UNKNOWN_NAME`, `ENGINE_NOT_COMPATIBLE`) refuse nothing. A test holds this table to the
exact set of disagreements between the loader and the schemas on the corpus."""

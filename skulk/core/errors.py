"""Every error Skulk raises on purpose, in one tree, each with a stable searchable code.

    SkulkError
    ├── InvalidInput      a person wrote something wrong: say what, where and the fix        (retry never)
    ├── Refused           policy or authorisation said no                                    (retry never)
    ├── Terminal          no retry until the inputs change or a person resets                (retry never)
    ├── Transient         try again with backoff                                             (retry backoff)
    └── RequestError      a client's request failed; carries the HTTP status to answer with
        └── RetriableRefusal  nothing was generated: another replica may take it

`docs/reference/errors.md` documents each code in `CODES`; a test compares the two. Diagnostics about
manifests have codes of the same form (`skulk.core.manifests.codes`). Waiting is not an error: see
`skulk.core.domain.conditions.Waiting`.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import ClassVar


class Retry(StrEnum):
    """What whoever catches the error should do next."""

    NEVER = "never"
    BACKOFF = "backoff"


@dataclass(frozen=True, slots=True)
class ErrorCode:
    """A stable code, what it means in one line, and what to do about it."""

    id: str
    title: str
    fix: str


CODES: dict[str, ErrorCode] = {}


def code(id_: str, title: str, fix: str) -> ErrorCode:
    """Register a code. Raises ValueError when the id is taken, so that codes stay unique."""
    if id_ in CODES:
        raise ValueError(f"error code {id_} is registered twice")
    CODES[id_] = entry = ErrorCode(id_, title, fix)
    return entry


class SkulkError(Exception):
    """Base of all deliberate errors. `str(error)` is for people and names the thing, the place and the fix."""

    retry: ClassVar[Retry] = Retry.NEVER

    def __init__(self, code: ErrorCode, message: str, *, fix: str | None = None) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.fix = fix if fix is not None else code.fix

    def __str__(self) -> str:
        return f"{self.code.id} {self.message}" + (f" ({self.fix})" if self.fix else "")


class InvalidInput(SkulkError):
    """Something a person wrote (manifest, node.toml, command line) is wrong."""


class Refused(SkulkError):
    """A policy said no: verification, ancestry, prune protection, authorisation."""


class Terminal(SkulkError):
    """Trying again cannot help until the inputs change."""


class Transient(SkulkError):
    """The world outside failed; the same call may succeed later."""

    retry: ClassVar[Retry] = Retry.BACKOFF


class RequestError(SkulkError):
    """A client's request failed.

    `status` is the HTTP status, `kind` the OpenAI error `type`, `param` the offending field when there is one,
    `slug` the OpenAI error `code` (a short string that clients match on).
    """

    def __init__(
        self,
        code: ErrorCode,
        message: str,
        *,
        status: int,
        kind: str = "invalid_request_error",
        param: str | None = None,
        slug: str | None = None,
        retry_after_seconds: int | None = None,
        fix: str | None = None,
    ) -> None:
        super().__init__(code, message, fix=fix)
        self.status = status
        self.kind = kind
        self.param = param
        self.slug = slug
        self.retry_after_seconds = retry_after_seconds

    def __str__(self) -> str:
        return self.message


class RetriableRefusal(RequestError):
    """A replica did not take the request and generated nothing: the router may send it to another one."""


# --- node configuration -------------------------------------------------------------------------------------
CFG_INVALID = code("SK-CFG-001", "node.toml is invalid", "correct the named key; docs/reference/node-toml.md lists all")
CFG_MISSING = code("SK-CFG-002", "node.toml is missing", "write it, or pass --config FILE")
CFG_PORT_TAKEN = code("SK-CFG-003", "a port is already in use", "stop the other program or choose another port")
CFG_EXPOSED = code(
    "SK-CFG-004",
    "the gateway would listen beyond loopback without keys",
    "add keys to Fleet.spec.access, or listen on 127.0.0.1",
)
CFG_STATE_LOCKED = code(
    "SK-CFG-005", "another daemon uses this state directory", "stop it, or give this one its own stateDir"
)
CFG_ENVIRONMENT = code(
    "SK-CFG-006", "skulk.env is invalid", "write one NAME=value per line, readable for the daemon's account"
)

# --- source -------------------------------------------------------------------------------------------------
SRC_UNREACHABLE = code("SK-SRC-001", "the source cannot be reached", "check the URL, the network and the credentials")
SRC_NO_BRANCH = code("SK-SRC-002", "the branch does not exist at the source", "push it, or correct source.branch")
SRC_EMPTY = code("SK-SRC-003", "the source has no commit yet", "commit and push the manifests")
SRC_NO_PATH = code("SK-SRC-004", "the path does not exist in the commit", "correct source.path in node.toml")
SRC_UNSIGNED = code("SK-SRC-005", "the commit has no trusted signature", "sign it with a key of the allowed signers")
SRC_ANCESTOR = code("SK-SRC-006", "the commit is older than the accepted one", "revert instead of going backwards")
SRC_FORCED = code(
    "SK-SRC-007",
    "history was rewritten: the accepted commit is not an ancestor",
    "push a descendant, or allow it with source.allowForcePush in node.toml",
)
SRC_PRUNE = code(
    "SK-SRC-008",
    "prune protection: the commit removes too many manifests at once",
    "list the removed names in Fleet.spec.prune.allowRemoval of that commit",
)
SRC_NAMESPACE = code("SK-SRC-009", "the Fleet's namespace differs from node.toml's", "make the two equal")
SRC_INVALID = code("SK-SRC-010", "the commit's manifests are invalid", "run `skulk validate` and correct them")
SRC_TIMEOUT = code("SK-SRC-011", "git did not answer in time", "check the network; it is tried again with backoff")
SRC_CORRUPT = code("SK-SRC-012", "the local mirror is damaged", "it is made anew by itself; check the disk")
SRC_AUTH = code(
    "SK-SRC-013",
    "the source refused the credentials",
    "give the daemon's user a credential helper, an ssh key or the host's key; docs/guides/source.md",
)
SRC_DISK = code("SK-SRC-014", "the local mirror cannot be written", "free space on the state directory's disk")
SRC_NO_OBJECTS = code(
    "SK-SRC-015", "the source keeps no git objects that could be handed on", "let every node read the directory itself"
)
SRC_BUNDLE = code("SK-SRC-016", "another node sent objects that cannot be used", "another member is asked by itself")
SRC_BUNDLE_SIZE = code(
    "SK-SRC-017",
    "the objects of a commit are too large to be sent between nodes",
    "let the node reach the remote itself, or keep large files out of the repository",
)

# --- weights ------------------------------------------------------------------------------------------------
WGT_NO_ROOT = code("SK-WGT-001", "no model root holds the card's source", "put the files under a modelRoots directory")
WGT_MISSING = code("SK-WGT-002", "a file of the card is missing", "restore the file under the model root")
WGT_SIZE = code("SK-WGT-003", "a file's size differs from the card", "restore the file, or correct the card")
WGT_DIGEST = code("SK-WGT-004", "a file's sha256 differs from the card", "restore the file, or correct the card")
WGT_NO_SPACE = code(
    "SK-WGT-005",
    "not enough disk space for the files",
    "free space below stateDir, or lower the node's reserve.disk",
)
WGT_ESCAPE = code("SK-WGT-006", "a path leaves its model root", "use a plain relative path, no links out of the root")
WGT_LFS_POINTER = code(
    "SK-WGT-007", "a file is a git-lfs pointer, not the content", "run `git lfs pull` in the model root"
)
WGT_IO = code("SK-WGT-008", "a file could not be read or written", "check permissions and the disk")

# --- runners and engines ------------------------------------------------------------------------------------
RUN_EXITED = code("SK-RUN-001", "the runner exited", "read its log: `skulk logs PLACEMENT`")
RUN_NO_HELLO = code("SK-RUN-002", "the runner did not answer its socket in time", "it is restarted; read its log")
RUN_HEARTBEAT = code("SK-RUN-003", "the runner stopped sending heartbeats", "it is restarted; read its log")
RUN_LOAD_DEADLINE = code("SK-RUN-004", "loading took longer than its deadline", "check the disk and the card's size")
RUN_WEDGED = code("SK-RUN-005", "the runner made no progress", "change the inputs or `skulk reconcile NAME --reset`")
RUN_BREAKER = code("SK-RUN-006", "the runner failed too often", "change the inputs or `skulk reconcile NAME --reset`")
RUN_MEMORY = code(
    "SK-RUN-007", "the model does not fit the memory that is free now", "stop something, or reduce context"
)
RUN_LOST = code("SK-RUN-008", "the runner was lost", "the request may be sent again")
RUN_PROTOCOL = code("SK-RUN-009", "the runner spoke another protocol", "it is replaced")
RUN_START = code(
    "SK-RUN-010", "the runner process could not be started", "check the engine environment: `skulk doctor`"
)
ENG_MISSING = code("SK-ENG-001", "no environment of this engine is installed", "run `skulk doctor` for the command")
ENG_BROKEN = code("SK-ENG-002", "the engine environment does not work", "remove it and install it again")
ENG_MODEL = code("SK-ENG-003", "the engine cannot load the model", "read the runner's log: `skulk logs PLACEMENT`")
ENG_GENERATE = code(
    "SK-ENG-004", "generation failed inside the engine", "read the runner's log: `skulk logs PLACEMENT`"
)
ENG_INSTALL = code(
    "SK-ENG-005",
    "the engine environment could not be installed",
    "read the installer's last lines above; check network and disk, then try again",
)
ENG_TOOLCHAIN = code(
    "SK-ENG-006",
    "the engine has to be compiled here and there is no working C/C++ compiler",
    "install one (Debian, Ubuntu: apt install g++; Fedora: dnf install gcc-c++; Arch: pacman -S gcc;"
    " macOS: xcode-select --install); it is tried again by itself",
)

# --- planes -------------------------------------------------------------------------------------------------
PLN_EXPOSED = code(
    "SK-PLN-001",
    "the planes would reach beyond loopback without certificates",
    "name ca, certificate and key in [planes] of node.toml, or set allowPlain there for a network that you trust",
)
PLN_TLS = code(
    "SK-PLN-002", "the planes' certificate files cannot be used", "check the named file; docs/reference/planes.md"
)
PLN_OPEN = code("SK-PLN-003", "the planes could not be opened", "check that the port is free and the address is local")
PLN_UNREACHABLE = code("SK-PLN-004", "a node did not answer on the planes", "check the node and the network to it")
PLN_BODY = code("SK-PLN-005", "no member could deliver a document's body", "it is tried again; check the network")

# --- certificates -------------------------------------------------------------------------------------------
CRT_FILE = code(
    "SK-CRT-001",
    "a key, request, certificate or passphrase file cannot be used",
    "check the named file; docs/guides/several-nodes.md",
)
CRT_REQUEST = code("SK-CRT-002", "the certificate request is refused", "make it with `skulk node key` on the node")
CRT_AUTHORITY = code(
    "SK-CRT-003", "there is no usable certificate authority", "name its directory with --ca, or make one with --new-ca"
)
CRT_PASSPHRASE = code(
    "SK-CRT-004", "the authority's key needs its passphrase", "give it at the prompt, or with --passphrase-file"
)
CRT_EXISTS = code(
    "SK-CRT-005", "a key or certificate exists and is not replaced", "move it away, or name another place"
)

# --- releases and machines ----------------------------------------------------------------------------------
REL_WHEEL = code("SK-REL-001", "a file is no wheel of Skulk that can be installed", "name the wheel of a release")
REL_BUILD = code("SK-REL-002", "no wheel can be built here", "give one: --wheel FILE")
REL_VERSION = code(
    "SK-REL-003",
    "the release is not the version that the Fleet names",
    "give the wheel of that version, or change spec.version",
)
REL_MACHINE = code("SK-REL-004", "the machine cannot be this node", "see the findings; nothing was changed")
REL_PROBE = code("SK-REL-005", "the machine did not answer the probe", "try `ssh HOST true`, then run it again")
REL_WHEELHOUSE = code(
    "SK-REL-006", "a wheelhouse cannot be used", "fill it with `skulk node wheelhouse DIR`; docs/guides/air-gapped.md"
)
REL_DOWNLOAD = code(
    "SK-REL-007", "a package for a wheelhouse could not be fetched", "correct what pip says, then run it again"
)
REL_WANTED = code(
    "SK-REL-008",
    "what the Fleet wants cannot be read on this node",
    "see the daemon's log for the commit that it accepted",
)
REL_INSTALL = code(
    "SK-REL-009",
    "the release could not be installed, and the one before stays",
    "correct what is named, then try again",
)

# --- secrets ------------------------------------------------------------------------------------------------
SEC_FILE = code(
    "SK-SEC-001", "an encrypted secret cannot be used", "restore the file from git, or remove it and set it anew"
)
SEC_IDENTITY = code(
    "SK-SEC-002", "an identity (a private key) cannot be used", "name another with --identity; docs/guides/secrets.md"
)
SEC_NOT_FOR = code(
    "SK-SEC-003",
    "a secret is not encrypted to this identity",
    "`skulk secrets rekey` in the checkout of somebody who can read it, then commit and push",
)
SEC_RECIPIENTS = code(
    "SK-SEC-004",
    "the recipients of secrets cannot be used",
    "correct fleet/secrets/operators.txt; `skulk secrets key` adds your key",
)
SEC_EDITOR = code("SK-SEC-005", "the editor failed, and nothing was changed", "set VISUAL or EDITOR, or use --from")
SEC_INSTALL = code("SK-SEC-006", "a secret cannot be installed", "run it as root; check owner and target directory")

# --- requests -----------------------------------------------------------------------------------------------
REQ_INVALID = code("SK-REQ-001", "the request is invalid", "correct the named field")
REQ_UNSUPPORTED = code(
    "SK-REQ-002", "the request uses a field that this version does not honour", "leave the field out"
)
REQ_MODEL = code("SK-REQ-003", "the model is not served by this fleet", "use one of the listed models")
REQ_NOT_READY = code("SK-REQ-004", "no replica of the model is ready", "try again after Retry-After seconds")
REQ_CONTEXT = code("SK-REQ-005", "the request does not fit the context", "shorten the prompt or lower max_tokens")
REQ_QUEUE_FULL = code("SK-REQ-006", "the queue of the model is full", "try again after Retry-After seconds")
REQ_DEADLINE = code("SK-REQ-007", "the request's deadline passed", "raise the deadline, or add replicas")
REQ_TOO_LARGE = code("SK-REQ-008", "the request body is too large", "send less")
REQ_NO_KEY = code("SK-REQ-009", "no valid API key was sent", "send Authorization: Bearer KEY")
REQ_SCOPE = code("SK-REQ-010", "the API key lacks the scope", "use a key with the scope")
REQ_RESTARTING = code("SK-REQ-011", "the node is restarting", "send the request again")
REQ_SLOW_CLIENT = code("SK-REQ-012", "the client read too slowly", "read faster, or use stream: false")
REQ_NOT_FOUND = code("SK-REQ-013", "no such resource", "list what exists: `skulk get`")
REQ_INTERNAL = code("SK-REQ-014", "an internal error", "report it with the request id")
REQ_DRAINING = code("SK-REQ-015", "the replica is draining", "it is routed to another replica by itself")
REQ_CANCELLED = code("SK-REQ-016", "the request was cancelled", "send the request again")
REQ_ORIGIN = code(
    "SK-REQ-017",
    "a page of another origin, or a foreign host name, called a gateway without keys",
    "use http://127.0.0.1:PORT, or configure keys in Fleet.spec.access",
)

# --- webhooks -----------------------------------------------------------------------------------------------
HOK_OFF = code(
    "SK-HOK-001",
    "the node takes no webhooks",
    "set webhook.secretFile or webhook.secretEnv in node.toml; docs/guides/webhook.md",
)
HOK_SIGNATURE = code(
    "SK-HOK-002",
    "a webhook delivery is not signed with this node's secret",
    "enter the node's webhook secret at the forge; docs/guides/webhook.md",
)
HOK_STALE = code("SK-HOK-003", "a webhook delivery is too old", "set the clocks of forge and node")
HOK_BUSY = code("SK-HOK-004", "too many webhook deliveries at once", "send it again after Retry-After seconds")

# --- command line -------------------------------------------------------------------------------------------
CLI_USAGE = code("SK-CLI-001", "the command line is wrong", "see --help")
CLI_UNREACHABLE = code("SK-CLI-002", "the node cannot be reached", "start it with `skulk node run`, or pass --url")
CLI_TIMEOUT = code("SK-CLI-003", "waiting ran out of time", "see `skulk why NAME`")
CLI_EXISTS = code("SK-CLI-004", "the target exists", "choose another directory, or empty this one")
CLI_ANSWER = code("SK-CLI-005", "what answered is not a Skulk node", "check --url: another program may listen there")
CLI_REQUEST = code("SK-CLI-006", "the node refused or failed the request", "see `skulk why NAME` and `skulk logs NAME`")
CLI_DRIFT = code("SK-CLI-007", "generated files differ from what this version generates", "run `skulk schema`")
CLI_EDIT = code(
    "SK-CLI-008", "a field of a manifest cannot be set without touching more of the file", "edit the file by hand"
)

# --- bootstrap ----------------------------------------------------------------------------------------------
BST_MISSING = code(
    "SK-BST-001", "Ansible is not installed beside this program", "`pip install 'skulk[bootstrap]'` on this machine"
)
BST_PLAYBOOK = code(
    "SK-BST-002", "the playbook cannot be run", "correct the named place in the playbook or role, and repeat"
)

"""`node.toml`: the local facts of one node, written by the bootstrap (or by hand), never by git.

Every key can be overridden by its environment variable (`SKULK_STATE_DIR`, `SKULK_SOURCE__URL`), which may also stand
in `skulk.env` beside node.toml: the environment wins over that file, and that file over node.toml.
Fleet-wide things do not belong here; what is here can only be made stricter by the Fleet.
docs/reference/node-toml.md lists every key.
"""

from __future__ import annotations

import json
import os
import re
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from skulk.core import errors
from skulk.core.domain import VerifyMode
from skulk.core.environment import parse_environment
from skulk.core.legacy import OldVariable, new_names
from skulk.core.update import wheelhouse

if TYPE_CHECKING:
    from skulk.adapters.zenoh.settings import PlaneSettings

ENVIRONMENT_FILE = "skulk.env"
PROCESS_VARIABLES = frozenset(
    {
        "SKULK_LOGGING_EXTERNAL",
        "SKULK_WARMUP_DEADLINE_SECONDS",
        "SKULK_STEP_DEADLINE_SECONDS",
        "SKULK_MAX_OUTPUT_TOKENS",
        "SKULK_MAX_TOKENS",
    }
)
"""What the daemon and its runners read besides the keys of node.toml."""
VERB_VARIABLES = frozenset({"SKULK_CONFIG", "SKULK_URL", "SKULK_API_KEY"})
"""What only verbs read."""

_UNITS = {"B": 1, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30, "TiB": 2**40, "KB": 10**3, "MB": 10**6, "GB": 10**9}
_SIZE = re.compile(r"^([0-9]+(?:\.[0-9]+)?)\s*(B|KiB|MiB|GiB|TiB|KB|MB|GB)$")


def _camel(name: str) -> str:
    head, *rest = name.split("_")
    return head + "".join(word.capitalize() for word in rest)


def _bytes(value: object) -> object:
    """What a size such as `4GiB` means; everything that is no text is left to the model. Raises ValueError."""
    if not isinstance(value, str) or value.isdecimal():
        return value
    match = _SIZE.match(value)
    if match is None:
        raise ValueError("a size such as 4GiB or 512MiB is expected")
    return int(float(match[1]) * _UNITS[match[2]])


class _Table(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, alias_generator=_camel, populate_by_name=True)


class ListenTable(_Table):
    """Where the gateway listens."""

    host: str = Field("127.0.0.1", description="Address; beyond loopback only while the Fleet has keys.")
    port: int = Field(52415, ge=1, le=65535, description="TCP port of gateway, fleet API and metrics.")


class SourceTable(_Table):
    """Where the manifests come from: a git remote (`url`) or a directory that something else syncs."""

    url: str | None = Field(None, description="Git remote: a path, file://, ssh, git@host:path or https URL.")
    directory: Path | None = Field(None, description="Directory source: the folder that holds fleet/ and cards/.")
    branch: str = Field("main", description="Branch of the remote.")
    path: str = Field("", description="Folder of the repository that holds fleet/ and cards/.")
    verify: VerifyMode = Field(VerifyMode.OFF, description="Signatures demanded: off, head or every commit.")
    allowed_signers: Path | None = Field(None, description="OpenSSH allowed-signers file.")
    gpg_home: Path | None = Field(None, description="GnuPG home with the trusted public keys.")
    allow_force_push: bool = Field(False, description="Accept a commit that does not descend from the last one.")
    timeout_seconds: float = Field(30.0, gt=0, le=600, description="Deadline of one git command.")
    poll_seconds: float | None = Field(None, gt=0, le=3600, description="Instead of the Fleet's poll interval.")

    @model_validator(mode="after")
    def _one_source(self) -> SourceTable:
        if (self.url is None) == (self.directory is None):
            raise ValueError("exactly one of source.url and source.directory is needed")
        return self


class PlanesTable(_Table):
    """How this node meets the others. Nothing listens, and the node is alone, until `listen` names an endpoint."""

    listen: tuple[str, ...] = Field(
        (), description="Endpoints to listen on: `tls/HOST:PORT`, or `tcp/HOST:PORT` without certificates."
    )
    mode: Literal["router", "peer"] = Field(
        "peer", description="peer: direct connections only. router: pass on what two others cannot exchange directly."
    )
    ca: Path | None = Field(None, description="The fleet's authority: `ca.pem` of `skulk node sign`.")
    certificate: Path | None = Field(None, description="This node's certificate: `NAME.pem` of `skulk node sign`.")
    key: Path | None = Field(None, description="This node's key, made by `skulk node key`.")
    verify_names: bool = Field(True, description="The dialled address must stand in the other node's certificate.")
    allow_plain: bool = Field(
        False, description="Without certificates, leave loopback: for a network that is protected by other means."
    )
    lease_ms: int = Field(
        2000, ge=500, le=60_000, description="A node that is silent for so many milliseconds is suspected."
    )
    seeds: tuple[str, ...] = Field(
        (), description="Endpoints to dial before the first commit is accepted; later the Node manifests say whom."
    )

    @model_validator(mode="after")
    def _whole(self) -> PlanesTable:
        files = (self.ca, self.certificate, self.key)
        if any(files) and not all(files):
            raise ValueError("ca, certificate and key are needed together, or none of them")
        if not self.listen and self.seeds:
            raise ValueError("seeds have no effect without listen")
        return self


class WebhookTable(_Table):
    """Where the secret stands that the git forge signs its webhooks with; the secret itself never stands here."""

    secret_file: Path | None = Field(None, description="File with the webhook secret, not readable by others.")
    secret_env: str | None = Field(None, description="Environment variable that holds the webhook secret.")

    @field_validator("secret_env")
    @classmethod
    def _variable(cls, value: str | None) -> str | None:
        if value is not None and not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", value):
            raise ValueError("the name of an environment variable is expected, not the secret itself")
        return value

    @model_validator(mode="after")
    def _one_place(self) -> WebhookTable:
        if self.secret_file is not None and self.secret_env is not None:
            raise ValueError("only one of webhook.secretFile and webhook.secretEnv can be set")
        return self


class LogTable(_Table):
    """Where the daemon's log goes when there is no journal that keeps it."""

    file: Path | None = Field(None, description="JSON lines go to this file, and not to stdout or a terminal.")
    max_bytes: int = Field(
        50 * 2**20, ge=4096, description="The file is renamed to <file>.1 before it grows larger (`50MiB`)."
    )
    keep: int = Field(5, ge=1, le=1000, description="So many renamed files are kept.")

    @field_validator("max_bytes", mode="before")
    @classmethod
    def _size(cls, value: object) -> object:
        return _bytes(value)


class UpdateTable(_Table):
    """How the node brings itself to the version that the Fleet names (`spec.version`); off until `on_boot` is set."""

    on_boot: bool = Field(False, description="Go over to the Fleet's version when the machine starts.")
    wheelhouse: str | None = Field(
        None, description="Where releases and packages come from: an absolute directory or an https:// URL."
    )
    program_dir: Path = Field(Path("/opt/skulk"), description="Where releases are installed.")

    @field_validator("wheelhouse")
    @classmethod
    def _location(cls, value: str | None) -> str | None:
        return None if value is None else wheelhouse(value).location

    @model_validator(mode="after")
    def _supplied(self) -> UpdateTable:
        if self.on_boot and self.wheelhouse is None:
            raise ValueError("update.onBoot needs update.wheelhouse")
        return self


class NodeConfig(_Table):
    """All of node.toml. Paths may start with `~`; relative ones are relative to the file (`source.url` is not a
    path but an address)."""

    name: str = Field(description="This node's name: its identity, equal to a Node manifest's metadata.name.")
    namespace: str = Field("default", description="Must equal the Fleet's namespace.")
    state_dir: Path = Field(Path("/var/lib/skulk"), description="Mirror, runners, weights, journal.")
    engines_dir: Path | None = Field(None, description="Engine environments; default <stateDir>/engines.")
    model_roots: tuple[Path, ...] = Field((), description="Where `source: {local: NAME}` of a card is looked up.")
    memory_cap: int | None = Field(None, gt=0, description="Use no more memory than this (`4GiB`).")
    orphan_seconds: float = Field(600.0, gt=0, description="A runner without a daemon frees its memory after this.")
    install_engines: bool = Field(True, description="Install missing engine environments.")
    engines: tuple[str, ...] = Field(("mlx",), description="Engines to install and to offer, and no others.")
    scripted_engine: bool = Field(False, description="Offer the scripted engine: for tests of failure paths only.")
    log_level: str | None = Field(
        None, pattern="^(debug|info|warning|error)$", description="Lowest level logged, instead of the Fleet's."
    )
    log: LogTable = LogTable()
    listen: ListenTable = ListenTable()
    planes: PlanesTable = PlanesTable()
    source: SourceTable
    webhook: WebhookTable = WebhookTable()
    update: UpdateTable = UpdateTable()

    @field_validator("memory_cap", mode="before")
    @classmethod
    def _size(cls, value: object) -> object:
        return _bytes(value)

    def plane_settings(self, dial: Iterable[str] = ()) -> PlaneSettings:
        """What the planes are opened with: the seeds and `dial`, each once. Raises InvalidInput: PLN_EXPOSED for a
        plain endpoint beyond loopback that is not allowed, PLN_OPEN for one of another form."""
        # loads the messaging library, which nodes without planes do without
        from skulk.adapters.zenoh.settings import PlaneSettings, TlsFiles, checked

        table, tls = self.planes, None
        if table.ca is not None and table.certificate is not None and table.key is not None:
            tls = TlsFiles(table.ca, table.certificate, table.key, table.verify_names)
        return checked(
            PlaneSettings(
                self.namespace,
                table.listen,
                tuple(dict.fromkeys((*table.seeds, *dial))),
                table.mode,
                tls,
                table.allow_plain,
                table.lease_ms,
            )
        )

    @property
    def engines_path(self) -> Path:
        return self.engines_dir if self.engines_dir is not None else self.state_dir / "engines"


def load_config(path: Path, environment: Mapping[str, str] = os.environ) -> NodeConfig:
    """Read node.toml, then skulk.env and the environment over it.

    Raises InvalidInput naming the file and the key, line or variable.
    """
    environment, _ = effective_environment(path, environment)
    try:
        raw = tomllib.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        raise errors.InvalidInput(errors.CFG_MISSING, f"{path} does not exist") from None
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise errors.InvalidInput(errors.CFG_INVALID, f"{path}: {error}") from None
    overridden = _overlay(raw, NodeConfig, "SKULK_", environment)
    try:
        config = NodeConfig.model_validate(raw)
    except ValidationError as error:
        lines = [_line(item["loc"], item["msg"], overridden) for item in error.errors()]
        raise errors.InvalidInput(errors.CFG_INVALID, f"{path}: {'; '.join(lines)}") from None
    resolved = _resolved(config, path.resolve().parent)
    if resolved.planes.listen:
        _check_planes(path, resolved)
    return resolved


def variable_names(table: type[BaseModel] = NodeConfig, prefix: str = "SKULK_") -> Iterator[str]:
    """The environment variable of every key."""
    for name, field in table.model_fields.items():
        inner = field.annotation
        if isinstance(inner, type) and issubclass(inner, BaseModel):
            yield from variable_names(inner, f"{prefix}{name.upper()}__")
        else:
            yield f"{prefix}{name.upper()}"


def effective_environment(path: Path, environment: Mapping[str, str]) -> tuple[dict[str, str], tuple[OldVariable, ...]]:
    """`environment` with what the skulk.env beside node.toml adds to it and with new names for old ones, and the old
    ones. Raises InvalidInput for a bad skulk.env."""
    known = {*variable_names(), *PROCESS_VARIABLES, *VERB_VARIABLES}
    return new_names({**_read_environment(path), **environment}, known)


def _read_environment(path: Path) -> dict[str, str]:
    """The variables of `skulk.env` beside the node.toml `path`; none when there is no such file.

    The daemon reads it itself, so that it works alike under every service manager and for every verb.
    """
    file = path.with_name(ENVIRONMENT_FILE)
    try:
        text = file.read_text("utf-8")
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except (OSError, UnicodeDecodeError) as error:
        raise errors.InvalidInput(errors.CFG_ENVIRONMENT, f"{file}: {error}") from None
    return parse_environment(text, str(file))


def _check_planes(path: Path, config: NodeConfig) -> None:
    """The rule of the planes themselves, told with the file's name while a person looks."""
    try:
        config.plane_settings()
    except errors.InvalidInput as error:
        raise errors.InvalidInput(error.code, f"{path}: {error.message}", fix=error.fix) from None


def _overlay(
    raw: dict[str, Any], table: type[BaseModel], prefix: str, environment: Mapping[str, str]
) -> dict[tuple[str, ...], str]:
    """Put what the environment says into `raw`; return the key paths that came from there, with their variables.

    Values of lists are JSON; everything else is text, which the model reads as numbers and booleans too.
    """
    overridden: dict[tuple[str, ...], str] = {}
    for name, field in table.model_fields.items():
        key, variable = field.alias or name, f"{prefix}{name.upper()}"
        inner = field.annotation
        if isinstance(inner, type) and issubclass(inner, BaseModel):
            nested = dict(raw.get(key) or {}) if isinstance(raw.get(key) or {}, dict) else None
            if nested is None:
                continue  # not a table: the model says so
            below = _overlay(nested, inner, f"{variable}__", environment)
            if below:
                raw[key] = nested
                overridden |= {(key, *path): env for path, env in below.items()}
        elif variable in environment:
            raw[key] = _from_text(environment[variable])
            overridden[(key,)] = variable
    return overridden


def _from_text(text: str) -> object:
    if text.startswith("["):
        try:
            return json.loads(text)
        except ValueError:
            return text
    return text


def _line(loc: tuple[int | str, ...], message: str, overridden: Mapping[tuple[str, ...], str]) -> str:
    path = tuple(str(part) for part in loc)
    variable = overridden.get(path)
    source = f" (from {variable})" if variable else ""
    unknown = " (unknown key)" if message.startswith("Extra inputs") else ""
    return f"{'.'.join(path) or 'node.toml'}{source}: {message}{unknown}"


def _resolved(config: NodeConfig, base: Path) -> NodeConfig:
    def absolute(path: Path | None) -> Path | None:
        return None if path is None else (base / path.expanduser()).absolute()

    source = config.source.model_copy(
        update={
            "directory": absolute(config.source.directory),
            "allowed_signers": absolute(config.source.allowed_signers),
            "gpg_home": absolute(config.source.gpg_home),
        }
    )
    files = ("ca", "certificate", "key")
    planes = config.planes.model_copy(update={name: absolute(getattr(config.planes, name)) for name in files})
    return config.model_copy(
        update={
            "planes": planes,
            "state_dir": absolute(config.state_dir),
            "engines_dir": absolute(config.engines_dir),
            "model_roots": tuple(absolute(root) for root in config.model_roots),
            "log": config.log.model_copy(update={"file": absolute(config.log.file)}),
            "source": source,
            "update": config.update.model_copy(update={"program_dir": absolute(config.update.program_dir)}),
            "webhook": config.webhook.model_copy(update={"secret_file": absolute(config.webhook.secret_file)}),
        }
    )

"""TOML model cards of the reference system, rewritten as ModelCard manifests.

A TOML card has no digests and may ask for what this version does not do. What cannot be carried over is left out
and said, in a diagnostic and in a comment of the result, so that nothing disappears in silence. Nothing is fetched:
a person adds the files.
"""

from __future__ import annotations

import re
import tomllib
from typing import Any

from pydantic.alias_generators import to_camel

from skulk.core.manifests import codes
from skulk.core.manifests.codes import ManifestCode
from skulk.core.manifests.diagnostics import Diagnostic, Severity, printable, quoted, tidy
from skulk.core.manifests.faults import Fault
from skulk.core.manifests.fields import API_VERSION, HUB_PATTERN
from skulk.core.manifests.strict_yaml import FILE_BYTES_MAX, Document, Path
from skulk.core.manifests.structure import check
from skulk.core.manifests.yaml_text import to_yaml

NAME_CHARACTERS_MAX = 63
# Relative to cards/NAME/card.yaml, where an imported card is meant to go.
MODELINE = "# yaml-language-server: $schema=../../schemas/modelcard.schema.json"

# What a card cannot keep: whether it was made by hand is not a property of the model.
_DROPPED = ("is_custom",)


def import_toml(data: bytes, name_hint: str = "") -> tuple[str, tuple[Diagnostic, ...]]:
    """A TOML card as (YAML text of a ModelCard, diagnostics).

    `name_hint` is the file's name or what the card should be called; without it the model id gives the name. The
    text is empty when there is an error. A warning SK-MAN-402 always says what must be completed by hand.
    """
    file = name_hint or "card.toml"
    try:
        spec = _camel(_parsed(data))
    except (UnicodeDecodeError, tomllib.TOMLDecodeError, RecursionError, ValueError) as error:
        line, column = _position(str(error))
        refused = Diagnostic(
            file,
            line,
            column,
            Severity.ERROR,
            codes.IMPORT_NOT_TOML.id,
            f"not a TOML card: {printable(str(error) or 'nested too deeply')}",
            codes.IMPORT_NOT_TOML.fix,
        )
        return "", (refused,)
    diagnostics: list[Diagnostic] = []
    left_out: list[str] = []

    def say(severity: Severity, code: ManifestCode, message: str, hint: str = "") -> None:
        diagnostics.append(Diagnostic(file, 1, 1, severity, code.id, message, hint or code.fix))

    model_id = spec.get("modelId")
    if isinstance(model_id, str) and re.fullmatch(HUB_PATTERN, model_id):
        spec = {"modelId": model_id, "source": {"hub": model_id}, "files": [], **spec}
    else:
        say(Severity.ERROR, codes.IMPORT_INVALID, f"modelId {quoted(model_id)} is not OWNER/NAME")
    document = {
        "apiVersion": API_VERSION,
        "kind": "ModelCard",
        "metadata": {"name": _name(name_hint, model_id)},
        "spec": spec,
    }
    for fault in _without_faults(document):
        path = ".".join(str(step) for step in fault.path[1:])
        if fault.code in (codes.UNKNOWN_FIELD, codes.NO_EFFECT) and not isinstance(fault.path[-1], int):
            left_out.append(path)
            say(Severity.WARNING, codes.IMPORT_LEFT_OUT, f"left out {path}: {fault.message}")
        else:
            say(Severity.ERROR, codes.IMPORT_INVALID, fault.message, fault.hint)
    if any(diagnostic.is_error for diagnostic in diagnostics):
        return "", tidy(diagnostics)
    say(
        Severity.WARNING,
        codes.IMPORT_INCOMPLETE,
        "files is empty: add path, bytes and sha256 of every file, and a revision",
        "this version serves local sources only: point source.local at a directory below modelRoots",
    )
    head = [
        MODELINE,
        "# Imported from a TOML card. Before a deployment can use it, complete it by hand:",
        "#   files:    every file the engine needs, as {path, bytes, sha256}",
        "#   revision: the 40-hex commit of the repository",
        "#   source:   {local: DIRECTORY} below a modelRoots directory, to serve it with this version",
        "#   license:  the licence of the weights",
    ]
    head += [f"# Left out, without effect in this version: {printable(path)}" for path in left_out]
    return "\n".join(head) + "\n" + to_yaml(document), tidy(diagnostics)


def _parsed(data: bytes) -> dict[str, Any]:
    if len(data) > FILE_BYTES_MAX:
        raise ValueError(f"{len(data)} bytes, more than {FILE_BYTES_MAX}")
    return tomllib.loads(data.decode("utf-8"))


def _camel(value: Any) -> Any:
    """snake_case keys to camelCase, everywhere; keys with another shape stay and are found unknown later."""
    if isinstance(value, dict):
        return {to_camel(key): _camel(child) for key, child in value.items() if key not in _DROPPED}
    if isinstance(value, list):
        return [_camel(child) for child in value]
    return value


def _without_faults(document: dict[str, Any]) -> list[Fault]:
    """Remove the fields that cannot be kept from the document; returns the faults, in order."""
    found: list[Fault] = []
    # A fault can hide another (a value is reported once): look again until nothing more can be removed.
    for _ in range(10):
        faults = [fault for fault in check(Document(document)).faults if fault not in found]
        found += faults
        removable = [f.path for f in faults if f.code in (codes.UNKNOWN_FIELD, codes.NO_EFFECT)]
        for path in removable:
            _remove(document, path)
        if not removable:
            break
    return found


def _remove(document: Any, path: Path) -> None:
    for step in path[:-1]:
        document = document[step]
    if isinstance(document, dict):
        document.pop(path[-1], None)


def _name(name_hint: str, model_id: object) -> str:
    """A valid metadata.name: lower case, everything else a dash, at most 63 characters."""
    base = name_hint.rsplit("/", 1)[-1].removesuffix(".toml") or str(model_id).rsplit("/", 1)[-1]
    text = re.sub(r"[^a-z0-9.]+", "-", base.rsplit("--", 1)[-1].lower())[:NAME_CHARACTERS_MAX]
    return text.strip("-.") or "card"


def _position(message: str) -> tuple[int, int]:
    """Line and column out of tomllib's message, which is the only place where it tells them."""
    found = re.search(r"at line (\d+), column (\d+)", message)
    return (int(found[1]), int(found[2])) if found else (1, 1)

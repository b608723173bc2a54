"""A fault at a path inside one document, and its way to a diagnostic with file, line and column."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from skulk.core.manifests.codes import ManifestCode
from skulk.core.manifests.diagnostics import Diagnostic, Severity
from skulk.core.manifests.strict_yaml import Mark, Path


@dataclass(frozen=True, slots=True)
class Fault:
    """What is wrong where. `at_key` points at the key (unknown or unwanted field), else at the value."""

    path: Path
    code: ManifestCode
    message: str
    hint: str = ""
    at_key: bool = False
    severity: Severity = Severity.ERROR


def locate(fault: Fault, file: str, marks: Mapping[Path, Mark]) -> Diagnostic:
    """The diagnostic of a fault. A path that is not in the file (a missing field) is shown at its nearest parent,
    which is the document's start when there is no nearer one."""
    path = fault.path
    while path and path not in marks:
        path = path[:-1]
    mark = marks.get(path, Mark(1, 1, 1, 1))
    line, column = (mark.key_line, mark.key_column) if fault.at_key else (mark.line, mark.column)
    return Diagnostic(file, line, column, fault.severity, fault.code.id, fault.message, fault.hint or fault.code.fix)

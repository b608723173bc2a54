"""From the files of a commit to a `Fleet`, or to everything that is wrong with them.

Pure: bytes in, values out. A commit is taken as a whole or not at all, so any error means no fleet. Whether a
valid fleet may be *accepted* (signatures, ancestry, prune protection) is decided elsewhere.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from skulk.core.domain import CommitId, Fleet
from skulk.core.manifests import codes
from skulk.core.manifests.build import Written, build_fleet
from skulk.core.manifests.codes import ManifestCode
from skulk.core.manifests.crossfile import Sheet, Sheets, case_collisions, check_across
from skulk.core.manifests.diagnostics import Diagnostic, Severity, tidy
from skulk.core.manifests.faults import locate
from skulk.core.manifests.kinds import PLACES, is_model_file, kind_at
from skulk.core.manifests.strict_yaml import FILE_BYTES_MAX, Document, read
from skulk.core.manifests.structure import check
from skulk.core.ports import FileKind, TreeFile

# A fleet is meant for about 50 nodes; 5,000 small files load in a second or two, and a bound keeps one push from
# occupying every node.
FILES_MAX = 5000


@dataclass(frozen=True, slots=True)
class Loaded:
    """A commit's manifests. `fleet` is None exactly when there is an error among the diagnostics."""

    fleet: Fleet | None
    diagnostics: tuple[Diagnostic, ...]

    @property
    def errors(self) -> tuple[Diagnostic, ...]:
        return tuple(diagnostic for diagnostic in self.diagnostics if diagnostic.is_error)

    @property
    def warnings(self) -> tuple[Diagnostic, ...]:
        return tuple(diagnostic for diagnostic in self.diagnostics if not diagnostic.is_error)


def load(files: Sequence[TreeFile], commit: CommitId) -> Loaded:
    """Read, check and combine the manifest files of one commit. Never raises for bad input."""
    files = sorted((file for file in files if not is_model_file(file.path)), key=lambda file: file.path)
    if len(files) > FILES_MAX:
        message = f"{len(files)} manifest files, more than {FILES_MAX}"
        return Loaded(None, (_whole("fleet/fleet.yaml", codes.TOO_MANY_FILES, message),))
    found: list[Diagnostic] = list(case_collisions(file.path for file in files))
    sheets: list[Sheet] = []
    unreadable = False
    for file in files:
        refused = list(_refused(file))
        found += refused
        if refused:
            unreadable = True
            continue
        document = read(file.data)
        found += _text_faults(file.path, document)
        if not isinstance(document.value, dict):
            unreadable = True
            continue
        checked = check(document)
        unreadable = unreadable or checked.kind is None
        sheets.append(Sheet(file.path, document.value, document.marks, checked))
        found += (locate(fault, file.path, document.marks) for fault in checked.faults)
    found += check_across(Sheets(sheets, unreadable))
    diagnostics = tidy(found)
    if any(diagnostic.is_error for diagnostic in diagnostics):
        return Loaded(None, diagnostics)
    return Loaded(build_fleet([_written(sheet) for sheet in sheets], commit), diagnostics)


def _written(sheet: Sheet) -> Written:
    assert sheet.checked.model is not None
    return Written(sheet.checked.model, sheet.raw, sheet.place)


def _refused(file: TreeFile) -> Iterator[Diagnostic]:
    """Entries that are not read at all."""
    match file.kind:
        case FileKind.SYMLINK:
            yield _whole(file.path, codes.SYMLINK, "this is a symbolic link")
        case FileKind.SUBMODULE:
            yield _whole(file.path, codes.SUBMODULE, "this is a submodule")
        case FileKind.TOO_LARGE:
            message = f"{file.size} bytes, more than {FILE_BYTES_MAX}"
            yield _whole(file.path, codes.FILE_TOO_LARGE, message)
        case FileKind.FILE:
            if kind_at(file.path) is None:
                places = ", ".join(f"{kind} in {place}" for kind, place in PLACES.items())
                yield _whole(file.path, codes.WRONG_PLACE, "no manifest is read from here", places)


def _text_faults(file: str, document: Document) -> Iterator[Diagnostic]:
    for fault in document.faults:
        yield Diagnostic(
            file,
            fault.line,
            fault.column,
            Severity.ERROR,
            fault.code.id,
            fault.message,
            fault.hint or fault.code.fix,
        )


def _whole(file: str, code: ManifestCode, message: str, hint: str = "") -> Diagnostic:
    return Diagnostic(file, 1, 1, Severity.ERROR, code.id, message, hint or code.fix)

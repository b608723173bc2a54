"""Rules across the files of one commit: one Fleet, unique names, references that resolve, paths that can coexist.

They work on what could be read of each file, valid or not, so that one broken file does not hide faults of the
others; a reference into a broken file is not called unknown, because its name is usually readable.
"""

from __future__ import annotations

import ipaddress
import unicodedata
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from skulk.core.formats.ssh_key import without_comment
from skulk.core.manifests import codes
from skulk.core.manifests.diagnostics import Diagnostic, Severity, quoted
from skulk.core.manifests.faults import Fault, locate
from skulk.core.manifests.kinds import PLACES, kind_at
from skulk.core.manifests.rules import backends_match, entries, inside
from skulk.core.manifests.strict_yaml import Mark, Path
from skulk.core.manifests.structure import Checked, did_you_mean
from skulk.core.wire.planes_roster import host_and_port


@dataclass(frozen=True, slots=True)
class Sheet:
    """One file that held a mapping: what was read and what was found."""

    file: str
    raw: Mapping[str, object]
    marks: Mapping[Path, Mark]
    checked: Checked

    @property
    def kind(self) -> str | None:
        return self.checked.kind

    @property
    def name(self) -> str | None:
        return self.checked.name

    @property
    def place(self) -> str:
        """`file:line` of the document's start."""
        return f"{self.file}:{self.marks[()].line}"

    def find(self, fault: Fault) -> Diagnostic:
        return locate(fault, self.file, self.marks)

    def sound(self, *steps: str | int) -> object:
        """The value at a path, or None when it is missing or was found faulty: one fault is told once."""
        for fault in self.checked.faults:
            length = min(len(fault.path), len(steps))
            if fault.path[:length] == steps[:length]:
                return None
        return inside(self.raw, *steps)


@dataclass(frozen=True, slots=True)
class Sheets:
    """All readable files of a commit, in path order; `unreadable` says whether others could not be read."""

    all: Sequence[Sheet]
    unreadable: bool
    _by_kind: dict[str, list[Sheet]] = field(default_factory=dict)

    def of(self, kind: str) -> list[Sheet]:
        if not self._by_kind:
            for sheet in self.all:
                if sheet.kind is not None:
                    self._by_kind.setdefault(sheet.kind, []).append(sheet)
        return self._by_kind.get(kind, [])

    def names(self, kind: str) -> dict[str, Sheet]:
        """Name → first sheet of that name."""
        found: dict[str, Sheet] = {}
        for sheet in self.of(kind):
            if sheet.name is not None:
                found.setdefault(sheet.name, sheet)
        return found


def check_across(sheets: Sheets) -> Iterator[Diagnostic]:
    """All faults that need more than one file to see."""
    yield from one_fleet(sheets)
    yield from right_places(sheets)
    for kind in PLACES:
        # Two Fleets are a fault of their own, whatever they are called.
        if kind != "Fleet":
            yield from distinct_names(sheets, kind)
    yield from distinct_ordinals(sheets)
    yield from distinct_endpoints(sheets)
    yield from distinct_public_keys(sheets)
    yield from distinct_ssh_host_keys(sheets)
    yield from known_cards(sheets)
    yield from known_names(sheets)
    yield from distinct_model_names(sheets)


def one_fleet(sheets: Sheets) -> Iterator[Diagnostic]:
    fleets = sheets.of("Fleet")
    if not fleets and not sheets.unreadable and not any(kind_at(sheet.file) == "Fleet" for sheet in sheets.all):
        yield Diagnostic(
            "fleet/fleet.yaml", 1, 1, Severity.ERROR, codes.NO_FLEET.id, "no Fleet manifest", codes.NO_FLEET.fix
        )
    for extra in fleets[1:]:
        message = f"a second Fleet; the first is at {fleets[0].place}"
        yield extra.find(Fault(("kind",), codes.TWO_FLEETS, message))


def right_places(sheets: Sheets) -> Iterator[Diagnostic]:
    for sheet in sheets.all:
        here = kind_at(sheet.file)
        if sheet.kind is None or sheet.kind == here:
            continue
        message = f"a {sheet.kind} does not belong here, but in {PLACES[sheet.kind]}"
        yield sheet.find(Fault(("kind",), codes.WRONG_PLACE, message))


def distinct_names(sheets: Sheets, kind: str) -> Iterator[Diagnostic]:
    names = sheets.names(kind)
    for sheet in sheets.of(kind):
        first = names.get(sheet.name or "")
        if first is not None and first is not sheet:
            message = f"{kind} {quoted(sheet.name)} exists already at {first.place}"
            yield sheet.find(Fault(("metadata", "name"), codes.DUPLICATE_NAME, message))


def distinct_ordinals(sheets: Sheets) -> Iterator[Diagnostic]:
    first: dict[int, Sheet] = {}
    for sheet in sheets.of("Node"):
        ordinal = sheet.sound("spec", "ordinal")
        if type(ordinal) is not int:
            continue
        other = first.setdefault(ordinal, sheet)
        if other is not sheet:
            message = f"ordinal {ordinal} is taken by {quoted(other.name)} at {other.place}"
            yield sheet.find(Fault(("spec", "ordinal"), codes.DUPLICATE_ORDINAL, message))


def distinct_endpoints(sheets: Sheets) -> Iterator[Diagnostic]:
    """Two daemons cannot listen in one place: who dials it would reach either."""
    first: dict[tuple[str, int], Sheet] = {}
    for sheet in sheets.of("Node"):
        address = sheet.sound("spec", "address")
        if not isinstance(address, str):
            continue
        host, port = host_and_port(address)
        other = first.setdefault((_same_host(host), port), sheet)
        if other is not sheet:
            message = f"{quoted(host)} port {port} is taken by {quoted(other.name)} at {other.place}"
            yield sheet.find(Fault(("spec", "address"), codes.DUPLICATE_ENDPOINT, message))


def _same_host(host: str) -> str:
    """One text for all spellings of a host."""
    try:
        return ipaddress.ip_address(host).compressed
    except ValueError:
        return host.casefold()


def distinct_public_keys(sheets: Sheets) -> Iterator[Diagnostic]:
    """With one key, each of the two could speak in the other's name."""
    first: dict[str, Sheet] = {}
    for sheet in sheets.of("Node"):
        key = sheet.sound("spec", "publicKey")
        if not isinstance(key, str):
            continue
        other = first.setdefault(key, sheet)
        if other is not sheet:
            message = f"this is the key of {quoted(other.name)} at {other.place}"
            yield sheet.find(Fault(("spec", "publicKey"), codes.DUPLICATE_PUBLIC_KEY, message))


def distinct_ssh_host_keys(sheets: Sheets) -> Iterator[Diagnostic]:
    """Whoever holds the key reads the secrets of both; equal ones mean a copied disk image, or a slip."""
    first: dict[str, Sheet] = {}
    for sheet in sheets.of("Node"):
        key = sheet.sound("spec", "sshHostKey")
        if not isinstance(key, str):
            continue
        other = first.setdefault(without_comment(key), sheet)
        if other is not sheet:
            message = f"this is the SSH host key of {quoted(other.name)} at {other.place}"
            yield sheet.find(Fault(("spec", "sshHostKey"), codes.DUPLICATE_SSH_HOST_KEY, message))


def known_cards(sheets: Sheets) -> Iterator[Diagnostic]:
    """Deployments against their cards: it exists, can be fetched, allows the context, runs on the engine."""
    cards = sheets.names("ModelCard")
    for sheet in sheets.of("Deployment"):
        model = sheet.sound("spec", "model")
        if not isinstance(model, str):
            continue
        card = cards.get(model)
        if card is None:
            if not sheets.unreadable:
                hint = did_you_mean(model, cards) or codes.UNKNOWN_CARD.fix
                message = f"no ModelCard is named {quoted(model)}"
                yield sheet.find(Fault(("spec", "model"), codes.UNKNOWN_CARD, message, hint))
            continue
        for fault in _against_card(sheet, card, model):
            yield sheet.find(fault)


def _against_card(sheet: Sheet, card: Sheet, model: str) -> Iterator[Fault]:
    if isinstance(card.sound("spec", "source", "hub"), str):
        message = f"card {quoted(model)} ({card.place}) comes from the Hub"
        yield Fault(("spec", "model"), codes.HUB_SOURCE, message)
    wanted = sheet.sound("spec", "contextTokens")
    limits = [
        limit
        for limit in (
            card.sound("spec", "contextLength"),
            card.sound("spec", "placement", "maxContextTokens"),
        )
        if type(limit) is int and limit > 0
    ]
    if type(wanted) is int and limits and wanted > min(limits):
        message = f"{wanted} context tokens, but card {quoted(model)} ({card.place}) allows {min(limits)}"
        yield Fault(("spec", "contextTokens"), codes.CONTEXT_ABOVE_CARD, message)
    engine = sheet.sound("spec", "engine", "name")
    backends = entries(card.raw, "spec", "placement", "compatibleBackends") or ["mlx"]
    tags = [tag for tag in backends if isinstance(tag, str)]
    if isinstance(engine, str) and tags and not any(backends_match(engine, tag) for tag in tags):
        message = f"engine {engine}, but card {quoted(model)} ({card.place}) runs on {', '.join(map(quoted, tags))}"
        yield Fault(("spec", "engine", "name"), codes.ENGINE_NOT_COMPATIBLE, message, severity=Severity.WARNING)


def known_names(sheets: Sheets) -> Iterator[Diagnostic]:
    """Names that stand in a list and nowhere else. Warnings: a node may come later, a removal may be over."""
    if sheets.unreadable:
        return
    nodes = sheets.names("Node")
    for sheet in sheets.of("Deployment"):
        place: Path = ("spec", "placement", "excludedNodes")
        for index, name in enumerate(entries(sheet.raw, *place)):
            if isinstance(name, str) and name not in nodes:
                hint = did_you_mean(name, nodes)
                message = f"no Node is named {quoted(name)}"
                yield sheet.find(Fault((*place, index), codes.UNKNOWN_NAME, message, hint, severity=Severity.WARNING))
    present = nodes.keys() | sheets.names("Deployment").keys()
    for sheet in sheets.of("Fleet"):
        place = ("spec", "prune", "allowRemoval")
        for index, name in enumerate(entries(sheet.raw, *place)):
            if isinstance(name, str) and name in present:
                message = f"{quoted(name)} is not removed: it is still declared"
                yield sheet.find(Fault((*place, index), codes.UNKNOWN_NAME, message, severity=Severity.WARNING))


def distinct_model_names(sheets: Sheets) -> Iterator[Diagnostic]:
    """A name that clients write into `model` stands for one card.

    Only cards that a deployment serves claim names, so that two quantisations may lie side by side under one
    modelId and a deployment may be called like a card that it no longer serves.
    """
    cards = sheets.names("ModelCard")
    owners: dict[str, tuple[str, Sheet]] = {}
    for sheet in sheets.of("Deployment"):
        model = inside(sheet.raw, "spec", "model")
        if not isinstance(model, str) or model not in cards:
            continue
        claims: list[tuple[Path, object]] = [(("metadata", "name"), sheet.name)]
        claims += [
            (("spec", "aliases", index), alias) for index, alias in enumerate(entries(sheet.raw, "spec", "aliases"))
        ]
        claims += [(("spec", "model"), model), (("spec", "model"), inside(cards[model].raw, "spec", "modelId"))]
        for path, name in claims:
            if not isinstance(name, str):
                continue
            other_model, other = owners.setdefault(name, (model, sheet))
            if other_model != model:
                message = f"{quoted(name)} stands for {quoted(other_model)} already, through {other.place}"
                yield sheet.find(Fault(path, codes.NAME_CLASH, message))


def case_collisions(paths: Iterable[str]) -> Iterator[Diagnostic]:
    """Paths, or their directories, that differ only in case or Unicode form: macOS holds them for one."""
    first: dict[str, str] = {}
    for path in sorted(paths):
        parts = path.split("/")
        for length in range(1, len(parts) + 1):
            prefix = "/".join(parts[:length])
            other = first.setdefault(unicodedata.normalize("NFC", prefix).casefold(), prefix)
            if other != prefix:
                message = f"{quoted(prefix)} and {quoted(other)} differ only in upper and lower case"
                yield Diagnostic(path, 1, 1, Severity.ERROR, codes.CASE_COLLISION.id, message, codes.CASE_COLLISION.fix)
                break

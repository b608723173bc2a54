"""The corpus of bad and good manifests: one-line edits of good documents, odd texts, and whole sets of files.

A case is a set of files and the exact codes that its errors must have. The codes stand without their prefix.
"""

from __future__ import annotations

from collections.abc import Iterator
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from skulk.core.manifests import codes
from skulk.core.manifests.loading import FILES_MAX
from skulk.core.ports import FileKind, TreeFile

HERE = Path(__file__).parent / "corpus"
A, B = "a" * 64, "b" * 64
HOST_KEY = f"ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAI{'A' * 43}"
KEY = f'"ed25519:{"A" * 43}="'

PATHS = {
    "fleet": "fleet/fleet.yaml",
    "node": "fleet/nodes/one.yaml",
    "deployment": "fleet/deployments/chat.yaml",
    "modelcard": "cards/fox/card.yaml",
}


class Verbatim(str):
    """YAML text that goes into a document as it is."""

    __slots__ = ()


def _document(kind: str, name: str, spec: dict[str, Any]) -> dict[str, Any]:
    return {"apiVersion": "skulk.dev/v1alpha1", "kind": kind, "metadata": {"name": name}, "spec": spec}


GOOD: dict[str, dict[str, Any]] = {
    "fleet": _document(
        "Fleet",
        "demo",
        {
            "namespace": "demo",
            "source": {},
            "prune": {},
            "coordination": {},
            "logging": {},
            "defaults": {},
            "access": {"keys": [{"name": "ada", "sha256": A, "scopes": ["read"]}]},
        },
    ),
    "node": _document("Node", "one", {"ordinal": 1, "platform": {}, "labels": {"zone": "a"}, "reserve": {}}),
    "deployment": _document(
        "Deployment", "chat", {"model": "fox", "placement": {}, "engine": {}, "update": {}, "aliases": []}
    ),
    "modelcard": _document(
        "ModelCard",
        "fox",
        {
            "modelId": "skulk/fox",
            "source": {"local": "fox"},
            "files": [{"path": "model.safetensors", "bytes": 4, "sha256": A}],
            "nLayers": 4,
            "hiddenSize": 256,
            "numKeyValueHeads": 2,
            "reasoning": {},
            "tooling": {},
            "placement": {},
            "kv": {},
        },
    ),
}


def flow(value: Any) -> str:
    """A value as YAML flow text, `Verbatim` parts untouched."""
    match value:
        case Verbatim():
            return str(value)
        case dict():
            return "{" + ", ".join(f"{key}: {flow(child)}" for key, child in value.items()) + "}"
        case list():
            return "[" + ", ".join(flow(child) for child in value) + "]"
        case str():
            return f'"{value}"'
    return str(value)


def text_of(document: dict[str, Any]) -> str:
    """A document with its top level and spec in block style, so that places differ."""
    lines = []
    for key, value in document.items():
        if key == "spec" and isinstance(value, dict):
            lines += [f"{key}:", *(f"  {name}: {flow(child)}" for name, child in value.items())]
        else:
            lines.append(f"{key}: {flow(value)}")
    return "\n".join(lines) + "\n"


def edited(kind: str, path: str, value: str) -> str:
    """The good document of a kind with one value set to YAML text, or removed (`~remove`)."""
    document = deepcopy(GOOD[kind])
    *steps, last = path.split(".")
    place: Any = document
    for step in steps:
        place = place[int(step)] if step.isdigit() else place[step]
    key: Any = int(last) if last.isdigit() else last
    if value == "~remove":
        del place[key]
    else:
        place[key] = Verbatim(value.replace("@A", f'"{A}"').replace("@B", f'"{B}"'))
    return text_of(document)


def file(path: str, text: str | bytes) -> TreeFile:
    data = text.encode() if isinstance(text, str) else text
    return TreeFile(path, data, size=len(data))


def good_files() -> dict[str, TreeFile]:
    return {PATHS[kind]: file(PATHS[kind], text_of(document)) for kind, document in GOOD.items()}


@dataclass(frozen=True)
class Case:
    name: str
    files: tuple[TreeFile, ...]
    codes: frozenset[str]


def _case(name: str, expected: str, *extra: TreeFile, without: tuple[str, ...] = ()) -> Case:
    files = {path: entry for path, entry in good_files().items() if path not in without}
    files |= {entry.path: entry for entry in extra}
    wanted = frozenset(f"SK-MAN-{number}" for number in expected.split(",") if number)
    return Case(name, tuple(files.values()), wanted)


def _lines(name: str) -> Iterator[str]:
    for line in (HERE / name).read_text("utf-8").splitlines():
        if line and not line.startswith("#"):
            yield line


def structure_cases() -> list[Case]:
    cases = []
    for line in _lines("structure.txt"):
        numbers, kind, path, value = line.split(" ", 3)
        cases.append(_case(line[:90], numbers, file(PATHS[kind], edited(kind, path, value))))
    return cases


def good_cases() -> list[Case]:
    cases = [_case("as it is", "")]
    for line in _lines("good.txt"):
        kind, path, value = line.split(" ", 2)
        cases.append(_case(line[:90], "", file(PATHS[kind], edited(kind, path, value))))
    return cases


def _node(text: str | bytes, name: str = "two") -> TreeFile:
    return file(f"fleet/nodes/{name}.yaml", text)


NODE_HEAD = "apiVersion: skulk.dev/v1alpha1\nkind: Node\nmetadata: {name: two}\nspec:\n"


def text_cases() -> list[Case]:
    """Faults of the YAML text."""
    good = NODE_HEAD + "  ordinal: 2\n"
    pairs: list[tuple[str, str, str | bytes]] = [
        ("not UTF-8", "001", b"kind: \xff\n"),
        ("UTF-16", "001", "kind: Node\n".encode("utf-16")),
        ("unclosed flow", "002", NODE_HEAD + "  labels: {a: b\n"),
        ("tab as indentation", "002", "spec:\n\tordinal: 1\n"),
        ("a control character", "002", NODE_HEAD + "  address: \x07\n"),
        ("NUL", "002", b"kind: No\x00de\n"),
        ("empty", "003", ""),
        ("only comments", "003", "# nothing\n"),
        ("a list", "003", "- a\n- b\n"),
        ("a word", "003", "hello\n"),
        ("two documents", "004", good + "---\n" + good),
        ("an empty second document", "004", good + "---\n"),
        ("duplicate key", "005", good + "  ordinal: 3\n"),
        ("duplicate key, quoted once", "005", good + '  "ordinal": 3\n'),
        ("duplicate top-level key", "005", good + "kind: Node\n"),
        ("anchor", "006", NODE_HEAD + "  ordinal: &n 2\n"),
        ("anchor on a mapping", "006", NODE_HEAD + "  ordinal: 2\n  labels: &l {a: b}\n"),
        ("alias", "006", NODE_HEAD + "  ordinal: 2\n  address: &a host\n  labels: {x: *a}\n"),
        ("alias as key", "006", NODE_HEAD + "  ordinal: 2\n  labels: {&a x: y, *a : z}\n"),
        ("many aliases", "006", NODE_HEAD + "  ordinal: 2\n  labels: {a: &a x, b: *a, c: *a, d: *a}\n"),
        ("tag", "007", NODE_HEAD + "  ordinal: !!int 2\n"),
        ("python tag", "007", NODE_HEAD + "  ordinal: 2\n  address: !!python/name:os.system x\n"),
        ("one byte too many", "008", good + "#" * (1024 * 1024 + 1 - len(good))),
        ("33 levels", "009", "a: " + "[" * 32 + "]" * 32 + "\n"),
        ("100,000 brackets", "009", "[" * 100_000),
        ("100,000 braces", "009", "{a: " * 100_000),
        ("100,000 dashes", "009", "- " * 100_000),
        ("number as key", "010", good + "  labels: {1: a}\n"),
        ("truth value as key", "010", good + "true: a\n"),
        ("null as key", "010", good + "  labels: {~: a}\n"),
        ("list as key", "010", good + "? [a]\n: b\n"),
        ("leading zero", "011", NODE_HEAD + "  ordinal: 010\n"),
        ("leading zero with sign", "011", NODE_HEAD + "  ordinal: +02\n"),
        ("leading zero as text", "011", good + "  labels: {build: 007}\n"),
        ("infinity", "012", NODE_HEAD + "  ordinal: .inf\n"),
        ("not a number", "012", NODE_HEAD + "  ordinal: .NaN\n"),
        ("too many digits", "012", NODE_HEAD + "  ordinal: " + "9" * 5000 + "\n"),
        ("too large a float", "012", NODE_HEAD + "  ordinal: 1e999\n"),
        ("YAML 1.1 asked for", "013", "%YAML 1.1\n---\n" + good),
        ("git-lfs pointer", "014", "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n"),
        ("a thousand faults of the text", "015,010", good + "".join(f"{i}: x\n" for i in range(1000))),
    ]
    cases = []
    for name, expected, text in pairs:
        cases.append(_case(f"text: {name}", expected, _node(text)))
    many = "".join(f"  key{i}: 1\n" for i in range(1000))
    cases.append(_case("text: a thousand unknown fields", "101,015", _node(NODE_HEAD + "  ordinal: 2\n" + many)))
    return cases


def _card(name: str, spec: str = "", model_id: str = "") -> str:
    return (
        f"apiVersion: skulk.dev/v1alpha1\nkind: ModelCard\nmetadata: {{name: {name}}}\nspec:\n"
        f"  modelId: {model_id or name}\n  source: {{local: x}}\n  nLayers: 4\n  hiddenSize: 8\n"
        f'  files: [{{path: a, bytes: 1, sha256: "{A}"}}]\n{spec}'
    )


def _deployment(name: str, model: str, spec: str = "") -> str:
    return (
        f"apiVersion: skulk.dev/v1alpha1\nkind: Deployment\nmetadata: {{name: {name}}}\nspec:\n  model: {model}\n{spec}"
    )


def fleet_cases() -> list[Case]:
    """Faults that need more than one file to see."""
    fleet = text_of(GOOD["fleet"])
    node = text_of(GOOD["node"])
    card = text_of(GOOD["modelcard"])
    two = NODE_HEAD + "  ordinal: 2\n"
    two_at = _node(two + "  address: host.lan:52416\n")
    two_signed = _node(f"{two}  publicKey: {KEY}\n")
    two_hosted = _node(f'{two}  sshHostKey: "{HOST_KEY} root@two"\n')
    hub = edited("modelcard", "spec.source", "{hub: a/b}")
    long = edited("modelcard", "spec.contextLength", "100")
    capped = edited("modelcard", "spec.placement", "{maxContextTokens: 100}") + "  contextLength: 200\n"
    return [
        _case("no Fleet", "201", without=("fleet/fleet.yaml",)),
        Case("nothing at all", (), frozenset({"SK-MAN-201"})),
        _case("two Fleets", "202", file("fleet/fleet.yml", fleet)),
        _case("a Fleet among the nodes too", "202,203", _node(fleet)),
        _case("a Node among the deployments", "203", file("fleet/deployments/two.yaml", two)),
        _case("a card among the nodes", "203", _node(_card("extra"))),
        _case("a file where nothing is read", "203", file("fleet/other.yaml", two)),
        _case("a Node one level too deep", "203", file("fleet/nodes/more/two.yaml", two)),
        _case("two nodes of one name", "204,205", _node(node)),
        _case("two deployments of one name", "204", file("fleet/deployments/z.yaml", _deployment("chat", "fox"))),
        _case("two cards of one name", "204", file("cards/b/card.yaml", _card("fox"))),
        _case("two nodes of one ordinal", "205", _node(NODE_HEAD + "  ordinal: 1\n")),
        _case(
            "two nodes of one endpoint", "216", file(PATHS["node"], edited("node", "spec.address", "Host.lan")), two_at
        ),
        _case("two nodes of one key", "217", file(PATHS["node"], edited("node", "spec.publicKey", KEY)), two_signed),
        _case(
            "two nodes of one SSH host key",
            "218",
            file(PATHS["node"], edited("node", "spec.sshHostKey", f'"{HOST_KEY} root@one"')),
            two_hosted,
        ),
        _case("an unknown card", "206", file("fleet/deployments/z.yaml", _deployment("z", "fxo"))),
        _case(
            "an alias that is another card's name",
            "208",
            file("cards/b/card.yaml", _card("owl")),
            file("fleet/deployments/o.yaml", _deployment("o", "owl", "  aliases: [fox]\n")),
        ),
        _case(
            "two cards of one modelId, both served",
            "208",
            file("cards/b/card.yaml", _card("owl", model_id="skulk/fox")),
            file("fleet/deployments/o.yaml", _deployment("o", "owl")),
        ),
        _case(
            "more context than the model has",
            "209",
            file(PATHS["modelcard"], long),
            file("fleet/deployments/z.yaml", _deployment("z", "fox", "  contextTokens: 101\n")),
        ),
        _case(
            "more context than the card offers",
            "209",
            file(PATHS["modelcard"], capped),
            file("fleet/deployments/z.yaml", _deployment("z", "fox", "  contextTokens: 101\n")),
        ),
        _case("files that differ in case", "210,204", file("cards/fox/Card.yaml", card)),
        _case("directories that differ in case", "210", file("cards/Fox/other.yaml", _card("other"))),
        _case("a symlink", "211", TreeFile("fleet/nodes/link.yaml", kind=FileKind.SYMLINK)),
        _case("a symlinked directory", "211", TreeFile("cards/shared", kind=FileKind.SYMLINK)),
        _case("a submodule", "212", TreeFile("cards/models", kind=FileKind.SUBMODULE)),
        _case("a 10 MB file", "008", TreeFile("cards/big.yaml", kind=FileKind.TOO_LARGE, size=10_000_000)),
        _case("too many files", "213", *(file(f"notes/{number}.yaml", "a: b") for number in range(FILES_MAX))),
        _case("a deployment of a Hub card", "214", file(PATHS["modelcard"], hub)),
    ]


def bad_cases() -> list[Case]:
    return [*structure_cases(), *text_cases(), *fleet_cases()]


ERROR_CODES = frozenset(
    id_
    for id_, code in codes.CODES.items()
    # Warnings refuse nothing; 4xx belongs to the import of TOML cards.
    if code not in (codes.UNKNOWN_NAME, codes.ENGINE_NOT_COMPATIBLE) and not id_.startswith("SK-MAN-4")
)

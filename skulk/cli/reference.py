"""The reference pages, or the parts of them, that the program itself knows best; tests compare the committed ones.

`python -m skulk.cli.reference` writes them anew below `docs/` of the checkout it is called in. A page is generated
whole (commands, manifests), or holds marked blocks between prose that people write:

    <!-- generated: NAME -->
    <!-- end -->

or is a list of codes whose headings, titles and fixes are generated and whose paragraphs are kept. It invents no
prose: a code without a paragraph gets an empty one, which a test refuses.
"""

from __future__ import annotations

import inspect
import re
import sys
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import typer
from typer.main import get_command

from skulk.cli.main import app
from skulk.core import health
from skulk.core.errors import CODES
from skulk.core.manifests.reference import codes_markdown, manifests_markdown
from skulk.core.reconcile import limits, polling, restarts
from skulk.core.reconcile.machine import diagram

# Fixed, so that the page does not depend on the terminal it is generated in.
WIDTH_CHARACTERS = 100

_INTRODUCTION = """\
# Command line

Generated from the program (`python -m skulk.cli.reference`); do not edit.

Verbs that ask a node take its address from `--url` or `SKULK_URL` and a key from `--key` or `SKULK_API_KEY`. Output
has colour only on a terminal and never with `NO_COLOR`. Tables never cut an id without showing it: a shortened commit
ends in `…`, and `-o wide` shows it whole. What a command's exit code means stands in [exit-codes.md](exit-codes.md).
Completion for the shell in use: `skulk --install-completion`.
"""

_BLOCK = re.compile(r"<!-- generated: (?P<name>[\w.-]+) -->\n.*?<!-- end -->", re.DOTALL)
_CODE = re.compile(r"^### (?P<id>SK-[A-Z]+-\d{3})\n(?P<body>.*?)(?=^##|\Z)", re.DOTALL | re.MULTILINE)
_ASSIGNED = re.compile(r"^(?P<name>[A-Z][A-Z0-9_]+) = (?P<value>.+)$")

# Area of a code → heading and the sentence below it.
_AREAS: Mapping[str, str] = {
    "CFG": "Node configuration",
    "SRC": "Source",
    "WGT": "Model files",
    "RUN": "Runners",
    "ENG": "Engines",
    "PLN": "Planes",
    "CRT": "Certificates",
    "REL": "Releases and machines",
    "SEC": "Secrets",
    "REQ": "Requests",
    "HOK": "Webhooks",
    "CLI": "Command line",
    "BST": "Bootstrap",
}

# Keys whose type a person writes differently from how the program holds it.
_TYPES: Mapping[str, str] = dict.fromkeys(("memoryCap", "maxBytes"), "bytes, or a size such as `4GiB`")


def reference() -> str:
    """docs/reference/cli.md, the whole page."""
    root = get_command(app)
    context = typer.Context(root, info_name="skulk", terminal_width=WIDTH_CHARACTERS)
    return "\n".join([_INTRODUCTION, *_sections(root, context)])


def _sections(group: Any, context: Any) -> Iterator[str]:
    """One section per verb, in the program's own order; the verbs of a group one level deeper."""
    for name, command in group.commands.items():
        below = typer.Context(command, info_name=name, parent=context, terminal_width=WIDTH_CHARACTERS)
        depth = "#" * (2 + below.command_path.count(" ") - 1)
        text = "\n".join(line.rstrip() for line in command.get_help(below).splitlines()).strip()
        yield f"{depth} {below.command_path}\n\n```text\n{text}\n```\n"
        if hasattr(command, "commands"):
            yield from _sections(command, below)


# --- node.toml ----------------------------------------------------------------------------------------------


def node_toml_keys() -> Iterator[tuple[str, str, str]]:
    """(key as in the file, environment variable, Markdown of its description), tables flattened with a dot."""
    from skulk.node.config import NodeConfig

    schema = NodeConfig.model_json_schema(by_alias=True)
    yield from _keys(NodeConfig, schema, schema["$defs"], "", "SKULK_")


def _keys(model: Any, schema: Any, defs: Any, prefix: str, env: str) -> Iterator[tuple[str, str, str]]:
    needed = schema.get("required", ())
    for name, field in model.model_fields.items():
        key = field.alias or name
        shape = schema["properties"][key]
        below = shape.get("$ref")
        if below is not None and "properties" in defs[below.rpartition("/")[2]]:
            inner = defs[below.rpartition("/")[2]]
            yield from _keys(field.annotation, inner, defs, f"{prefix}{key}.", f"{env}{name.upper()}__")
            continue
        default = _default(field.default) if key not in needed else "required"
        if key in _TYPES and isinstance(field.default, int):
            default = f"default `{field.default // 2**20}MiB`"
        kind = _TYPES.get(key) or _type(shape, defs)
        facts = "; ".join(part for part in (kind, _range(shape), default) if part)
        # Forges take `<stateDir>` outside of code for an HTML element.
        about = re.sub(r"<(\w+)>", r"`<\1>`", field.description)
        yield f"{prefix}{key}", f"{env}{name.upper()}", f"*{facts}.* {about}"


def _type(shape: Any, defs: Any) -> str:
    if "$ref" in shape:
        return _choice(defs[shape["$ref"].rpartition("/")[2]]["enum"])
    if "anyOf" in shape:
        return next(_type(part, defs) for part in shape["anyOf"] if part.get("type") != "null")
    if "enum" in shape:
        return _choice(shape["enum"])
    if "pattern" in shape:
        return _choice(re.findall(r"\w+", shape["pattern"]))
    if shape.get("format") == "path":
        return "path"
    if shape["type"] == "array":
        return f"list of {_type(shape['items'], defs)}s"
    return {"string": "text", "integer": "whole number", "number": "number", "boolean": "true or false"}[shape["type"]]


def _choice(values: Iterable[str]) -> str:
    return f"one of {', '.join(f'`{value}`' for value in values)}"


def _range(shape: Any) -> str:
    for part in (shape, *shape.get("anyOf", ())):
        low, above = part.get("minimum"), part.get("exclusiveMinimum")
        high = part.get("maximum")
        if low is not None or above is not None:
            start = f"at least {low:g}" if low is not None else f"more than {above:g}"
            return f"{start}, at most {high:g}" if high is not None else start
    return ""


def _default(value: object) -> str:
    match value:
        case None | ():
            return "optional"
        case bool():
            return f"default `{str(value).lower()}`"
        case tuple():
            return f"default `[{', '.join(repr(str(item)) for item in value)}]`".replace("'", '"')
        case "":
            return 'default `""`'
        case _:
            return f"default `{value}`"


def _node_toml() -> str:
    return "\n\n".join(f"### {key}\n\n{text} Environment: `{env}`." for key, env, text in node_toml_keys())


# --- limits -------------------------------------------------------------------------------------------------


def constants(module: Any) -> Iterator[tuple[str, object, str]]:
    """(name, value, reason) of the module's public constants; a reason above several holds for all of them."""
    reason: list[str] = []
    fresh = False
    for line in inspect.getsource(module).splitlines():
        if line.startswith("# "):
            reason = [*(reason if fresh else ()), line[2:]]
            fresh = True
            continue
        assigned = _ASSIGNED.match(line)
        if assigned is not None:
            yield assigned["name"], getattr(module, assigned["name"]), " ".join(reason)
        elif line and not line.startswith((" ", "_", ")")):
            reason = []
        fresh = False


def _limits(module: Any) -> str:
    rows = [f"| `{name}` | {value:g} | {reason} |" for name, value, reason in constants(module) if reason]
    return "\n".join(["| limit | value | why |", "|---|---|---|", *rows])


# --- codes --------------------------------------------------------------------------------------------------


def errors_page(previous: str) -> str:
    """docs/reference/errors.md: generated headings, titles and fixes; the paragraphs of `previous` are kept."""
    prose = {match["id"]: _prose(match["body"]) for match in _CODE.finditer(previous)}
    head = previous.partition("\n## ")[0].rstrip()
    parts = [head]
    area = ""
    for code in CODES.values():
        if code.id.split("-")[1] != area:
            area = code.id.split("-")[1]
            parts.append(f"## {_AREAS[area]}")
        parts.append(f"### {code.id}\n\n*{code.title}.* Fix: {code.fix}.")
        if prose.get(code.id):
            parts.append(prose[code.id])
    return "\n\n".join(parts) + "\n"


def _prose(body: str) -> str:
    """What follows the generated paragraph of one code."""
    return body.strip().partition("\n\n")[2].strip()


# --- all of them --------------------------------------------------------------------------------------------


def refreshed(page: str, blocks: Mapping[str, str]) -> str:
    """`page` with its marked blocks replaced. Raises KeyError for a block that nothing is generated for."""
    return _BLOCK.sub(
        lambda match: f"<!-- generated: {match['name']} -->\n\n{blocks[match['name']].strip()}\n\n<!-- end -->", page
    )


def blocks() -> Mapping[str, Mapping[str, str]]:
    """Page → block → Markdown, for the pages below docs/reference that mix prose and generated parts."""
    return {
        "node-toml.md": {"keys": _node_toml()},
        "runner-states.md": {"diagram": f"```mermaid\n{diagram()}```"},
        "restarts.md": {"table": restarts.table()},
        "limits.md": {"node": _limits(limits), "source": _limits(polling), "health": _limits(health)},
    }


def pages(directory: Path) -> Mapping[Path, str]:
    """Every page that is generated, whole or in part → its text as of now. `directory` is docs/reference."""
    found: dict[Path, str] = {
        directory / "cli.md": reference(),
        directory / "manifests.md": manifests_markdown(),
        directory / "manifest-codes.md": codes_markdown(),
        directory / "errors.md": errors_page((directory / "errors.md").read_text(encoding="utf-8")),
    }
    for name, parts in blocks().items():
        found[directory / name] = refreshed((directory / name).read_text(encoding="utf-8"), parts)
    return found


def main() -> int:
    """Write all pages below the working directory; return the exit code."""
    directory = Path("docs") / "reference"
    if not directory.is_dir():
        print(f"error: there is no {directory} here: call it in a checkout of Skulk", file=sys.stderr)
        return 2
    for path, text in pages(directory).items():
        if path.read_text(encoding="utf-8") != text:
            path.write_text(text, encoding="utf-8")
            print(f"wrote {path}")
    return 0


if __name__ == "__main__":
    sys.exit(main())

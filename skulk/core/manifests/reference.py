"""The manifest reference as Markdown, made from the schemas and tables, so that it cannot drift from them.

Text only: whoever calls this writes docs/reference/manifests.md and docs/reference/manifest-codes.md.
"""

from __future__ import annotations

from collections.abc import Iterator

from skulk.core.manifests.codes import BEYOND_SCHEMA, CODES
from skulk.core.manifests.explain import FieldDoc, field_tree
from skulk.core.manifests.kinds import MODELS, PLACES
from skulk.core.manifests.not_yet import ENGINE_OPTIONS, NOT_YET
from skulk.core.manifests.strict_yaml import DEPTH_LEVELS_MAX

_HEAD = """# Manifests

Generated from the models in `skulk/core/manifests`; `skulk explain KIND.FIELD` prints the same.

One YAML document per file: `apiVersion: skulk.dev/v1alpha1`, `kind`, `metadata.name` and `spec`. Names are 1 to 63 of
`a-z 0-9 . -` and start and end with a letter or digit. Quantities are a number and a unit: `B`, `KB`, `MB`, `GB`, `TB`
(powers of 1000) or `KiB`, `MiB`, `GiB`, `TiB` (powers of 1024). No key may be left without a value. A commit is taken
as a whole or not at all: one error in one file and every node keeps what it has.

YAML is read by the 1.2 core schema (`no` and `12:30:00` are text), at most 1 MiB and {depth} levels, without anchors,
aliases and tags. Every fault is told at once, with file, line, column, a code (see
[manifest codes](manifest-codes.md)) and what would be right.

| kind | place |
|---|---|
{places}
"""


def manifests_markdown() -> str:
    """docs/reference/manifests.md: every kind, every field, what has no effect yet, what schemas cannot see."""
    places = "\n".join(f"| {kind} | `{place}` |" for kind, place in PLACES.items())
    parts = [_HEAD.format(depth=DEPTH_LEVELS_MAX, places=places)]
    parts += [_kind(kind) for kind in MODELS]
    parts += [_engine_options(), _not_yet(), _beyond_schema()]
    return "\n".join(parts)


def codes_markdown() -> str:
    """docs/reference/manifest-codes.md: a heading per code with title and fix."""
    beyond = {row.code.id: row.why for row in BEYOND_SCHEMA}
    lines = [
        "# Manifest codes",
        "",
        "Generated from `skulk/core/manifests/codes.py`. 0xx: the YAML text; 1xx: one document; 2xx: across files; "
        "4xx: `skulk card import`.",
    ]
    for code in CODES.values():
        lines += ["", f"## {code.id}", "", f"{_sentence(code.title)} Fix: {code.fix}."]
        if code.id in beyond:
            lines += ["", f"JSON Schema cannot see it: {beyond[code.id]}."]
    return "\n".join(lines) + "\n"


def _sentence(text: str) -> str:
    return f"{text[:1].upper()}{text[1:]}."


def _kind(kind: str) -> str:
    tree = field_tree(kind)
    lines = [f"## {kind}", "", tree.description, ""]
    for doc in tree.walk():
        if doc is not tree:
            lines += [*_field(doc), ""]
    return "\n".join(lines)


def _field(doc: FieldDoc) -> Iterator[str]:
    yield f"### {doc.path}"
    yield ""
    facts = [doc.type]
    if doc.allowed:
        facts.append("one of " + ", ".join(f"`{value}`" for value in doc.allowed))
    if doc.required:
        facts.append("required")
    elif doc.default is not None:
        shown = str(doc.default).lower() if isinstance(doc.default, bool) else doc.default
        facts.append(f"default `{shown}`" if shown != "" else "default empty")
    yield f"*{'; '.join(facts)}.* {doc.description}"


def _engine_options() -> str:
    lines = ["## Engine options", ""]
    for name, options in ENGINE_OPTIONS.items():
        if not options:
            lines.append(f"- `{name}`: {'any scalar (for tests)' if options is None else 'none in this version'}")
        for option, facts in (options or {}).items():
            values = ", ".join(f"`{value}`" for value in facts.values)
            lines.append(f"- `{name}`: `{option}` ({values}; default `{facts.values[0]}`). {facts.sentence}")
    return "\n".join([*lines, ""])


def _not_yet() -> str:
    lines = [
        "## Fields without effect in this version",
        "",
        "Refused by name (SK-MAN-124) unless they say what this version does anyway.",
        "",
        "| field | why | may be written |",
        "|---|---|---|",
    ]
    for path, row in NOT_YET.items():
        allowed = ", ".join(f"`{str(v).lower() if isinstance(v, bool) else v}`" for v in row.allowed) or "nothing"
        lines.append(f"| `{path}` | {row.sentence} | {allowed} |")
    return "\n".join([*lines, ""])


def _beyond_schema() -> str:
    lines = [
        "## What JSON Schema cannot express",
        "",
        "An editor that only knows the schemas is silent about these; `skulk validate` is not.",
        "",
        "| code | fault | why |",
        "|---|---|---|",
        *(f"| {row.code.id} | {row.code.title} | {row.why} |" for row in BEYOND_SCHEMA),
    ]
    return "\n".join([*lines, ""])

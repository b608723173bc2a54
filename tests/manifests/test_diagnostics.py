"""Diagnostics point at the right place, say what would be right, and cannot break out of where they are printed."""

from __future__ import annotations

import pytest
from corpus_cases import PATHS, edited, file, good_files

from skulk.core.domain import CommitId
from skulk.core.manifests import Diagnostic, Severity, load, render_dicts, render_github, render_text
from skulk.core.manifests.diagnostics import tidy
from skulk.core.ports import TreeFile

NODE = "fleet/nodes/one.yaml"
HEAD = "apiVersion: skulk.dev/v1alpha1\nkind: Node\nmetadata:\n  name: one\nspec:\n"


def told(text: str, path: str = NODE) -> list[str]:
    files = good_files()
    files[path] = file(path, text)
    return render_text(load(tuple(files.values()), CommitId("0" * 40)).diagnostics).splitlines()


def test_all_faults_of_a_file_are_told_at_once_with_place_and_hint() -> None:
    text = HEAD + "  labls: {}\n  cordon: yes\n  reserve:\n    memory: 2\n  participation: ful\n  ordinal: 010\n"
    lines = told(text)
    assert [line.split(" ")[:3] for line in lines] == [
        [f"{NODE}:6:3", "error", "SK-MAN-101"],
        [f"{NODE}:7:11", "error", "SK-MAN-104"],
        [f"{NODE}:9:13", "error", "SK-MAN-103"],
        [f"{NODE}:10:18", "error", "SK-MAN-107"],
        [f"{NODE}:11:12", "error", "SK-MAN-011"],
    ]
    hints = [line.rsplit("; ", 1)[1] for line in lines]
    assert hints[0] == "did you mean labels?"
    assert hints[1] == "write true"
    assert "2GiB" in hints[2]
    assert hints[3] == "did you mean full?"
    assert hints[4] == 'write 10, or "010" if a string is meant'


def test_a_missing_field_is_shown_at_the_nearest_parents_key() -> None:
    [line] = told(HEAD + "  labels: {}\n")
    assert line.startswith(f"{NODE}:5:1 error SK-MAN-102 missing field spec.ordinal; ")


def test_an_unquoted_number_in_a_text_field_is_quoted_as_it_was_written() -> None:
    [line] = told(HEAD + "  ordinal: 1\n  labels: {release: 1.20}\n")
    assert line.endswith('; write "1.20"')


def test_a_field_at_the_wrong_level_is_told_where_it_belongs() -> None:
    [line] = told(edited("deployment", "spec.spread", "node"), PATHS["deployment"])
    assert line.endswith("it belongs at deployment.spec.placement.spread")


def test_an_unknown_card_suggests_the_nearest() -> None:
    [line] = told(edited("deployment", "spec.model", "foxx"), PATHS["deployment"])
    assert line.endswith("did you mean fox?")


def test_a_broken_file_does_not_make_others_refer_to_nothing() -> None:
    codes = [line.split(" ")[2] for line in told("spec: [", PATHS["modelcard"])]
    assert codes == ["SK-MAN-002"]


def test_a_faulty_card_still_exists_for_its_deployments() -> None:
    codes = [line.split(" ")[2] for line in told(edited("modelcard", "spec.nLayers", "x"), PATHS["modelcard"])]
    assert codes == ["SK-MAN-103"]


def test_a_key_written_in_place_of_its_digest_is_not_repeated() -> None:
    lines = told(edited("fleet", "spec.access.keys.0.sha256", "sk-very-secret"), PATHS["fleet"])
    assert [line.split(" ")[2] for line in lines] == ["SK-MAN-112"]
    assert "secret" not in "\n".join(lines)


def test_second_places_name_the_first() -> None:
    files = good_files()
    files["fleet/nodes/two.yaml"] = file("fleet/nodes/two.yaml", HEAD + "  ordinal: 1\n")
    lines = render_text(load(tuple(files.values()), CommitId("0" * 40)).diagnostics)
    assert f"exists already at {NODE}:1" in lines
    assert f'taken by "one" at {NODE}:1' in lines


@pytest.mark.parametrize(
    ("kind", "path", "value", "code"),
    [
        ("deployment", "spec.placement.excludedNodes", "[onne]", "SK-MAN-207"),
        ("fleet", "spec.prune.allowRemoval", "[chat]", "SK-MAN-207"),
        ("deployment", "spec.engine", "{name: llama_cpp}", "SK-MAN-215"),
    ],
)
def test_a_warning_does_not_refuse_the_commit(kind: str, path: str, value: str, code: str) -> None:
    files = good_files()
    files[PATHS[kind]] = file(PATHS[kind], edited(kind, path, value))
    result = load(tuple(files.values()), CommitId("0" * 40))
    assert [(d.code, d.severity) for d in result.diagnostics] == [(code, Severity.WARNING)]
    assert result.fleet is not None
    assert result.warnings == result.diagnostics
    assert not result.errors


def test_diagnostics_are_sorted_and_each_told_once() -> None:
    late = Diagnostic("b.yaml", 1, 1, Severity.ERROR, "X", "m")
    early = Diagnostic("a.yaml", 10, 1, Severity.WARNING, "X", "m")
    first = Diagnostic("a.yaml", 9, 5, Severity.ERROR, "X", "m")
    assert tidy([late, early, first, late]) == (first, early, late)


def test_github_annotations_escape_data_and_properties() -> None:
    diagnostic = Diagnostic("a,b:c%.yaml", 3, 7, Severity.ERROR, "SK-MAN-101", "50%: x,\r\ny", "fix")
    assert render_github([diagnostic]) == (
        "::error file=a%2Cb%3Ac%25.yaml,line=3,col=7,title=SK-MAN-101::50%25: x,%0D%0Ay; fix"
    )


def test_a_manifest_cannot_write_to_the_terminal() -> None:
    text = HEAD + '  ordinal: 1\n  "\\e[31mred\\n::error::x": 1\n'
    files = {**good_files(), NODE: file(NODE, text), "x": TreeFile("cards/\x1b[0m\n.yaml", b"")}
    result = load(tuple(files.values()), CommitId("0" * 40))
    rendered = render_text(result.diagnostics)
    assert "\x1b" not in rendered
    assert len(rendered.splitlines()) == len(result.diagnostics)
    assert len(render_github(result.diagnostics).splitlines()) == len(result.diagnostics)


def test_long_values_are_cut() -> None:
    [line] = told(HEAD + f"  ordinal: 1\n  address: '{'x ' * 5000}'\n")
    assert len(line) < 300


def test_json_has_all_parts() -> None:
    diagnostic = Diagnostic("f", 1, 2, Severity.WARNING, "C", "m", "h")
    assert render_dicts([diagnostic]) == [
        {"file": "f", "line": 1, "column": 2, "severity": "warning", "code": "C", "message": "m", "hint": "h"}
    ]

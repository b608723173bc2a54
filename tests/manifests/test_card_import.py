"""TOML cards become manifests that load; what could not be carried over is said."""

from __future__ import annotations

import pytest
from corpus_cases import PATHS, file, good_files

from skulk.core.domain import CommitId, HubSource
from skulk.core.manifests import Severity, import_toml, load, render_text

CARD = b"""
model_id = "example-org/Small-1.0-GGUF"
n_layers = 40
hidden_size = 2048
num_key_value_heads = 2
supports_tensor = false
tasks = ["TextGeneration"]
family = "small"
quantization = "Q4_K_M"
capabilities = ["text", "thinking", "thinking_toggle"]
context_length = 262144
gguf_file = "small-1.0-Q4_K_M.gguf"
[reasoning]
supports_toggle = true
format = "token_delimited"
default_effort = "medium"
disabled_effort = "none"
[tooling]
supports_tool_calling = true
tool_call_format = "generic"
[placement]
compatible_backends = ["llama_cpp-vulkan", "llama_cpp-cpu"]
backend_preference = ["llama_cpp-vulkan", "llama_cpp-cpu"]
[storage_size]
in_bytes = 21166757760
"""


def test_an_imported_card_loads_and_says_what_is_missing() -> None:
    text, diagnostics = import_toml(CARD, "example-org--Small-1.0-GGUF.toml")
    assert [(d.code, d.severity) for d in diagnostics] == [("SK-MAN-402", Severity.WARNING)]
    assert "sha256" in diagnostics[0].message
    files = good_files()
    files["cards/small/card.yaml"] = file("cards/small/card.yaml", text)
    result = load(tuple(files.values()), CommitId("0" * 40))
    assert result.fleet is not None, render_text(result.diagnostics)
    card = result.fleet.cards["small-1.0-gguf"]
    assert card.source == HubSource("example-org/Small-1.0-GGUF")
    assert (card.layers, card.context_length, card.storage_bytes) == (40, 262144, 21166757760)
    assert card.backend_preference == ("llama_cpp-vulkan", "llama_cpp-cpu")
    assert card.described["tooling"] == {"supportsToolCalling": True, "toolCallFormat": "generic"}


def test_a_deployment_of_an_imported_card_is_refused_until_it_is_local() -> None:
    text, _ = import_toml(CARD, "fox")
    files = good_files()
    files[PATHS["modelcard"]] = file(PATHS["modelcard"], text)
    result = load(tuple(files.values()), CommitId("0" * 40))
    assert [d.code for d in result.errors] == ["SK-MAN-214"]


def test_what_has_no_effect_is_left_out_and_said() -> None:
    head = CARD.split(b"[reasoning]")[0] + b"trust_remote_code = true\nis_custom = true\nshiny = 1\n"
    text, diagnostics = import_toml(head + b"[runtime]\nmtp_heads = 1\n", "a.toml")
    left_out = [d.message for d in diagnostics if d.code == "SK-MAN-403"]
    assert len(left_out) == 3
    assert "trustRemoteCode: true" not in text
    for name in ("trustRemoteCode", "shiny", "runtime.mtpHeads"):
        assert f"# Left out, without effect in this version: {name}" in text
        assert any(name in message for message in left_out)


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (b"= nothing", "SK-MAN-401"),
        (b"\xff", "SK-MAN-401"),
        (b"a = " + b"[" * 100_000, "SK-MAN-401"),
        (b"#" * (1024 * 1024 + 1), "SK-MAN-401"),
        (b"", "SK-MAN-404"),
        (CARD.replace(b"n_layers = 40", b"n_layers = 0"), "SK-MAN-404"),
        (CARD.replace(b'"TextGeneration"', b'"TextEmbedding"'), "SK-MAN-404"),
        (CARD.replace(b"example-org/", b""), "SK-MAN-404"),
        (CARD.replace(b'family = "small"', b"family = 2024-01-01"), "SK-MAN-404"),
    ],
)
def test_a_card_that_cannot_be_imported_gives_no_text(data: bytes, code: str) -> None:
    text, diagnostics = import_toml(data, "card.toml")
    assert text == ""
    assert code in {d.code for d in diagnostics if d.is_error}


def test_a_syntax_error_is_placed() -> None:
    _, [diagnostic] = import_toml(b'a = 1\nb = "x\n', "card.toml")
    assert (diagnostic.file, diagnostic.line) == ("card.toml", 2)


@pytest.mark.parametrize(
    ("hint", "name"),
    [("", "small-1.0-gguf"), ("My Card.toml", "my-card"), ("!!!.toml", "card"), ("a/b/" + "x" * 100, "x" * 63)],
)
def test_the_name_is_always_valid(hint: str, name: str) -> None:
    text, _ = import_toml(CARD, hint)
    assert f"\n  name: {name}\n" in text

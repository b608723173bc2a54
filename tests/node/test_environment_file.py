"""skulk.env beside node.toml: below the real environment, above node.toml, and a bad line is named and not shown."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from skulk.core.environment import parse_environment
from skulk.core.errors import InvalidInput
from skulk.node.config import effective_environment, load_config

BASE = 'name = "node-1"\nstateDir = "state"\n[listen]\nport = 1111\n[source]\nurl = "/remote.git"\n'


@pytest.fixture
def toml(tmp_path: Path) -> Path:
    path = tmp_path / "node.toml"
    path.write_text(BASE)
    return path


def test_the_file_wins_over_node_toml_and_the_environment_over_both(toml: Path):
    toml.with_name("skulk.env").write_text("# of this machine\n\nSKULK_LISTEN__PORT=2222\nSKULK_NAMESPACE=lab\n")
    found = load_config(toml, {"SKULK_NAMESPACE": "other"})
    assert (found.listen.port, found.namespace) == (2222, "other")


def test_without_the_file_nothing_changes(toml: Path):
    assert effective_environment(toml, {"A": "b"}) == ({"A": "b"}, ())
    assert load_config(toml, {}).listen.port == 1111


def test_a_mistake_in_a_value_names_the_variable(toml: Path):
    toml.with_name("skulk.env").write_text("SKULK_LISTEN__PORT=many\n")
    with pytest.raises(InvalidInput, match="SKULK_LISTEN__PORT"):
        load_config(toml, {})


@pytest.mark.parametrize(
    ("text", "line"),
    [
        pytest.param("SKULK_NAME=a\nhunter2\n", 2, id="no-equals-sign"),
        pytest.param("export SKULK_NAME=hunter2\n", 1, id="a-shell-script"),
        pytest.param("SKULK-NAME=hunter2\n", 1, id="no-name"),
        pytest.param("=hunter2\n", 1, id="nameless"),
        pytest.param("SKULK_NAME = hunter2\n", 1, id="blanks-around-the-equals-sign"),
        pytest.param("A=1\n\n# b\nSKULK_NAME='hunter2\n", 4, id="open-quote"),
        pytest.param("A=1\nA=hunter2\n", 2, id="twice"),
        pytest.param("A=hunter2\0\n", 1, id="nul"),
    ],
)
def test_a_bad_line_is_named_by_file_and_number_and_its_value_is_not_shown(toml: Path, text: str, line: int):
    file = toml.with_name("skulk.env")
    file.write_text(text)
    with pytest.raises(InvalidInput, match="SK-CFG-006") as refused:
        load_config(toml, {})
    assert f"{file}:{line}: " in str(refused.value)
    assert "hunter2" not in str(refused.value)


def test_a_file_that_is_no_text_is_refused_by_name(toml: Path):
    toml.with_name("skulk.env").write_bytes(b"A=\xff\n")
    with pytest.raises(InvalidInput, match=r"skulk\.env"):
        load_config(toml, {})


@pytest.mark.parametrize(
    ("line", "value"),
    [
        ("A=a b", "a b"),
        ("  A=a  ", "a"),
        ('A="a b "', "a b "),
        ("A='[\"/a\"]'", '["/a"]'),
        ("A=", ""),
        ("A=$HOME%h\\n#no", "$HOME%h\\n#no"),
        ("A=b=c\r", "b=c"),
    ],
)
def test_a_value_is_what_stands_there(line: str, value: str):
    assert parse_environment(line, "f") == {"A": value}


@given(st.text(max_size=200))
def test_any_text_is_read_or_refused(text: str):
    try:
        found = parse_environment(text, "f")
    except InvalidInput:
        return
    assert all(name.isidentifier() for name in found)

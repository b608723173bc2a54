"""The verbs that need no node: init, validate, schema, explain, card, node probe, doctor, version."""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml

from skulk.cli.scaffold.model import name_from
from skulk.node.config import load_config
from tests.cli.conftest import Skulk
from tests.cli.fake_node import FakeNode

PLAIN_GIT = {"GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_NOSYSTEM": "1"}
BROKEN = "apiVersion: skulk.dev/v1alpha1\nkind: Fleet\nmetadata:\n  name: x\nspec:\n  namespcae: x\n"


def git(directory: Path, *arguments: str) -> str:
    command = ["git", "-C", str(directory), "-c", "user.name=t", "-c", "user.email=t@t", *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True, env=os.environ | PLAIN_GIT).stdout


@pytest.fixture
def fleet(tmp_path: Path, skulk: Skulk, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A repository as `skulk init` makes it, by someone whose git has no identity."""
    for name, value in PLAIN_GIT.items():
        monkeypatch.setenv(name, value)
    result = skulk("init", str(tmp_path / "home"), "--node", "mac-1")
    assert result.exit_code == 0, result.output
    return tmp_path / "home"


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A model directory in form; the weights are noise."""
    directory = tmp_path / "models" / "Tiny Model-4bit"
    directory.mkdir(parents=True)
    config = {
        "model_type": "qwen3",
        "num_hidden_layers": 6,
        "hidden_size": 256,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 4096,
        "sliding_window": 512,
        "layer_types": ["sliding_attention"] * 4 + ["full_attention"] * 2,
        "quantization": {"bits": 4, "group_size": 64},
    }
    (directory / "config.json").write_text(json.dumps(config))
    (directory / "chat_template.jinja").write_text("{% if enable_thinking %}<think>{% endif %}")
    (directory / "model.safetensors").write_bytes(bytes(1000))
    (directory / "README.md").write_text("not needed by an engine")
    return directory


def test_a_new_fleet_validates_and_is_committed(fleet: Path, skulk: Skulk) -> None:
    result = skulk("validate", str(fleet))
    assert (result.exit_code, result.stdout) == (0, "ok: 1 fleet, 1 node, 0 deployments, 0 cards\n")
    assert git(fleet, "status", "--porcelain") == ""
    assert git(fleet, "log", "--format=%s", "main").splitlines() == ["Begin the fleet"]
    assert skulk("validate", str(fleet), "--rev", "main").exit_code == 0


def test_a_new_fleet_has_what_editors_and_ci_need(fleet: Path, skulk: Skulk) -> None:
    assert skulk("schema", "--check", "--dir", str(fleet / "schemas")).exit_code == 0
    settings = json.loads((fleet / ".vscode/settings.json").read_text())["yaml.schemas"]
    assert all((fleet / name).is_file() for name in settings)
    steps = yaml.safe_load((fleet / ".github/workflows/validate.yml").read_text())["jobs"]["validate"]["steps"]
    assert {"run": "skulk validate -o github"} in steps
    for file in fleet.glob("fleet/**/*.yaml"):
        line = file.read_text().splitlines()[0]
        schema = line.removeprefix("# yaml-language-server: $schema=")
        assert (file.parent / schema).resolve().is_file(), line


def test_the_node_toml_of_the_readme_is_valid_and_fits(fleet: Path, tmp_path: Path) -> None:
    (block,) = re.findall(r"```toml\n(.*?)```", (fleet / "README.md").read_text(), re.S)
    file = tmp_path / "node.toml"
    file.write_text(block)
    config = load_config(file)
    assert config.name == "mac-1"
    assert config.namespace == tomllib.loads(block)["namespace"] == "home"


def test_a_model_directory_becomes_a_card_and_a_deployment(tmp_path: Path, model: Path, skulk: Skulk) -> None:
    result = skulk("init", str(tmp_path / "home"), "--no-git", "--model-dir", str(model))
    assert result.exit_code == 0, result.output
    assert str(model.parent) in result.stdout
    assert skulk("validate", str(tmp_path / "home")).stdout.startswith("ok: 1 fleet, 1 node, 1 deployment, 1 card")
    card = yaml.safe_load((tmp_path / "home/cards/tiny-model-4bit/card.yaml").read_text())["spec"]
    assert [f["path"] for f in card["files"]] == ["chat_template.jinja", "config.json", "model.safetensors"]
    weights = card["files"][2]
    assert weights["bytes"] == 1000
    # sha256 of a thousand zero bytes
    assert weights["sha256"] == "541b3e9daa09b20bf85fa273e5cbd3e80185aa4ec298e765db87742b70138a53"
    assert card["kv"] == {"headDim": 64, "slidingWindow": {"tokens": 512, "layers": 4}}
    assert (card["nLayers"], card["numKeyValueHeads"], card["contextLength"]) == (6, 2, 4096)
    assert card["reasoning"] == {"format": "token_delimited", "supportsToggle": True}
    assert card["source"] == {"local": model.name}


def test_model_files_beside_their_card_take_its_name(tmp_path: Path, model: Path, skulk: Skulk) -> None:
    files = tmp_path / "shelf" / "fox-tiny" / "files"
    files.parent.mkdir(parents=True)
    model.rename(files)
    result = skulk("init", str(tmp_path / "home"), "--no-git", "--model-dir", str(files))
    assert result.exit_code == 0, result.output
    assert f"modelRoots in node.toml must contain {tmp_path / 'shelf'}\n" in result.stdout
    assert skulk("validate", str(tmp_path / "home")).stdout.startswith("ok: 1 fleet, 1 node, 1 deployment, 1 card")
    card = yaml.safe_load((tmp_path / "home/cards/fox-tiny/card.yaml").read_text())["spec"]
    assert card["source"] == {"local": "fox-tiny/files"}


@pytest.mark.parametrize("fault", ["no config", "config is a list", "no layers", "no weights", "link out", "not there"])
def test_a_directory_that_is_no_model_is_refused_before_anything_is_written(
    fault: str, tmp_path: Path, model: Path, skulk: Skulk
) -> None:
    match fault:
        case "no config":
            (model / "config.json").unlink()
        case "config is a list":
            (model / "config.json").write_text("[" * 100_000)
        case "no layers":
            (model / "config.json").write_text('{"num_hidden_layers": "6"}')
        case "no weights":
            (model / "model.safetensors").unlink()
        case "link out":
            (model / "vocab.json").symlink_to("/etc/passwd")
        case _:
            model = model / "nowhere"
    result = skulk("init", str(tmp_path / "home"), "--model-dir", str(model))
    assert result.exit_code == 2, result.output
    assert "SK-CLI-001" in result.stderr
    assert not (tmp_path / "home").exists()


def test_init_leaves_what_is_there_alone(tmp_path: Path, skulk: Skulk) -> None:
    (tmp_path / "mine").write_text("precious")
    for target in (tmp_path, tmp_path / "mine"):
        result = skulk("init", str(target))
        assert result.exit_code == 2
        assert "SK-CLI-004" in result.stderr
    assert [p.name for p in tmp_path.iterdir()] == ["mine"]


def test_init_takes_an_empty_directory_and_refuses_bad_names(tmp_path: Path, skulk: Skulk) -> None:
    assert skulk("init", str(tmp_path), "--name", "Not A Name").exit_code == 2
    assert skulk("init", str(tmp_path), "--no-git").exit_code == 0
    assert not (tmp_path / ".git").exists()


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("Toms-MacBook.local", "toms-macbook.local"),
        ("--", "model"),
        ("ä" * 5, "model"),
        ("a" * 70, "a" * 63),
        ("A_b", "a-b"),
    ],
)
def test_any_text_gives_a_resource_name(text: str, name: str) -> None:
    assert name_from(text) == name


def test_faults_are_listed_with_place_and_code_and_exit_3(fleet: Path, skulk: Skulk) -> None:
    (fleet / "fleet/fleet.yaml").write_text(BROKEN)
    result = skulk("validate", str(fleet))
    assert result.exit_code == 3
    assert f"{fleet}/fleet/fleet.yaml:6:3 error SK-MAN-" in result.stdout
    assert re.search(r"^invalid: \d errors? in 2 files$", result.stdout, re.M)
    report = json.loads(skulk("validate", str(fleet), "-o", "json").stdout)
    assert report["ok"] is False
    assert report["errors"] == len([d for d in report["diagnostics"] if d["severity"] == "error"]) > 0


def test_annotations_name_files_as_the_checkout_has_them(
    fleet: Path, skulk: Skulk, monkeypatch: pytest.MonkeyPatch
) -> None:
    (fleet / "fleet/fleet.yaml").write_text(BROKEN)
    monkeypatch.chdir(fleet)
    result = skulk("validate", "-o", "github")
    assert result.exit_code == 3
    assert "::error file=fleet/fleet.yaml,line=6," in result.stdout


def test_a_revision_is_judged_instead_of_the_files(fleet: Path, skulk: Skulk) -> None:
    (fleet / "fleet/fleet.yaml").write_text(BROKEN)
    assert skulk("validate", str(fleet), "--rev", "HEAD").exit_code == 0
    git(fleet, "commit", "-qam", "break")
    assert skulk("validate", str(fleet), "--rev", "HEAD").exit_code == 3
    assert skulk("validate", str(fleet), "--rev", "HEAD~1").exit_code == 0


def test_a_fleet_in_a_folder_of_a_repository_is_found_at_a_revision(tmp_path: Path, fleet: Path, skulk: Skulk) -> None:
    whole = tmp_path / "whole"
    shutil.copytree(fleet, whole / "deploy/home", ignore=shutil.ignore_patterns(".git"))
    git(tmp_path, "init", "-q", str(whole))
    git(whole, "add", "--all")
    git(whole, "commit", "-qm", "one")
    assert skulk("validate", str(whole / "deploy/home"), "--rev", "HEAD").exit_code == 0
    assert skulk("validate", str(whole), "--rev", "HEAD").exit_code == 2


@pytest.mark.parametrize("revision", ["nowhere", "--output=x", "HEAD:fleet", ""])
def test_a_revision_that_does_not_exist_is_wrong_usage(revision: str, fleet: Path, skulk: Skulk) -> None:
    result = skulk("validate", str(fleet), f"--rev={revision}")
    assert result.exit_code == 2
    assert "SK-CLI-001" in result.stderr


def test_links_and_submodules_are_reported_and_not_followed(fleet: Path, tmp_path: Path, skulk: Skulk) -> None:
    secret = tmp_path / "secret.yaml"
    secret.write_text("kind: Top-Secret\n")
    (fleet / "fleet/deployments/link.yaml").symlink_to(secret)
    (fleet / "cards/elsewhere").symlink_to(tmp_path)
    (fleet / "cards/nested/.git").mkdir(parents=True)
    (fleet / "cards/nested/card.yaml").write_text("kind: Nested\n")
    result = skulk("validate", str(fleet))
    assert result.exit_code == 3
    for place in ("fleet/deployments/link.yaml", "cards/elsewhere", "cards/nested"):
        assert place in result.stdout
    assert "Secret" not in result.stdout
    assert "nested/card.yaml" not in result.stdout


def test_files_of_models_are_never_read(fleet: Path, skulk: Skulk) -> None:
    (fleet / "cards/m/files").mkdir(parents=True)
    (fleet / "cards/m/files/bad.yaml").write_text("{{{{")
    assert skulk("validate", str(fleet)).exit_code == 0


def test_a_file_over_the_limit_is_refused_without_being_held(fleet: Path, skulk: Skulk) -> None:
    (fleet / "cards/big.yaml").write_bytes(b"#" * (10 * 1024 * 1024))
    result = skulk("validate", str(fleet))
    assert result.exit_code == 3
    assert "cards/big.yaml" in result.stdout


@pytest.mark.parametrize("path", ["nowhere", "empty"])
def test_a_place_without_manifests_is_wrong_usage(path: str, tmp_path: Path, skulk: Skulk) -> None:
    (tmp_path / "empty").mkdir()
    assert skulk("validate", str(tmp_path / path)).exit_code == 2


def test_a_changed_schema_is_drift(fleet: Path, skulk: Skulk) -> None:
    schemas = fleet / "schemas"
    (schemas / "node.schema.json").write_text("{}")
    result = skulk("schema", "--check", "--dir", str(schemas))
    assert result.exit_code == 1
    assert "node.schema.json" in result.stderr
    assert "fleet.schema.json" not in result.stderr
    assert skulk("schema", "--dir", str(schemas)).exit_code == 0
    assert skulk("schema", "--check", "--dir", str(schemas)).exit_code == 0


def test_a_field_is_explained_without_a_node(skulk: Skulk) -> None:
    assert skulk("explain", "deployment.spec.replicas").stdout.startswith("deployment.spec.replicas  <integer 0..64>")
    assert "replicas" in skulk("explain", "deployments.spec").stdout
    wrong = skulk("explain", "deployment.spec.replcas")
    assert wrong.exit_code == 2
    assert "replicas" in wrong.stderr


def test_a_probed_node_is_a_valid_manifest(fleet: Path, skulk: Skulk) -> None:
    result = skulk("node", "probe", "--name", "mac-2", "--ordinal", "2")
    (fleet / "fleet/nodes/mac-2.yaml").write_text(result.stdout)
    assert skulk("validate", str(fleet)).stdout.startswith("ok: 1 fleet, 2 nodes")


def test_a_toml_card_is_imported(tmp_path: Path, skulk: Skulk) -> None:
    card = tmp_path / "tiny.toml"
    card.write_text(
        'model_id = "org/tiny"\nn_layers = 4\nhidden_size = 256\nsupports_tensor = false\n'
        'tasks = ["TextGeneration"]\n[storage_size]\nin_bytes = 1000\n'
    )
    result = skulk("card", "import", str(card))
    assert yaml.safe_load(result.stdout)["spec"]["modelId"] == "org/tiny"
    target = tmp_path / "cards/tiny/card.yaml"
    assert skulk("card", "import", str(card), "-o", str(target)).exit_code == 0
    assert target.read_text() == result.stdout
    assert skulk("card", "import", str(card), "-o", str(target)).exit_code == 2
    assert skulk("card", "import", str(tmp_path / "none.toml")).exit_code == 2


def node_toml(directory: Path, port: int, **lines: str) -> Path:
    file = directory / "node.toml"
    extra = "\n".join(f"{key} = {value}" for key, value in lines.items())
    file.write_text(
        f'name = "demo"\nstateDir = "state"\n{extra}\n[listen]\nport = {port}\n[source]\ndirectory = "fleet"\n'
    )
    return file


def findings(skulk: Skulk, file: Path) -> tuple[int, dict[str, list[dict[str, str]]]]:
    result = skulk("doctor", "--config", str(file), "-o", "json")
    grouped: dict[str, list[dict[str, str]]] = {}
    for finding in json.loads(result.stdout)["findings"]:
        grouped.setdefault(finding["check"], []).append(finding)
    return result.exit_code, grouped


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def test_doctor_finds_nothing_wrong_where_nothing_is(tmp_path: Path, skulk: Skulk) -> None:
    code, found = findings(skulk, node_toml(tmp_path, free_port()))
    assert code == 0, found
    assert {"python", "git", "clock", "node.toml", "state", "disk", "engines", "port"} <= set(found)
    assert "no daemon runs" in found["port"][0]["message"]


def test_doctor_recognises_its_own_daemon_and_strangers(tmp_path: Path, node: FakeNode, skulk: Skulk) -> None:
    code, found = findings(skulk, node_toml(tmp_path, node.port))
    assert (code, found["port"][0]["level"]) == (0, "ok")
    with socket.socket() as stranger:
        stranger.bind(("127.0.0.1", 0))
        code, found = findings(skulk, node_toml(tmp_path, stranger.getsockname()[1]))
        assert (code, found["port"][0]["level"]) == (1, "problem")


def test_doctor_names_each_problem_with_a_fix(tmp_path: Path, skulk: Skulk) -> None:
    file = node_toml(tmp_path, free_port(), modelRoots='["nowhere"]', installEngines="false")
    (tmp_path / "state").write_text("a file where the state directory belongs")
    code, found = findings(skulk, file)
    assert code == 1
    for check in ("state", "models", "engines"):
        assert found[check][0]["level"] == "problem"
        assert found[check][0]["fix"]


@pytest.mark.parametrize(("mode", "level"), [(0o600, "ok"), (0o644, "problem")])
def test_doctor_looks_whether_the_webhook_secret_can_be_used(
    mode: int, level: str, tmp_path: Path, skulk: Skulk
) -> None:
    file = node_toml(tmp_path, free_port())
    (tmp_path / "hook").write_text("0123456789abcdef")
    (tmp_path / "hook").chmod(mode)
    file.write_text(file.read_text() + '[webhook]\nsecretFile = "hook"\n')
    _, found = findings(skulk, file)
    assert found["webhook"][0]["level"] == level
    assert "0123456789abcdef" not in str(found)


@pytest.mark.parametrize("text", ["name = 1", "nme = 'x'", "[[["])
def test_doctor_survives_a_broken_node_toml(text: str, tmp_path: Path, skulk: Skulk) -> None:
    file = tmp_path / "node.toml"
    file.write_text(text)
    code, found = findings(skulk, file)
    assert code == 1
    assert "SK-CFG-001" in found["node.toml"][0]["message"]


def test_version_says_what_runs(skulk: Skulk) -> None:
    facts = json.loads(skulk("version", "-o", "json").stdout)
    assert skulk("version").stdout.startswith(f"skulk {facts['version']} (Python {sys.version_info.major}.")

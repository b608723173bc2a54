"""node.toml: the environment wins, only by its own names, and every mistake names the file and the key."""

from __future__ import annotations

from pathlib import Path

import pytest

from skulk.adapters.zenoh.settings import LEASE_MS, TlsFiles
from skulk.core.errors import InvalidInput
from skulk.node.config import load_config

BASE = 'name = "node-1"\nstateDir = "state"\n[source]\nurl = "/remote.git"\npollSeconds = 3.0\n'
PLANES = BASE + '[planes]\nlisten = ["tcp/127.0.0.1:52416"]\n'
CERTIFICATES = 'ca = "ca.pem"\ncertificate = "~/node-1.pem"\nkey = "/etc/node-1.key"\n'


@pytest.fixture
def toml(tmp_path: Path) -> Path:
    path = tmp_path / "node.toml"
    path.write_text(BASE)
    return path


def test_relative_paths_are_relative_to_the_file(toml: Path):
    assert load_config(toml, {}).state_dir == toml.parent / "state"


def test_the_environment_wins_over_the_file(toml: Path):
    found = load_config(
        toml,
        {
            "SKULK_STATE_DIR": "/elsewhere",
            "SKULK_SOURCE__POLL_SECONDS": "0.5",
            "SKULK_LISTEN__PORT": "52999",
            "SKULK_MODEL_ROOTS": '["/a", "/b"]',
            "SKULK_MEMORY_CAP": "2GiB",
            "SKULK_SCRIPTED_ENGINE": "true",
        },
    )
    assert found.state_dir == Path("/elsewhere")
    assert found.source.poll_seconds == 0.5
    assert found.source.url == "/remote.git"
    assert found.listen.port == 52999
    assert found.model_roots == (Path("/a"), Path("/b"))
    assert found.memory_cap == 2 * 2**30
    assert found.scripted_engine is True


def test_variables_without_the_prefix_are_nobodys_business(toml: Path):
    found = load_config(toml, {"NAME": "evil", "NAMESPACE": "other", "ENGINES": "[]", "stateDir": "/evil"})
    assert (found.name, found.namespace, found.engines) == ("node-1", "default", ("mlx",))


@pytest.mark.parametrize(
    ("text", "named"),
    [
        pytest.param(BASE.replace("stateDir", "stateDri"), "stateDri", id="unknown-key"),
        pytest.param(BASE.replace("pollSeconds", "pollSecond"), "source.pollSecond", id="unknown-key-in-a-table"),
        pytest.param(BASE + 'directory = "/here"\n', "exactly one of source.url", id="two-sources"),
        pytest.param(BASE.replace("3.0", '"often"'), "source.pollSeconds", id="wrong-type"),
        pytest.param('memoryCap = "4 gigs"\n' + BASE, "memoryCap", id="size"),
        pytest.param("memoryCap = -5\n" + BASE, "memoryCap", id="negative-size"),
        pytest.param('memoryCap = "0 B"\n' + BASE, "memoryCap", id="no-memory-at-all"),
        pytest.param("name = [", "node.toml", id="not-toml"),
        pytest.param("source = 3\n", "source", id="no-table"),
        pytest.param(PLANES + 'key = "a"\n', "needed together", id="half-of-the-certificates"),
        pytest.param(BASE + '[planes]\nseeds = ["tcp/127.0.0.1:1"]\n', "without listen", id="seeds-for-nothing"),
        pytest.param(PLANES + 'mode = "star"\n', "planes.mode", id="unknown-mode"),
        pytest.param(PLANES + "leaseMs = 10\n", "planes.leaseMs", id="lease-too-short"),
        pytest.param(PLANES + 'seeds = ["10.0.0.1:1"]\n', "SK-PLN-003", id="no-endpoint"),
        pytest.param(PLANES + 'seeds = ["tls/10.0.0.1:1"]\n', "SK-PLN-003", id="tls-without-certificates"),
        pytest.param(PLANES + 'seeds = ["tcp/10.0.0.1:1"]\n', "SK-PLN-001", id="plain-beyond-loopback"),
        pytest.param(PLANES.replace("tcp/127.0.0.1", "tcp/0.0.0.0"), "SK-PLN-001", id="plain-for-everybody"),
        pytest.param(PLANES + CERTIFICATES, "SK-PLN-003", id="plain-although-there-are-certificates"),
    ],
)
def test_a_mistake_names_the_file_and_the_key(toml: Path, text: str, named: str):
    toml.write_text(text)
    with pytest.raises(InvalidInput) as refused:
        load_config(toml, {})
    assert str(toml) in str(refused.value)
    assert named in str(refused.value)


def test_a_mistake_in_the_environment_names_the_variable(toml: Path):
    with pytest.raises(InvalidInput, match="SKULK_LISTEN__PORT"):
        load_config(toml, {"SKULK_LISTEN__PORT": "many"})


def test_a_missing_file_is_named(tmp_path: Path):
    with pytest.raises(InvalidInput, match="SK-CFG-002"):
        load_config(tmp_path / "none.toml", {})


# --- planes -------------------------------------------------------------------------------------------------


def test_without_a_word_a_node_is_alone(toml: Path):
    assert load_config(toml, {}).planes.listen == ()


def test_certificates_are_found_and_endpoints_dialled_once(toml: Path):
    text = PLANES.replace("tcp/127.0.0.1", "tls/0.0.0.0") + CERTIFICATES
    toml.write_text(text + 'mode = "peer"\nverifyNames = false\nleaseMs = 5000\nseeds = ["tls/a:1"]\n')
    settings = load_config(toml, {}).plane_settings(["tls/b:1", "tls/a:1"])
    assert settings.tls == TlsFiles(
        toml.parent / "ca.pem", Path.home() / "node-1.pem", Path("/etc/node-1.key"), verify_names=False
    )
    assert (settings.listen, settings.dial) == (("tls/0.0.0.0:52416",), ("tls/a:1", "tls/b:1"))
    assert (settings.mode, settings.lease_ms, settings.namespace) == ("peer", 5000, "default")


def test_plain_planes_leave_loopback_only_when_the_file_says_so(toml: Path):
    toml.write_text(PLANES)
    config = load_config(toml, {})
    assert config.plane_settings(["tcp/127.0.0.1:52426"]).tls is None
    with pytest.raises(InvalidInput, match="SK-PLN-001"):
        config.plane_settings(["tcp/10.0.0.3:52416"])
    toml.write_text(PLANES.replace("127.0.0.1", "10.0.0.2") + "allowPlain = true\n")
    assert load_config(toml, {}).plane_settings(["tcp/10.0.0.3:52416"]).allow_plain


def test_the_lease_is_the_planes_own_unless_the_file_says_otherwise(toml: Path):
    assert load_config(toml, {}).planes.lease_ms == LEASE_MS

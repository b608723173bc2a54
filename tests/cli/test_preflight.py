"""`skulk node preflight`: what a probe printed, judged for a person and for a playbook."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest

from skulk.core.domain import NodeName
from tests.cli.conftest import Skulk
from tests.preflight.found import LINUX, printed


@pytest.fixture
def fleet(tmp_path: Path, skulk: Skulk, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setenv("GIT_CONFIG_NOSYSTEM", "1")
    assert skulk("init", str(tmp_path / "home"), "--node", "box").exit_code == 0
    (tmp_path / "home/fleet/nodes/box.yaml").write_text(
        "apiVersion: skulk.dev/v1alpha1\nkind: Node\nmetadata:\n  name: box\nspec:\n  ordinal: 1\n  address: 10.0.0.1\n"
    )
    return tmp_path / "home"


def now() -> str:
    return str(int(time.time()))


def preflight(skulk: Skulk, fleet: Path, text: str, *more: str, name: str = "box"):
    return skulk("node", "preflight", name, "--path", str(fleet), "--probe", "-", *more, stdin=text)


def test_a_machine_that_fits_is_passed_in_silence(fleet: Path, skulk: Skulk) -> None:
    done = preflight(skulk, fleet, printed(LINUX, epoch=now()))
    assert (done.exit_code, done.stdout, done.stderr) == (0, "", "")


def test_a_machine_that_does_not_is_refused_with_all_findings(fleet: Path, tmp_path: Path, skulk: Skulk) -> None:
    (tmp_path / "found.txt").write_text(printed(LINUX, "refusal=sudo: no", "listen=4000", epoch=now(), root=None))
    done = skulk(
        "node", "preflight", "box", "--path", str(fleet), "--probe", str(tmp_path / "found.txt"), "--port", "4000"
    )
    assert done.exit_code == 6
    first, second = done.stdout.splitlines()
    assert first.startswith("box: problem: sudo: ops cannot become root: sudo: no; let ops use sudo")
    assert "fleet/nodes/box.yaml:1" in first
    assert "port 4000" in second
    assert "SK-REL-004" in done.stderr


def test_a_warning_refuses_nothing(fleet: Path, skulk: Skulk) -> None:
    done = preflight(skulk, fleet, printed(LINUX, "unfinished=0.1.0-aaaaaaaaaaaa", epoch=now()))
    assert done.exit_code == 0
    assert done.stdout.startswith("box: warning: release: ")


def test_a_playbook_gets_findings_and_facts_refused_or_not(fleet: Path, skulk: Skulk) -> None:
    text = printed(LINUX, "release=r1", "unfinished=r2", epoch=now(), current="r1", previous="r0", python="3.9.2 /p")
    done = preflight(skulk, fleet, text, "--output", "json")
    assert done.exit_code == 6
    told = json.loads(done.stdout)
    assert told["ok"] is False
    assert [(f["check"], f["level"]) for f in told["findings"]] == [("python", "problem"), ("release", "warning")]
    assert all(f["message"] and f["fix"] for f in told["findings"])
    facts = told["facts"]
    assert (facts["os"], facts["arch"], facts["user"], facts["group"]) == ("linux", "x86_64", "ops", "ops")
    assert (facts["python"], facts["current"], facts["previous"], facts["enrolled"]) == ("", "r1", "r0", False)
    assert (facts["releases"], facts["unfinished"]) == (["r1"], ["r2"])
    done = preflight(skulk, fleet, text, "--output", "json", "--managed-python")
    assert (done.exit_code, json.loads(done.stdout)["ok"]) == (0, True)


def test_certificate_and_manifest_say_whether_it_is_enrolled(fleet: Path, tmp_path: Path, skulk: Skulk) -> None:
    out = tmp_path / "machine"
    assert skulk("node", "key", "--name", "box", "--out", str(out)).exit_code == 0
    signed = skulk("node", "sign", str(out / "box.csr"), "--path", str(fleet), "--new-ca")
    assert signed.exit_code == 0, signed.output

    def enrolled(**changes: str) -> bool:
        request, certificate = ((out / f"box.{end}").read_text().replace("\n", "|") for end in ("csr", "pem"))
        text = printed(LINUX, epoch=now(), **{"request": request, "certificate": certificate} | changes)
        done = preflight(skulk, fleet, text, "--output", "json")
        assert done.exit_code == 0, done.output
        return json.loads(done.stdout)["facts"]["enrolled"]

    assert enrolled()
    assert not enrolled(certificate="")
    assert not enrolled(certificate="rubbish")
    assert not enrolled(request="rubbish")
    assert not enrolled(ssh_host_key="ssh-ed25519 AAAA"), "which its manifest does not say yet"
    manifest = fleet / "fleet/nodes/box.yaml"
    manifest.write_text(manifest.read_text().replace("10.0.0.1", "10.0.0.2"))
    assert not enrolled(), "its certificate is for another address"


def test_a_certificate_of_another_node_is_recognised(fleet: Path, tmp_path: Path, skulk: Skulk) -> None:
    assert skulk("node", "add", "other", "--address", "10.0.0.9", "--path", str(fleet)).exit_code == 0
    out = tmp_path / "machine"
    assert skulk("node", "key", "--name", "other", "--out", str(out)).exit_code == 0
    assert skulk("node", "sign", str(out / "other.csr"), "--path", str(fleet), "--new-ca").exit_code == 0
    certificate = (out / "other.pem").read_text().replace("\n", "|")
    done = preflight(skulk, fleet, printed(LINUX, epoch=now(), certificate=certificate))
    assert done.exit_code == 6
    assert "this machine is node other already: its certificate says so" in done.stdout


def test_a_node_that_nobody_declared_is_named_with_those_that_are(fleet: Path, skulk: Skulk) -> None:
    done = preflight(skulk, fleet, printed(LINUX), name=NodeName("nobody"))
    assert done.exit_code == 2
    assert "'nobody'" in done.stderr
    assert "declared are: box" in done.stderr


def test_silence_is_no_answer(fleet: Path, skulk: Skulk) -> None:
    done = preflight(skulk, fleet, "bash: sh: command not found\n")
    assert done.exit_code == 1
    assert "SK-REL-005" in done.stderr
    assert "command not found" in done.stderr


def test_a_file_that_cannot_be_read_is_named(fleet: Path, tmp_path: Path, skulk: Skulk) -> None:
    done = skulk("node", "preflight", "box", "--path", str(fleet), "--probe", str(tmp_path / "nothing.txt"))
    assert done.exit_code == 2
    assert "nothing.txt" in done.stderr


@pytest.mark.parametrize("by_file", [True, False])
def test_bytes_that_are_no_text_are_borne(by_file: bool, fleet: Path, tmp_path: Path, skulk: Skulk) -> None:
    found = tmp_path / "found.txt"
    found.write_bytes(b"Gr\xfc\xdfe\n" + printed(LINUX, epoch=now()).encode())
    named = str(found) if by_file else "-"
    done = skulk("node", "preflight", "box", "--path", str(fleet), "--probe", named, stdin=found.read_bytes())
    assert done.exit_code == 0, done.output

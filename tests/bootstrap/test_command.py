"""`skulk bootstrap` as a process, with real Ansible, on this machine and over a real sshd."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from skulk.adapters import ansible
from skulk.core.errors import CLI_EXISTS, InvalidInput
from tests.bootstrap.conftest import DEADLINE_SECONDS, PYTHON, Checkout, Server, wait_until

COPY = """
- name: Write a file
  ansible.builtin.copy:
    content: "of {{ inventory_hostname }}"
    dest: "{{ skulk_fleet_checkout }}/{{ inventory_hostname }}.txt"
    mode: "0600"
"""


def nodes_of(done: subprocess.CompletedProcess[str]) -> dict[str, object]:
    return {node["name"]: node["status"] for node in json.loads(done.stdout)["nodes"]}


# --- before anything runs -----------------------------------------------------------------------------------


def test_invalid_manifests_end_it_before_anything_runs(checkout: Checkout) -> None:
    checkout.declare("one")
    node = checkout.root / "fleet" / "nodes" / "one.yaml"
    node.write_text(node.read_text() + "  ordnial: 3\n")
    done = checkout.local()
    assert done.returncode == 3
    assert "fleet/nodes/one.yaml:8" in done.stderr
    assert done.stdout == ""


def test_a_name_that_is_in_no_manifest_is_refused_and_the_declared_ones_are_named(checkout: Checkout) -> None:
    checkout.declare("one", "two")
    checkout.play(COPY)
    done = checkout.local("one", "tow")
    assert done.returncode == 2
    assert "'tow'" in done.stderr
    assert "one, two" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--playbook", "bootstrp"], "there are: bootstrap"),
        (["--playbook", "../bootstrap"], "there are: bootstrap"),
        (["--playbook", "uninstall"], "needs the names"),
        (["-e", "no-pair"], "KEY=VALUE"),
        (["--wheelhouse", "nowhere"], "no directory and no URL"),
        (["--wheel", "nowhere.whl"], "nowhere.whl"),
    ],
)
def test_wrong_arguments_are_refused(checkout: Checkout, arguments: list[str], words: str) -> None:
    checkout.declare("one")
    checkout.play(COPY)
    done = checkout.local(*arguments)
    assert done.returncode == 2
    assert words in done.stderr


def test_without_ansible_it_says_how_to_get_it(checkout: Checkout, monkeypatch: pytest.MonkeyPatch) -> None:
    checkout.declare("one")
    monkeypatch.setattr(sys, "executable", str(checkout.home / "python"))
    monkeypatch.setenv("PATH", str(checkout.home))
    with pytest.raises(InvalidInput, match="no ansible-playbook") as caught:
        ansible.find_ansible()
    assert "skulk[bootstrap]" in caught.value.fix


# --- a run --------------------------------------------------------------------------------------------------


def test_what_is_changed_is_told_and_the_second_run_changes_nothing(checkout: Checkout) -> None:
    checkout.declare("one", "two")
    checkout.play(COPY + '- ansible.builtin.debug: {msg: "note: all of it"}\n')
    looked = checkout.local("--check")
    assert looked.returncode == 1
    assert "+of one" in looked.stdout
    assert "would change 1" in looked.stdout
    assert not (checkout.root / "one.txt").exists()

    first = checkout.local()
    assert first.returncode == 0, first.stderr
    assert (checkout.root / "two.txt").read_text() == "of two"
    assert "▸ one  Write a file  changed" in first.stderr
    assert f"playbooks of the checkout: {checkout.root / 'playbooks'}" in first.stderr
    assert first.stdout.count("note: all of it") == 1
    assert [line.split()[:2] for line in first.stdout.splitlines()[1:3]] == [["one", "changed"], ["two", "changed"]]

    second = checkout.local("-o", "json", "--check")
    assert second.returncode == 0
    assert nodes_of(second) == {"one": "ok", "two": "ok"}


def test_a_failing_task_and_an_error_in_a_playbook_are_told_differently(checkout: Checkout) -> None:
    checkout.declare("one", "two")
    checkout.play('- name: Stop\n  ansible.builtin.fail: {msg: "not on this one"}\n  when: inventory_hostname == "two"')
    done = checkout.local("-o", "json")
    assert done.returncode == 1
    assert nodes_of(done) == {"one": "skipped", "two": "failed"}
    failure = json.loads(done.stdout)["nodes"][1]["failure"]
    assert failure == {"task": "Stop", "kind": "task-failed", "sentence": "not on this one", "fix": ""}

    checkout.play("- ansible.builtin.nosuch: {}", name="broken")
    broken = checkout.local("--playbook", "broken")
    assert broken.returncode == 1
    assert "SK-BST-002" in broken.stderr
    assert "nosuch" in broken.stderr


def test_a_refusal_of_the_preflight_has_its_own_exit_code(checkout: Checkout) -> None:
    checkout.declare("one")
    tasks = checkout.root / "playbooks" / "roles" / "skulk_preflight" / "tasks"
    tasks.mkdir(parents=True)
    (tasks / "main.yml").write_text('- name: Judge\n  ansible.builtin.fail: {msg: "too old: install a newer one"}\n')
    checkout.play("- ansible.builtin.include_role: {name: skulk_preflight}")
    done = checkout.local()
    assert done.returncode == 6
    assert "one, at skulk_preflight : Judge: too old: install a newer one" in done.stdout


def test_roles_are_told_the_checkout_and_a_program_that_is_this_one(checkout: Checkout) -> None:
    checkout.declare("one")
    checkout.play(
        '- ansible.builtin.command: "{{ skulk_controller_program }} inventory {{ skulk_fleet_checkout }} --host one"\n'
        "  register: asked\n"
        "- ansible.builtin.debug:\n"
        '    msg: "note: {{ (asked.stdout | from_json).skulk_node_name }} {{ skulk_enrol_new_ca }} {{ given }}'
        ' {{ skulk_release_wheelhouse }} {{ skulk_enrol_ca }} {{ listed }}"\n'
    )
    (checkout.root / "more.yml").write_text("listed: [1, 2]\ngiven: not this\n")
    done = checkout.local(
        "--new-ca", "-e", "given=a b", "--vars", "more.yml", "--wheelhouse", "https://x.invalid/w", "--ca", "../ca"
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"note: one True a b https://x.invalid/w {checkout.root.parent / 'ca'} [1, 2]" in done.stdout


def test_only_the_chosen_nodes_are_touched_and_plays_on_this_machine_are_run(checkout: Checkout) -> None:
    checkout.declare("one", "two")
    checkout.play('- ansible.builtin.debug: {msg: "note: {{ inventory_hostname }}"}')
    nodes = (checkout.root / "playbooks" / "bootstrap.yml").read_text()
    here = nodes.replace("skulk_nodes", "localhost")
    (checkout.root / "playbooks" / "bootstrap.yml").write_text(here + nodes)
    done = checkout.local("two", "-o", "json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["notes"] == ["localhost", "two"]
    assert nodes_of(done) == {"two": "ok"}


def test_a_manifest_that_the_run_changed_is_to_be_committed(checkout: Checkout) -> None:
    checkout.declare("one")
    checkout.play(
        "- ansible.builtin.lineinfile:\n"
        '    path: "{{ skulk_fleet_checkout }}/fleet/nodes/one.yaml"\n    line: "  cordon: true"\n'
    )
    done = checkout.local()
    assert done.returncode == 0, done.stderr
    assert "  git add fleet/nodes/one.yaml\n  git commit -m 'Enrol one'\n  git push\n" in done.stdout


# --- secrets ------------------------------------------------------------------------------------------------

SECRET = "7xMarkOfASecret"


def test_no_secret_is_in_an_argument_or_in_a_file_while_it_runs_or_afterwards(checkout: Checkout) -> None:
    """A variable and the environment, in a run that is in the middle of a task, and is then cancelled."""
    checkout.declare("one")
    begun = checkout.root / "begun"
    checkout.play(
        f"- name: Begin\n  ansible.builtin.file: {{path: {begun}, state: touch, mode: '0600'}}\n" + checkout.waiting
    )
    checkout.environment |= {"SKULK_API_KEY": f"{SECRET}-environment"}
    run = checkout.start("-e", "ansible_connection=local", "-e", f"token={SECRET}-variable")
    try:
        wait_until(begun.exists, "the first task")
        # Not rglob: Ansible removes its directories while they are listed.
        listed = [Path(place) / name for place, _, names in os.walk(checkout.temporary) for name in names]
        held = [path for path in listed if path.is_file() and SECRET in _text(path)]
        # the one file that Ansible reads them from; not what ansible-runner would keep
        assert [path.name for path in held] == ["given.json"]
        assert held[0].stat().st_mode & 0o777 == 0o600
        assert held[0].parent.stat().st_mode & 0o777 == 0o700
        ours = [p for p in psutil.process_iter(["cmdline"]) if str(checkout.temporary) in str(p.info["cmdline"])]
        assert ours
        assert SECRET not in str([p.info["cmdline"] for p in ours])
    finally:
        os.kill(run.pid, signal.SIGTERM)
        run.communicate(timeout=DEADLINE_SECONDS)
    assert run.returncode == 130
    assert [str(path) for path in _files(checkout) if SECRET in _text(path)] == []


def test_the_password_of_sudo_is_in_no_file(checkout: Checkout) -> None:
    checkout.declare("one")
    # The run itself looks, while it runs; its pattern finds the secret and not itself.
    pattern = f"{SECRET[:-1]}[{SECRET[-1]}]"
    places = f"{checkout.temporary} {checkout.home} {checkout.root}"
    checkout.play(
        f"- name: Look\n  ansible.builtin.shell: \"grep -rl '{pattern}' {places} || echo none\"\n"
        "  register: found\n  changed_when: false\n"
        "- ansible.builtin.debug: {msg: 'note: found in {{ found.stdout }}'}\n"
    )
    done = checkout.local("--ask-become-pass", stdin=f"{SECRET}\n")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "note: found in none\n" in done.stdout
    assert SECRET not in done.stdout + done.stderr
    assert [str(path) for path in _files(checkout) if SECRET in _text(path)] == []

    control = checkout.local("-e", f"token={SECRET}")
    assert "note: found in none" not in control.stdout, "it would not be found anywhere"


def _files(checkout: Checkout) -> list[Path]:
    return [path for root in (checkout.root, checkout.home, checkout.temporary) for path in root.rglob("*")]


def _text(path: Path) -> str:
    try:
        return path.read_bytes().decode(errors="replace")
    except OSError:
        return ""


# --- over SSH -----------------------------------------------------------------------------------------------


def test_a_host_that_is_met_first_is_taken_only_when_that_is_allowed(checkout: Checkout, server: Server) -> None:
    checkout.declare("one")
    checkout.play("- ansible.builtin.ping:\n")
    known = checkout.home / "known_hosts"
    options = f"ansible_ssh_common_args=-o IdentitiesOnly=yes -o UserKnownHostsFile={known}"
    refused = checkout.run(*server.arguments(), "-e", options, "-o", "json")
    assert refused.returncode == 4, refused.stdout + refused.stderr
    assert json.loads(refused.stdout)["nodes"][0]["failure"]["kind"] == "host-key-unknown"

    taken = checkout.run(*server.arguments(), "-e", options, "--accept-new-host-keys")
    assert taken.returncode == 0, taken.stdout + taken.stderr
    assert server.host_key in known.read_text()

    stranger = checkout.run(*server.arguments("stranger"), "-e", options)
    assert stranger.returncode == 4
    assert str(server.base / "stranger") in stranger.stdout


def order(checkout: Checkout, server: Server, key: str) -> ansible.Order:
    return ansible.Order(
        playbook=checkout.root / "playbooks" / "bootstrap.yml",
        checkout=checkout.root,
        nodes=("one",),
        given={
            "ansible_port": str(server.port),
            "ansible_ssh_common_args": "-o IdentitiesOnly=yes",
            PYTHON.partition("=")[0]: sys.executable,
        },
        ssh_key=server.base / "client",
        host_keys={"one": key},
    )


def test_a_recorded_host_key_is_the_only_one_that_is_taken(
    checkout: Checkout, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """For copies as well, which go through sftp."""
    monkeypatch.setattr("tempfile.tempdir", str(checkout.temporary))
    checkout.declare("one")
    checkout.play(f"- ansible.builtin.copy: {{content: x, dest: {checkout.root}/copied, mode: '0600'}}\n")
    events: list[object] = []
    right = ansible.run(order(checkout, server, server.host_key), events.append)
    assert (right.ok, right.cancelled) == (True, False)
    assert checkout.left_behind() == [], "ssh keeps its connection"
    assert (checkout.root / "copied").exists()

    wrong = ansible.run(order(checkout, server, server.other_key), events.append)
    assert not wrong.ok
    assert "IDENTIFICATION HAS CHANGED" in json.dumps(events)


def test_a_cancelled_run_leaves_no_process_and_says_who_was_cut_off(checkout: Checkout, server: Server) -> None:
    """Ansible's main process, its workers, ssh and the connection that ssh keeps: the fixture looks for all of them."""
    checkout.declare("one", "two")
    begun = checkout.root / "begun-"
    checkout.play(
        f"- name: Begin\n  ansible.builtin.file:\n    path: '{begun}{{{{ inventory_hostname }}}}'\n"
        "    state: touch\n    mode: '0600'\n" + checkout.waiting
    )
    options = f"ansible_ssh_common_args=-o IdentitiesOnly=yes -o UserKnownHostsFile={checkout.home / 'known'}"
    run = checkout.start(*server.arguments(), "-e", options, "--accept-new-host-keys", "-o", "json")
    try:
        wait_until(lambda: len(list(checkout.root.glob("begun-*"))) == 2, "the first task")
    finally:
        os.kill(run.pid, signal.SIGINT)
        stdout, stderr = run.communicate(timeout=DEADLINE_SECONDS)
    assert run.returncode == 130, stderr
    assert {node["status"] for node in json.loads(stdout)["nodes"]} == {"cut off"}
    assert "cancelled" in stderr
    assert checkout.left_behind() == []


# --- the playbooks ------------------------------------------------------------------------------------------


def test_the_playbooks_are_exported_with_an_inventory_that_can_be_run(checkout: Checkout, tmp_path: Path) -> None:
    checkout.declare("one")
    own = checkout.root / "playbooks"
    own.rmdir()
    done = checkout.run("--export", str(own))
    assert done.returncode == 0, done.stderr
    assert (own / "ansible.cfg").is_file()
    program = tmp_path / "skulk"
    program.write_text(f'#!/bin/sh\nexec {sys.executable} -m skulk.cli.main "$@"\n')
    program.chmod(0o755)
    listed = subprocess.run(
        [str(own / "inventory" / "fleet"), "--list"],
        env=checkout.environment | {"SKULK_PROGRAM": str(program)},
        capture_output=True,
        check=True,
        text=True,
    )
    assert json.loads(listed.stdout)["skulk_nodes"]["hosts"] == ["one"]

    with pytest.raises(InvalidInput) as caught:
        ansible.export(own)
    assert caught.value.code is CLI_EXISTS


def test_a_checkout_without_a_playbook_of_its_own_uses_those_of_the_program(checkout: Checkout) -> None:
    assert ansible.own_playbooks(checkout.root) is None
    assert (ansible.playbooks_dir() / "inventory" / "fleet").is_file()

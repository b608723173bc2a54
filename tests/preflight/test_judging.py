"""Every finding, by facts that a probe might have printed."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from skulk.core.domain import CommitId, Fleet, Node, NodeName, Participation
from skulk.core.preflight import CLOCK_SECONDS_MAX, Level, Plan, judge, read_probe, report
from tests.preflight.found import BOX, LINUX, MAC, NOW, PLACE, judged, printed

GIB = 1 << 30


def only(findings):
    (finding,) = findings
    return finding


@pytest.mark.parametrize("machine", [LINUX, MAC], ids=["linux", "mac"])
def test_nothing_is_found_on_a_machine_that_fits(machine: dict[str, str]) -> None:
    assert judged(printed(machine)) == ()


def test_a_node_that_nobody_declared_cannot_be_judged() -> None:
    with pytest.raises(KeyError):
        judge(Fleet("home", "home", CommitId("c")), BOX, read_probe(printed(LINUX)), Plan(NOW, ()))


# --- platform -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("facts", "changes", "said"),
    [
        (MAC, {"machine": "x86_64"}, "Darwin on x86_64 is not supported"),
        (LINUX, {"system": "FreeBSD", "machine": "amd64"}, "FreeBSD on amd64 is not supported"),
        (LINUX, {"machine": "armv7l"}, "Linux on armv7l is not supported"),
        (LINUX, {"machine": "i686"}, "Linux on i686 is not supported"),
        (LINUX, {"bits": "32", "machine": "aarch64"}, "a 32-bit system on aarch64 is not supported"),
        (LINUX, {"system": None, "machine": None}, "this system on this processor is not supported"),
        (LINUX, {"libc": "musl", "distribution": "alpine 3.20"}, "the C library is musl"),
        (LINUX, {"libc": None}, "the C library is unknown"),
        (MAC, {"distribution": "13.6.1"}, "macOS 13.6.1 is too old"),
    ],
)
def test_an_unsupported_machine_is_named_and_nothing_else_is_judged(
    facts: dict[str, str], changes: dict[str, str | None], said: str
) -> None:
    # Without sudo, with little room and a wrong clock: that would be noise here.
    more = ("free=1 /opt/skulk", "listen=52415", "refusal=no")
    finding = only(judged(printed(facts, *more, **{"root": "no", "epoch": "1", **changes})))
    assert (finding.check, finding.level) == ("platform", Level.PROBLEM)
    assert said in finding.message
    assert finding.fix


@pytest.mark.parametrize(
    ("os", "arch", "declared"),
    [("macos", "arm64", "macos/arm64"), ("linux", "aarch64", "linux/aarch64"), ("macos", None, "macos")],
)
def test_a_manifest_of_another_platform_is_named_by_its_place(os: str, arch: str | None, declared: str) -> None:
    finding = only(judged(printed(LINUX), Node(BOX, 1, os=os, arch=arch)))
    assert finding.check == "platform"
    assert finding.message == f"{PLACE} says {declared}, the machine is linux/x86_64"
    assert "spec.platform" in finding.fix
    assert judged(printed(LINUX), Node(BOX, 1, os="linux", arch="x86_64")) == ()


@pytest.mark.parametrize(
    ("systemd", "said"), [(None, "systemd does not run"), ("", "systemd does not run"), ("241", "systemd 241 is too")]
)
def test_without_a_young_systemd_there_is_no_service(systemd: str | None, said: str) -> None:
    finding = only(judged(printed(LINUX, systemd=systemd)))
    assert finding.check == "service"
    assert said in finding.message
    assert "247" in finding.fix
    assert judged(printed(LINUX, systemd="247")) == ()


# --- privileges, software -----------------------------------------------------------------------------------


def test_what_sudo_said_is_said() -> None:
    finding = only(judged(printed(LINUX, "refusal=sudo: a password is required", root=None)))
    assert finding.check == "sudo"
    assert finding.message == "ops cannot become root: sudo: a password is required"
    assert "--ask-become-pass" in finding.fix
    assert PLACE in finding.fix


def test_who_cannot_become_root_is_named_by_the_manifest_if_the_machine_does_not() -> None:
    ssh = replace(Node(BOX, 1).ssh, user="admin")
    finding = only(judged(printed(LINUX, user=None, root=None), Node(BOX, 1, ssh=ssh)))
    assert finding.message == "admin cannot become root"


@pytest.mark.parametrize(
    ("python", "said"),
    [
        ("3.9.2 /usr/bin/python3", "/usr/bin/python3 is 3.9.2"),
        ("3.15.0 /usr/bin/python3", "/usr/bin/python3 is 3.15.0"),
        (None, "there is none"),
        ("nonsense", "there is none"),
    ],
)
def test_a_python_that_does_not_fit_is_named_unless_uv_may_download_one(python: str | None, said: str) -> None:
    # The probe runs twice, so it says everything twice.
    again = () if python is None else (f"python={python}",)
    text = printed(LINUX, *again, python=python)
    finding = only(judged(text))
    assert finding.check == "python"
    assert finding.message == f"Python 3.11 to 3.14 is needed: {said}"
    assert "skulk_python_managed=true" in finding.fix
    assert judged(text, managed_python=True) == ()


def test_the_first_python_that_fits_is_taken() -> None:
    probe = read_probe(printed(LINUX, "python=3.14.1 /usr/bin/python3.14", "python=3.12.0 /b", python="3.9.2 /a"))
    assert probe.python is not None
    assert (probe.python.path, probe.python.version) == ("/usr/bin/python3.14", (3, 14, 1))


OLD_GLIBC = {"libc": "glibc 2.31", "distribution": "debian 11"}


def test_an_old_glibc_matters_to_mlx_only() -> None:
    finding = only(judged(printed(LINUX, **OLD_GLIBC)))
    assert finding.check == "glibc"
    assert finding.message == "engine mlx needs glibc 2.35, this is 2.31 (debian 11)"
    llama = Node(BOX, 1, backends=("llama_cpp-cpu",))
    assert judged(printed(LINUX, **OLD_GLIBC), llama) == ()
    assert judged(printed(LINUX, **OLD_GLIBC), Node(BOX, 1, participation=Participation.MANAGEMENT)) == ()
    assert judged(printed(LINUX, **OLD_GLIBC), replace(llama, backends=("llama_cpp-cpu", "mlx-cpu"))) == (finding,)
    assert judged(printed(LINUX, libc="glibc 2.35")) == ()


def test_a_mac_without_git_needs_homebrew_or_the_developer_tools() -> None:
    finding = only(judged(printed(MAC, git=None)))
    assert finding.check == "git"
    assert "xcode-select --install" in finding.fix
    assert judged(printed(MAC, git=None, brew="/opt/homebrew/bin/brew")) == ()
    assert judged(printed(LINUX, git=None)) == (), "there the distribution's package is installed"


# --- who it is, room, ports, clock --------------------------------------------------------------------------


def test_a_machine_that_is_another_node_already_is_left_alone() -> None:
    finding = only(judged(printed(LINUX, node_name="other")))
    assert finding.check == "identity"
    assert finding.message == "this machine is node other already: its node.toml says so"
    assert "--playbook uninstall other" in finding.fix
    finding = only(judged(printed(LINUX, node_name="box"), certificate_node="third"))
    assert finding.message == "this machine is node third already: its certificate says so"
    assert judged(printed(LINUX, node_name="box"), certificate_node="box") == ()


def test_too_little_room_is_said_of_each_directory() -> None:
    program, state = judged(printed(LINUX, f"free={GIB // 2048} /opt/skulk", "free=1048576 /var/lib/skulk"))
    assert (program.check, state.check) == ("disk", "disk")
    assert program.message == "/opt/skulk has 0.5 GiB free, the program needs 1"
    assert "/var/lib/skulk has 1.0 GiB free" in state.message
    enough = printed(LINUX, "free=1048576 /opt/skulk", "free=3145728 /var/lib/skulk")
    assert judged(enough) == ()
    mac = printed(MAC, f"free=1024 {MAC['state_dir']}")
    assert MAC["state_dir"] in only(judged(mac)).message, "a directory with a space"


def test_a_port_of_somebody_else_is_named_and_the_nodes_own_is_not() -> None:
    taken = judged(printed(LINUX, "listen=52416", "listen=52415", "listen=22", service="inactive"))
    assert [finding.check for finding in taken] == ["port", "port"]
    assert "port 52415" in taken[0].message
    assert "skulk_node_port" in taken[0].fix
    assert judged(printed(LINUX, "listen=52415", service="active")) == ()
    assert judged(printed(LINUX, "listen=52415"), ports=(1, 2)) == ()


@pytest.mark.parametrize(("off", "said"), [(3600, "3600 s ahead of"), (-3600, "3600 s behind")])
def test_a_clock_that_is_off_is_said_with_its_direction(off: int, said: str) -> None:
    finding = only(judged(printed(LINUX, epoch=str(NOW + off))))
    assert finding.check == "clock"
    assert said in finding.message
    for bearable in (CLOCK_SECONDS_MAX, -CLOCK_SECONDS_MAX):
        assert judged(printed(LINUX, epoch=str(NOW + bearable))) == ()


# --- what earlier runs left ---------------------------------------------------------------------------------


def test_an_interrupted_dpkg_is_a_problem_and_a_half_installed_release_a_warning() -> None:
    half = ("unfinished=0.1.0-aaaaaaaaaaaa",) * 2
    dpkg, release = judged(printed(LINUX, *half, dpkg="interrupted"))
    assert (dpkg.check, dpkg.level) == ("packages", Level.PROBLEM)
    assert "dpkg --configure -a" in dpkg.fix
    assert (release.check, release.level) == ("release", Level.WARNING)
    assert "0.1.0-aaaaaaaaaaaa" in release.message


def test_everything_is_said_at_once_a_line_each() -> None:
    text = printed(LINUX, "free=1 /opt/skulk", "listen=52415", epoch="1", root=None, python=None, dpkg="interrupted")
    findings = judged(text)
    assert {finding.check for finding in findings} == {"sudo", "python", "disk", "port", "clock", "packages"}
    lines = report(BOX, findings).splitlines()
    assert len(lines) == len(findings)
    assert lines[0].startswith("box: problem: sudo: ops cannot become root; ")


# --- reading ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    [
        *("", "\n\n", "\0\xff", "bash: syntax error", "probe=1", "epoch=5\n", "probe=2\nepoch=5\n"),
        *("probe=1\nepoch=soon\n", "probe=1\nepoch=" + "9" * 400, "probe=1\nepoch=" + "9" * 5000),
    ],
    ids=range(10),
)
def test_what_no_probe_prints_is_no_probe(text: str) -> None:
    with pytest.raises(ValueError, match="did not answer the probe"):
        read_probe(text)


def test_banners_and_carriage_returns_change_nothing() -> None:
    plain = printed(LINUX, "free=9999999 /opt/skulk", "listen=52415")
    banner = "Welcome to box!\n*** All use is logged = you agree ***\n\n"
    assert read_probe(banner + plain.replace("\n", "\r\n") + "logout\n") == read_probe(plain)


def test_the_first_half_says_who_logs_in_and_the_second_what_root_sees() -> None:
    first = printed(LINUX, root=None)
    second = printed(
        LINUX, "node_name=box", "release=r2", "unfinished=r1", user="root", group="root", epoch="1800000002"
    )
    probe = read_probe(first + second + "refusal=\n")
    assert (probe.user, probe.group, probe.privileged, probe.refusal) == ("ops", "ops", True, "")
    assert (probe.epoch, probe.node_name, probe.releases, probe.unfinished) == (NOW + 2, "box", ("r2",), ("r1",))
    assert len(probe.pythons) == 1
    doubled = read_probe(second + second)
    assert (doubled.releases, doubled.unfinished) == (("r2",), ("r1",)), "who logs in may be root"


def test_files_come_back_with_their_lines() -> None:
    probe = read_probe(
        printed(LINUX, certificate="-----BEGIN X-----|AA==|-----END X-----|", ssh_host_key="t k comment")
    )
    assert probe.certificate == "-----BEGIN X-----\nAA==\n-----END X-----\n"
    assert probe.ssh_host_key == "t k"


KEYS = st.sampled_from([*LINUX, "free", "listen", "python", "release", "certificate", "refusal", "libc", "bits"])
LINE = st.tuples(KEYS, st.text(max_size=30) | st.integers().map(str)).map("=".join)


@given(st.text() | st.lists(LINE).map("\n".join) | st.lists(LINE).map(lambda lines: printed(LINUX, *lines)))
def test_nothing_but_value_errors_comes_of_rubbish(text: str) -> None:
    try:
        probe = read_probe(text)
    except ValueError:
        return
    fleet = Fleet("home", "home", CommitId("c"), nodes={BOX: Node(BOX, 1)})
    for finding in judge(fleet, NodeName("box"), probe, Plan(NOW, (52415,))):
        assert "\n" not in report(BOX, [finding])

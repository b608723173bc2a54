"""Engine environments: built once and completely, found by directory, probed in a child process."""

import asyncio
import hashlib
import json
import os
import shutil
import subprocess
import sys
import textwrap
import threading
from pathlib import Path

import pytest

import skulk
from skulk.adapters.engine_envs import EngineCatalogue, EngineEnvironment, discover, ensure, environments, probe
from skulk.adapters.engine_envs.environments import log_file, marker_text, pinned_version, wanted_environment
from skulk.adapters.runners import place_runner_code
from skulk.core.domain import CardName, ContentHash, DeploymentName, Launch, LaunchHash, PlacementUid
from skulk.core.errors import ENG_INSTALL, ENG_MISSING, SkulkError

ROOT = Path(skulk.__file__).parents[1]
UV = shutil.which("uv") or ""


ENGINES = ("mlx", "llama_cpp")


@pytest.mark.skipif(not UV, reason="uv is not on PATH")
@pytest.mark.skipif(not (ROOT / "uv.lock").is_file(), reason="not a checkout")
@pytest.mark.parametrize("engine", ENGINES)
def test_the_requirements_of_an_engine_are_what_the_lock_says(engine: str) -> None:
    command = f"export --frozen --only-group engine-{engine} --no-emit-project --format requirements-txt --no-header -q"
    exported = subprocess.run([UV, *command.split()], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    shipped = environments.requirements_file(engine).read_text()
    assert [line for line in shipped.splitlines() if not line.startswith("#")] == exported.splitlines()


@pytest.mark.parametrize("engine", ENGINES)
def test_every_requirement_is_pinned_by_hash(engine: str) -> None:
    text = environments.requirements_file(engine).read_text()
    entries = [line for line in text.splitlines() if line and not line.startswith((" ", "#"))]
    assert entries
    assert all("==" in entry and entry.endswith("\\") for entry in entries)
    assert pinned_version(text, engine)


@pytest.mark.parametrize("engine", ["scripted", "", "../mlx", "MLX", "nonsense"])
def test_an_engine_without_requirements_is_refused_by_name(tmp_path: Path, engine: str) -> None:
    with pytest.raises(SkulkError) as caught:
        ensure(engine, tmp_path)
    assert caught.value.code is ENG_MISSING
    assert repr(engine) in caught.value.message


# --- a small engine of our own, installed without a network ------------------------------------------------------


@pytest.fixture
def toy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An engine `toy` whose only requirement is a wheel in a local directory, pinned by hash."""
    import zipfile

    wheels = tmp_path / "wheels"
    wheels.mkdir()
    wheel = wheels / "toy-1.2-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("toy.py", "answer = 42\n")
        archive.writestr("toy-1.2.dist-info/METADATA", "Metadata-Version: 2.1\nName: toy\nVersion: 1.2\n")
        archive.writestr("toy-1.2.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr("toy-1.2.dist-info/RECORD", "toy.py,,\n")
    requirements = tmp_path / "toy.txt"
    digest = hashlib.sha256(wheel.read_bytes()).hexdigest()
    requirements.write_text(f"--no-index\n--find-links {wheels}\ntoy==1.2 \\\n    --hash=sha256:{digest}\n")
    monkeypatch.setattr(environments, "requirements_file", lambda engine: requirements)
    monkeypatch.setattr("skulk.adapters.engine_envs.install.requirements_file", lambda engine: requirements)
    return requirements


@pytest.mark.parametrize(
    "uv", [pytest.param(UV, marks=pytest.mark.skipif(not UV, reason="no uv")), ""], ids=["uv", "pip"]
)
def test_an_environment_is_installed_once_and_works(toy: Path, tmp_path: Path, uv: str) -> None:
    lines: list[str] = []
    first = ensure("toy", tmp_path / "engines", progress=lines.append, uv=uv)
    assert first.path.name.startswith("toy-1.2-cp")
    assert lines[-1] == f"installed {first.path.name}"
    code = "import toy, sys; print(toy.answer, sys.prefix)"
    done = subprocess.run([first.python, "-I", "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["42", str(first.path)]
    marker = json.loads((first.path / "engine.json").read_text())
    assert marker["requirements"] == hashlib.sha256(toy.read_bytes()).hexdigest()
    assert discover(tmp_path / "engines").environments == (first,)
    lines.clear()
    assert ensure("toy", tmp_path / "engines", progress=lines.append, uv=uv) == first
    assert lines == [], "nothing was done the second time"
    site_packages = next(first.path.glob("lib*/python*/site-packages"))
    assert not (site_packages / "skulk").exists()


def test_another_lock_makes_another_environment_beside_the_first(toy: Path, tmp_path: Path) -> None:
    first = ensure("toy", tmp_path / "engines")
    toy.write_text("# changed\n" + toy.read_text())
    second = ensure("toy", tmp_path / "engines")
    assert first.digest != second.digest
    assert set(discover(tmp_path / "engines").environments) == {first, second}


def test_a_failed_installation_leaves_nothing_and_says_why(toy: Path, tmp_path: Path) -> None:
    toy.write_text(toy.read_text().replace("sha256:", "sha256:0")[:-2] + "\n")
    with pytest.raises(SkulkError, match="toy") as caught:
        ensure("toy", tmp_path / "engines")
    assert caught.value.code is ENG_INSTALL
    assert "hash" in caught.value.message.lower()
    assert discover(tmp_path / "engines").environments == ()
    left = [path.name for path in (tmp_path / "engines").iterdir() if not path.name.startswith(".")]
    assert left == ["logs"]
    assert str(log_file(wanted_environment(tmp_path / "engines", "toy"))) in caught.value.message


def test_what_a_killed_build_left_is_removed_by_the_next(toy: Path, tmp_path: Path) -> None:
    wanted = wanted_environment(tmp_path / "engines", "toy")
    (wanted.path / "lib").mkdir(parents=True)
    (wanted.path / "lib" / "half.so").touch()
    assert discover(tmp_path / "engines") == environments.Discovery(), "not complete, and no problem either"
    ensure("toy", tmp_path / "engines")
    assert not (wanted.path / "lib" / "half.so").exists()


def test_two_builders_do_not_collide(toy: Path, tmp_path: Path) -> None:
    made: list[EngineEnvironment] = []
    lines: list[str] = []
    threads = [
        threading.Thread(target=lambda: made.append(ensure("toy", tmp_path / "engines", progress=lines.append)))
        for _ in range(3)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    assert len(made) == 3
    assert len(set(made)) == 1
    assert sum(line.startswith("installed") for line in lines) == 1


def test_a_builder_that_waits_too_long_gives_up(toy: Path, tmp_path: Path) -> None:
    import fcntl

    wanted = wanted_environment(tmp_path / "engines", "toy")
    wanted.path.parent.mkdir()
    with (tmp_path / "engines" / f".{wanted.path.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(SkulkError, match="another process"):
            ensure("toy", tmp_path / "engines", deadline_seconds=0.01)


def test_an_installer_that_hangs_is_ended_at_the_deadline(toy: Path, tmp_path: Path) -> None:
    hanging = tmp_path / "uv"
    hanging.write_text("#!/bin/sh\nexec sleep 600\n")
    hanging.chmod(0o755)
    with pytest.raises(SkulkError, match="at its deadline"):
        ensure("toy", tmp_path / "engines", uv=str(hanging), deadline_seconds=0.2)


def test_an_installer_ends_when_it_is_told_to_and_takes_its_children_along(toy: Path, tmp_path: Path) -> None:
    stop = threading.Event()
    slow = tmp_path / "uv"
    # The child holds the output open: without it ending, the reader would wait for the whole ten minutes.
    slow.write_text("#!/bin/sh\nsleep 600 &\necho begun $!\nwait\n")
    slow.chmod(0o755)
    children: list[int] = []

    def progress(line: str) -> None:
        if line.startswith("begun"):
            children.append(int(line.split()[1]))
            stop.set()

    with pytest.raises(SkulkError, match="was stopped") as caught:
        ensure("toy", tmp_path / "engines", uv=str(slow), progress=progress, stop=stop)
    assert caught.value.code is ENG_INSTALL
    assert len(children) == 1
    assert discover(tmp_path / "engines") == environments.Discovery()


# --- discovery and probing -------------------------------------------------------------------------------------


def fake_environment(
    engines: Path, name: str, script: str, engine: str = "mlx", digest: str = "d1"
) -> EngineEnvironment:
    """An environment whose interpreter is a shell script: what a broken or strange library may do."""
    environment = EngineEnvironment(engines / name, engine, "1", "x", digest, "r")
    environment.python.parent.mkdir(parents=True)
    environment.python.write_text("#!/bin/sh\n" + textwrap.dedent(script))
    environment.python.chmod(0o755)
    (environment.path / "engine.json").write_text(marker_text(environment))
    return environment


@pytest.mark.parametrize("marker", ["", "{", "[]", '{"engine": "mlx"}', '{"engine": 1}'])
def test_a_damaged_marker_is_a_problem_of_one_line(tmp_path: Path, marker: str) -> None:
    good = fake_environment(tmp_path, "good", "exit 0")
    bad = fake_environment(tmp_path, "bad", "exit 0")
    (bad.path / "engine.json").write_text(marker)
    found = discover(tmp_path)
    assert found.environments == (good,)
    assert len(found.problems) == 1
    assert found.problems[0].startswith("bad: ")


def test_an_environment_without_its_python_is_a_problem(tmp_path: Path) -> None:
    environment = fake_environment(tmp_path, "gone", "exit 0")
    environment.python.unlink()
    assert "its Python is gone" in discover(tmp_path).problems[0]


def test_a_linked_directory_is_no_environment(tmp_path: Path) -> None:
    environment = fake_environment(tmp_path / "elsewhere", "mlx-1-x", "exit 0")
    (tmp_path / "engines").mkdir()
    (tmp_path / "engines" / "mlx-1-x").symlink_to(environment.path)
    assert discover(tmp_path / "engines").environments == ()


@pytest.mark.parametrize(
    ("script", "says"),
    [
        ("echo 'ImportError: no metal' >&2; exit 1", "ImportError: no metal"),
        ("kill -SEGV $$", "-11"),
        ("exec sleep 600", "no answer within"),
        ("sleep 600 & wait", "no answer within"),
        ("exit 0", "cannot be read"),
        ("echo hello", "cannot be read"),
        ('echo \'{"engine": "other", "version": "1", "devices": []}\'', "about engine 'other'"),
        ('echo \'{"engine": "mlx", "version": 1, "devices": []}\'', "version is not a text"),
        (
            'echo \'{"engine": "mlx", "version": "1", "devices": [{"compute": "cpu", "memoryBytes": -1}]}\'',
            "memoryBytes",
        ),
        ("exec cat /dev/zero", "longer than"),
        ("exec cat /dev/zero >&2", "no answer within"),
    ],
)
def test_a_broken_environment_is_a_problem_of_one_line(tmp_path: Path, script: str, says: str) -> None:
    environment = fake_environment(tmp_path, "mlx-1-x", script)
    result = asyncio.run(
        probe(environment, tmp_path, deadline_seconds=2.0 if "600" in script or ">&2" in script[-4:] else 60.0)
    )
    assert result.builds == ()
    assert says in result.problem
    assert "\n" not in result.problem
    assert result.problem.startswith("mlx-1-x: ")


ANSWER = {
    "engine": "mlx",
    "version": "0.32",
    "devices": [
        {"compute": "metal", "name": "M9", "memoryBytes": 7, "unified": True},
        {"compute": "cpu", "name": "", "memoryBytes": None, "unified": True},
    ],
}


def test_each_device_is_a_build_named_by_engine_and_compute(tmp_path: Path) -> None:
    environment = fake_environment(tmp_path, "mlx-1-x", f"echo '{json.dumps(ANSWER)}'")
    result = asyncio.run(probe(environment, tmp_path))
    assert result.problem == ""
    assert [build.backend for build in result.builds] == ["mlx-metal", "mlx-cpu"]
    assert {build.digest for build in result.builds} == {"d1"}
    assert (result.builds[0].device, result.builds[0].device_memory_bytes) == ("M9", 7)
    assert (result.builds[0].version, result.builds[0].unified) == ("0.32", True)


def test_the_catalogue_follows_the_directory_and_probes_each_environment_once(tmp_path: Path) -> None:
    engines, calls = tmp_path / "engines", tmp_path / "calls"
    script = f"echo x >> {calls}; echo '{json.dumps(ANSWER)}'"

    async def main() -> None:
        catalogue = EngineCatalogue(engines, tmp_path, ["mlx"])
        assert await catalogue.builds() == ((), ())
        first = fake_environment(engines, "mlx-1-x", script)
        assert len((await catalogue.builds())[0]) == 2
        assert len((await catalogue.builds())[0]) == 2
        assert calls.read_text() == "x\n"
        fake_environment(engines, "mlx-2-x", script, digest="d2")
        both = await asyncio.gather(catalogue.builds(), catalogue.builds())
        assert [len(builds) for builds, _ in both] == [4, 4]
        assert calls.read_text() == "x\nx\n"
        shutil.rmtree(first.path)
        assert {build.digest for build in (await catalogue.builds())[0]} == {"d2"}

    asyncio.run(main())


def test_a_failed_probe_is_told_and_tried_again_later(tmp_path: Path) -> None:
    broken = tmp_path / "broken"
    broken.touch()
    script = f"test -e {broken} && exit 3; echo '{json.dumps(ANSWER)}'"
    fake_environment(tmp_path / "engines", "mlx-1-x", script)
    now = 0.0

    async def main() -> None:
        nonlocal now
        catalogue = EngineCatalogue(tmp_path / "engines", tmp_path, ["mlx"], clock=lambda: now)
        assert "the probe failed (3)" in (await catalogue.builds())[1][0]
        broken.unlink()
        assert (await catalogue.builds())[1], "not at once"
        now = 61.0
        builds, problems = await catalogue.builds()
        assert len(builds) == 2
        assert problems == ()

    asyncio.run(main())


def launch(engine: str, digest: str) -> Launch:
    return Launch(
        PlacementUid("p1"), DeploymentName("d"), 0, CardName("c"), engine, f"{engine}-cpu", digest, "", 1, 1,
        LaunchHash("l"), ContentHash("c"), 1,
    )  # fmt: skip


def test_a_launch_finds_the_interpreter_of_its_build(tmp_path: Path) -> None:
    environment = fake_environment(tmp_path, "mlx-1-x", "exit 0")
    fake_environment(tmp_path, "mlx-2-x", "exit 0", digest="d2")
    catalogue = EngineCatalogue(tmp_path, tmp_path, ["mlx"], scripted=True)
    assert catalogue.python_for(launch("mlx", "d1")) == environment.python
    assert catalogue.python_for(launch("scripted", "builtin")) == Path(sys.executable)
    with pytest.raises(SkulkError) as caught:
        catalogue.python_for(launch("mlx", "other"))
    assert caught.value.code is ENG_MISSING


def test_of_a_shared_directory_a_node_offers_only_its_own_engines(tmp_path: Path) -> None:
    fake_environment(tmp_path, "mlx-1-x", f"echo '{json.dumps(ANSWER)}'")

    async def main() -> None:
        catalogue = EngineCatalogue(tmp_path, tmp_path, ["llama_cpp"])
        assert await catalogue.builds() == ((), ())
        with pytest.raises(SkulkError):
            catalogue.python_for(launch("mlx", "d1"))
        catalogue.engines = ["llama_cpp", "mlx"]
        assert len((await catalogue.builds())[0]) == 2
        catalogue.python_for(launch("mlx", "d1"))

    asyncio.run(main())


def test_the_scripted_engine_is_offered_only_when_asked_for(tmp_path: Path) -> None:
    async def backends(scripted: bool) -> list[str]:
        builds, _ = await EngineCatalogue(tmp_path, tmp_path, [], scripted=scripted).builds()
        return [build.backend for build in builds]

    assert asyncio.run(backends(False)) == []
    assert asyncio.run(backends(True)) == ["scripted-cpu"]
    with pytest.raises(SkulkError):
        EngineCatalogue(tmp_path, tmp_path, []).python_for(launch("scripted", "builtin"))


def test_the_real_probe_script_answers_for_the_scripted_engine(tmp_path: Path) -> None:
    code_dir = place_runner_code(tmp_path)
    environment = EngineEnvironment(tmp_path / "env", "scripted", "1", "x", "d", "r")
    environment.python.parent.mkdir(parents=True)
    environment.python.symlink_to(sys.executable)
    result = asyncio.run(probe(environment, code_dir))
    assert result.problem == ""
    assert [build.backend for build in result.builds] == ["scripted-cpu"]


@pytest.mark.engine
def test_the_real_mlx_environment_is_installed_and_probed(tmp_path: Path) -> None:
    if os.environ.get("SKULK_TEST_INSTALL_ENGINES") != "1":
        pytest.skip("SKULK_TEST_INSTALL_ENGINES=1 allows installing mlx (300 MB)")
    environment = ensure("mlx", tmp_path / "engines")
    result = asyncio.run(probe(environment, place_runner_code(tmp_path / "engines")))
    assert result.problem == ""
    assert result.builds[0].backend in ("mlx-cpu", "mlx-metal")

"""The daemon's own log file: whole lines, a bounded number of bytes, and no fault of the disk that ends anything."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from threading import Thread

import pytest
import structlog

from skulk.core.errors import InvalidInput
from skulk.node.config import LogTable, load_config
from skulk.node.log_file import LogFile
from skulk.node.logs import configure

LINE_BYTES = 100


def line(number: int) -> str:
    return json.dumps({"n": number}).ljust(LINE_BYTES - 1) + "\n"


def numbers(file: Path) -> list[int]:
    return [json.loads(text)["n"] for text in file.read_text().splitlines()]


def test_it_is_renamed_before_it_grows_too_large_and_only_some_are_kept(tmp_path: Path):
    file = tmp_path / "logs" / "skulk.log"
    log = LogFile(file, bytes_max=3 * LINE_BYTES, keep=2)
    for number in range(10):
        log.write(line(number))
    assert sorted(path.name for path in file.parent.iterdir()) == ["skulk.log", "skulk.log.1", "skulk.log.2"]
    assert [numbers(Path(f"{file}{end}")) for end in ("", ".1", ".2")] == [[9], [6, 7, 8], [3, 4, 5]]


def test_a_line_larger_than_a_file_has_one_to_itself(tmp_path: Path):
    log = LogFile(tmp_path / "log", bytes_max=50, keep=3)
    log.write(line(1))
    log.write(line(2))
    assert (numbers(tmp_path / "log"), numbers(tmp_path / "log.1")) == ([2], [1])


def test_a_daemon_that_starts_again_goes_on_where_the_last_one_was(tmp_path: Path):
    for number in range(4):
        LogFile(tmp_path / "log", bytes_max=3 * LINE_BYTES, keep=1).write(line(number))
    assert (numbers(tmp_path / "log"), numbers(tmp_path / "log.1")) == ([3], [0, 1, 2])


def test_what_others_renamed_is_left_to_them(tmp_path: Path):
    file = tmp_path / "log"
    log = LogFile(file, bytes_max=2**20, keep=1)
    log.write(line(1))
    file.rename(tmp_path / "taken")
    log.write(line(2))
    assert (numbers(tmp_path / "taken"), numbers(file)) == ([1], [2])


def test_a_directory_that_was_removed_is_made_again(tmp_path: Path):
    file = tmp_path / "logs" / "log"
    log = LogFile(file, bytes_max=2**20, keep=1)
    log.write(line(1))
    shutil.rmtree(file.parent)
    log.write(line(2))
    assert numbers(file) == [2]


def test_a_place_that_cannot_be_written_is_told_once_and_again_when_it_can(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
):
    (tmp_path / "logs").write_text("a file, where a directory should be")
    log = LogFile(tmp_path / "logs" / "log", bytes_max=2**20, keep=1)
    for number in range(3):
        log.write(line(number))
    told = capfd.readouterr().err.splitlines()
    assert len(told) == 1
    assert "cannot be written" in told[0]
    (tmp_path / "logs").unlink()
    log.write(line(3))
    assert numbers(tmp_path / "logs" / "log") == [3]
    assert "3 lines are missing" in capfd.readouterr().err


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    place = tmp_path / "disk"
    place.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=64k", "none", str(place)]
    if sys.platform != "linux" or os.getuid() != 0 or subprocess.run(command, check=False).returncode != 0:
        pytest.skip("a small file system cannot be mounted (root on Linux can)")
    yield place
    subprocess.run(["umount", "-l", str(place)], check=True)


def test_a_full_disk_drops_whole_lines_and_ends_nothing(small_disk: Path, capfd: pytest.CaptureFixture[str]):
    file = small_disk / "log"
    log = LogFile(file, bytes_max=2**20, keep=1)
    log.write(line(0))
    (small_disk / "filler").write_bytes(b"0" * (52 * 1024))
    for number in range(1, 200):
        log.write(line(number))
    assert numbers(file) == list(range(len(numbers(file))))
    assert len(capfd.readouterr().err.splitlines()) == 1
    (small_disk / "filler").unlink()
    log.write(line(200))
    assert numbers(file)[-1] == 200


def test_threads_do_not_mix_their_lines(tmp_path: Path):
    log = LogFile(tmp_path / "log", bytes_max=20 * LINE_BYTES, keep=100)
    threads = [
        Thread(target=lambda base=base: [log.write(line(base + n)) for n in range(100)]) for base in (0, 100, 200)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(n for file in tmp_path.iterdir() for n in numbers(file)) == list(range(300))


# --- as node.toml says it -----------------------------------------------------------------------------------


@pytest.fixture
def restored() -> Iterator[None]:
    yield
    structlog.reset_defaults()


def test_the_log_of_a_process_goes_to_the_file_and_nowhere_else(
    tmp_path: Path, restored: None, capfd: pytest.CaptureFixture[str]
):
    table = LogTable(file=tmp_path / "skulk.log")
    configure("node-1", "info", table)
    structlog.get_logger(component="test").info("first", path="/ü")
    configure("node-1", "warning", table)
    structlog.get_logger(component="test").info("not_said")
    structlog.get_logger(component="test").warning("second")
    found = [json.loads(text) for text in (tmp_path / "skulk.log").read_text().splitlines()]
    assert [(entry["event"], entry["node"], entry["level"]) for entry in found] == [
        ("first", "node-1", "info"),
        ("second", "node-1", "warning"),
    ]
    assert capfd.readouterr() == ("", "")


def config(tmp_path: Path, log: str) -> LogTable:
    (tmp_path / "node.toml").write_text(f'name = "n"\n[source]\nurl = "/r"\n[log]\n{log}\n')
    return load_config(tmp_path / "node.toml", {}).log


def test_sizes_are_written_like_others_and_the_path_is_relative_to_the_file(tmp_path: Path):
    table = config(tmp_path, 'file = "logs/skulk.log"\nmaxBytes = "8MiB"\nkeep = 2')
    assert (table.file, table.max_bytes, table.keep) == (tmp_path / "logs/skulk.log", 8 * 2**20, 2)
    assert config(tmp_path, "keep = 9").file is None


@pytest.mark.parametrize("log", ['maxBytes = "many"', "maxBytes = 1", "keep = 0", "file = 3", 'path = "x"'])
def test_what_makes_no_sense_is_refused_by_its_key(tmp_path: Path, log: str):
    with pytest.raises(InvalidInput, match=f"log.{log.split()[0]}"):
        config(tmp_path, log)

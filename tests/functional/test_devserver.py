"""`make run`: what `python -m devserver` starts, prints, refuses and leaves."""

import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from urllib.request import urlopen

import psutil
import pytest

ROOT = Path(__file__).resolve().parents[2]

Run = Callable[..., subprocess.Popen[str]]


@pytest.fixture
def run(environ: Mapping[str, str]) -> Iterator[Run]:
    """Start it as on a fresh machine: no Redis of ours, an empty database."""
    started: list[subprocess.Popen[str]] = []

    def start(**more: str) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-m", "devserver"],
            cwd=ROOT,
            env={"PATH": os.environ["PATH"], **environ, "REDIS_URL": "", **more},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        started.append(process)
        return process

    yield start
    for process in started:
        with suppress(ProcessLookupError):
            process.terminate()
        process.communicate(timeout=30)


@pytest.fixture
def port() -> str:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return str(probe.getsockname()[1])


def _read_until(process: subprocess.Popen[str], pattern: str) -> str:
    assert process.stdout is not None
    read = ""
    for line in process.stdout:
        read += line
        if re.search(pattern, line):
            return read
    raise AssertionError(f"ended before {pattern}: {read}{process.communicate()[1]}")


def _family(process: subprocess.Popen[str]) -> list[psutil.Process]:
    return psutil.Process(process.pid).children(recursive=True)


def test_it_prints_the_address_and_the_link_for_the_first_admin(
    run: Run, port: str, empty_database_url: str
) -> None:
    process = run(PORT=port, DATABASE_URL=empty_database_url)
    output = _read_until(process, r"/setup/")
    assert f"Keystay is at http://127.0.0.1:{port} " in output
    link = re.search(rf"http://127\.0\.0\.1:{port}/setup/\S{{20,}}", output)
    assert link is not None
    assert urlopen(link[0], timeout=10).status == 200
    assert urlopen(f"http://127.0.0.1:{port}/readyz", timeout=10).status == 200


@pytest.mark.parametrize("database_kind", ["sqlite"])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_all_of_it(run: Run, port: str, number: signal.Signals) -> None:
    process = run(PORT=port)
    _read_until(process, "Keystay is at")
    family = _family(process)
    commands = [" ".join(child.cmdline()) for child in family]
    for program in ("redis-server", "gunicorn", "worker.py"):
        assert any(program in command for command in commands)
    process.send_signal(number)
    assert process.wait(30) == 0
    _gone, alive = psutil.wait_procs(family, timeout=2)
    assert [child for child in alive if child.status() != psutil.STATUS_ZOMBIE] == []


@pytest.mark.parametrize("database_kind", ["sqlite"])
def test_when_the_worker_dies_the_rest_ends_with_an_error(run: Run, port: str) -> None:
    process = run(PORT=port)
    _read_until(process, "Keystay is at")
    worker = next(c for c in _family(process) if "worker.py" in c.cmdline())
    worker.kill()
    _, errors = process.communicate(timeout=30)
    assert process.returncode == 1
    assert "worker ended by itself" in errors
    with pytest.raises(OSError, match="refused"):
        socket.create_connection(("127.0.0.1", int(port)), timeout=1)


@pytest.mark.parametrize("database_kind", ["sqlite"])
def test_a_taken_port_is_one_line_before_anything_starts(
    run: Run, port: str, tmp_path: Path
) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", int(port)))
        taken.listen()
        process = run(PORT=port, INSTANCE_DIR=str(tmp_path / "unused"))
        output, errors = process.communicate(timeout=20)
    assert process.returncode == 1
    assert errors.count("\n") == 1
    assert f"127.0.0.1:{port}" in errors
    assert output == ""
    assert not (tmp_path / "unused").exists()


@pytest.mark.parametrize("database_kind", ["sqlite"])
@pytest.mark.parametrize(
    ("name", "value"), [("PORT", "eighty"), ("SIGNUP", "perhaps"), ("MASTER_KEYS", "k1:short")]
)
def test_an_invalid_setting_is_one_line_with_its_name_and_2(
    run: Run, port: str, name: str, value: str
) -> None:
    process = run(**{"PORT": port, name: value})
    _, errors = process.communicate(timeout=20)
    assert process.returncode == 2
    assert errors.count("\n") == 1
    assert name in errors


@pytest.mark.parametrize("database_kind", ["sqlite"])
def test_the_next_start_finds_the_port_free(run: Run, port: str) -> None:
    for _ in range(2):
        process = run(PORT=port)
        _read_until(process, "Keystay is at")
        process.terminate()
        assert process.wait(30) == 0
        time.sleep(0.1)

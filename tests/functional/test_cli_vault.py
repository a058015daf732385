"""`flask vault generate-key`: a line for the key file, before there is any setting."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from webapp.config import ROOT
from webapp.crypto.keyring import Keyring


@pytest.fixture
def instance(tmp_path: Path) -> Path:
    return tmp_path / "instance"


def flask(
    instance: Path, *arguments: str, environment: str = "production"
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "flask", *arguments],
        cwd=ROOT,
        env={
            "PATH": os.environ["PATH"],
            "KEYSTAY_ENV": environment,
            "INSTANCE_DIR": str(instance),
        },
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.mark.parametrize("environment", ["production", "development"])
def test_it_prints_one_new_key_alone(instance: Path, environment: str) -> None:
    made = [flask(instance, "vault", "generate-key", environment=environment) for _ in range(2)]
    for result in made:
        assert result.returncode == 0, result.stderr
        assert len(result.stdout.splitlines()) == 1
        assert result.stdout.startswith("k20")
    assert len({Keyring.parse(result.stdout).active.secret for result in made}) == 2


def test_its_id_can_be_chosen_and_must_be_valid(instance: Path) -> None:
    named = flask(instance, "vault", "generate-key", "--id", "k7", "--json")
    answer = json.loads(named.stdout)
    assert answer["id"] == Keyring.parse(answer["master_key"]).active.id == "k7"
    refused = flask(instance, "vault", "generate-key", "--id", "k:7")
    assert refused.returncode == 2
    assert refused.stdout == ""


@pytest.mark.parametrize("command", [("users", "list"), ("db", "upgrade"), ("vault", "status")])
def test_every_other_command_needs_its_settings(instance: Path, command: tuple[str, ...]) -> None:
    result = flask(instance, *command)
    assert result.returncode == 2
    assert result.stderr.startswith("keystay: ")
    assert len(result.stderr.strip().splitlines()) == 1

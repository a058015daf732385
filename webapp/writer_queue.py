"""The queue in front of a SQLite file: its writers go in one after the other, none starves."""

import fcntl
import os
import time

_GIVE_UP_SECONDS = 10.0
_LONGEST_PAUSE = 0.003
_SHORTEST_PAUSE = 0.0003
_IMPATIENCE = 0.03


class WriterQueue:
    """A lock beside the database file, between processes and between threads.

    SQLite's own busy handler asks less and less often, so that an unlucky writer starves for
    seconds. Here whoever has waited longer asks more often. The lock orders writers and no more:
    who has waited for ten seconds goes on without it, and SQLite decides (`database is locked`).
    The kernel drops the lock of a process that dies.
    """

    def __init__(self, path: str) -> None:
        self._path = path
        self._descriptor: int | None = None

    def enter(self) -> None:
        """Wait for the turn. `leave` must follow, whether there was a turn or not."""
        self.leave()
        self._descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT, 0o600)
        began = time.monotonic()
        while not self._try():
            waited = time.monotonic() - began
            if waited > _GIVE_UP_SECONDS:
                return
            time.sleep(max(_SHORTEST_PAUSE, _LONGEST_PAUSE - _IMPATIENCE * waited))

    def leave(self) -> None:
        """Let the next one in. Does nothing outside of a turn."""
        if self._descriptor is not None:
            descriptor, self._descriptor = self._descriptor, None
            # A child that was forked meanwhile has the descriptor too: closing ours is not enough.
            fcntl.flock(descriptor, fcntl.LOCK_UN)
            os.close(descriptor)

    def _try(self) -> bool:
        assert self._descriptor is not None  # noqa: S101 - for the type checker
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True

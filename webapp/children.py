"""Forked processes: the signals they begin with, and their end when the parent is gone."""

import ctypes
import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager, suppress

SIGNALS = (signal.SIGINT, signal.SIGTERM)
_PR_SET_PDEATHSIG = 1


@contextmanager
def signals_held() -> Iterator[None]:
    """Hold signals back while the block forks: the child must not meet one with its parent's
    handlers. The child calls `begin` once it has its own.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def begin(parent: int, *, end: signal.Signals = signal.SIGTERM) -> None:
    """In the child: let signals in, and have the kernel send `end` when `parent` is gone.

    The latter on Linux only, see prctl(2); elsewhere an orphan is kept from doing harm by its lease
    alone.
    """
    signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, int(end), 0, 0, 0)
    if os.getppid() != parent:  # it went before the kernel was asked
        signal.raise_signal(end)

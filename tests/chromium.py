"""The Chromium of the browser tests: where it is, and `python -m tests.chromium` to get one."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

from playwright.sync_api import sync_playwright

_NAMES = ("chromium-headless-shell", "chromium", "chromium-browser", "google-chrome")
# Without windows it needs a good third less of processor time than the whole browser.
_DEBIAN_PACKAGES = ("chromium-headless-shell", "fonts-dejavu-core")
_INSTALL_SECONDS = 600


def find() -> Path | None:
    """Return an installed Chromium: the system's, else Playwright's own."""
    for name in _NAMES:
        found = shutil.which(name)
        if found:
            return Path(found)
    with sync_playwright() as playwright:
        own = Path(playwright.chromium.executable_path)
    return own if own.exists() else None


def main() -> int:
    """Install one if there is none. 1 only with CI=true, where the browser tests must run."""
    if find():
        return 0
    print("Installing Chromium for the browser tests ...", flush=True)
    output = "".join(_install())
    if find():
        return 0
    if os.environ.get("CI") == "true":
        print(output[-4000:], file=sys.stderr)
        print("Chromium could not be installed: the browser tests cannot run", file=sys.stderr)
        return 1
    print("Chromium could not be installed: the browser tests are skipped")
    return 0


def _install() -> list[str]:
    """Try Debian's package where apt and root are there, then Playwright's build."""
    output = []
    if shutil.which("apt-get") and os.geteuid() == 0:
        output.append(_run("apt-get", "update"))
        output.append(
            _run("apt-get", "install", "-y", "--no-install-recommends", *_DEBIAN_PACKAGES)
        )
        if find():
            return output
    return [*output, _run(sys.executable, "-m", "playwright", "install", "chromium")]


def _run(*command: str) -> str:
    try:
        done = subprocess.run(
            command,
            env={**os.environ, "DEBIAN_FRONTEND": "noninteractive"},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=_INSTALL_SECONDS,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"{error}\n"
    return done.stdout


if __name__ == "__main__":
    sys.exit(main())

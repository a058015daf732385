"""Third-party files in `static/vendor` are exactly the released ones that its README names."""

import hashlib
import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
VENDOR = ROOT / "static" / "vendor"
ROW = re.compile(r"^\| `(?P<name>[^`]+)` \|.*\| `(?P<digest>[0-9a-f]{64})` \|$", re.MULTILINE)


def declared() -> dict[str, str]:
    return {row["name"]: row["digest"] for row in ROW.finditer((VENDOR / "README.md").read_text())}


def test_every_vendored_script_has_the_declared_hash() -> None:
    actual = {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in VENDOR.glob("*.js")}
    assert actual == declared()


def test_pages_load_the_vendored_scripts() -> None:
    base = (ROOT / "templates" / "base.html").read_text()
    for name in declared():
        assert f"vendor/{name}" in base

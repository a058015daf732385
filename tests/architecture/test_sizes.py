"""Files and functions stay small enough to be read at once."""

import ast
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
FOLDERS = ("webapp", "devserver", "migrations", "tests", "benchmarks")


def _sources() -> Iterator[Path]:
    yield from ROOT.glob("*.py")
    for folder in FOLDERS:
        yield from (ROOT / folder).rglob("*.py")


def _functions(path: Path) -> Iterator[tuple[str, int]]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            assert node.end_lineno is not None
            yield f"{path.relative_to(ROOT)}:{node.name}", node.end_lineno - node.lineno + 1


def test_a_file_has_at_most_400_lines_and_a_conftest_200() -> None:
    lengths = {path: len(path.read_text(encoding="utf-8").splitlines()) for path in _sources()}
    assert {
        str(path.relative_to(ROOT)): lines
        for path, lines in lengths.items()
        if lines > (200 if path.name == "conftest.py" else 400)
    } == {}


def test_a_function_has_at_most_50_lines_and_a_view_25() -> None:
    """A migration is exempt: it is one list of steps."""
    assert {
        name: lines
        for path in _sources()
        if path.parent.name != "versions"
        for name, lines in _functions(path)
        if lines > (25 if "blueprints" in path.parts else 50)
    } == {}


def test_no_module_has_a_name_that_says_nothing() -> None:
    nothing = {"utils", "util", "helpers", "common", "misc", "manager"}
    assert [path for path in _sources() if path.stem in nothing] == []

"""What the style guide promises and no linter checks."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import clip_pipeline

PACKAGE = Path(clip_pipeline.__file__).parent
ROOT = PACKAGE.parent
MAX_LINES = 400
HEAVY = {"torch", "transformers", "faiss", "dagster", "sqlalchemy", "fastapi"}
# Imported by every process, the quick ones too; the ledger may add what it is made of.
LIGHT = {"core": set(), "settings": set(), "samples": set(), "ledger": {"sqlalchemy"}}

SOURCES = sorted(
    path
    for folder in ("clip_pipeline", "clip_pipeline_tests", "benchmarks", "tools")
    for path in (ROOT / folder).rglob("*.py")
)


def modules_of(name: str) -> list[str]:
    """The dotted names of a module, or of every module of a package, migrations (run by Alembic) excepted."""
    path = PACKAGE / name
    files = sorted(path.rglob("*.py")) if path.is_dir() else [path.with_suffix(".py")]
    dotted = (".".join(file.relative_to(ROOT).with_suffix("").parts) for file in files)
    return [module.removesuffix(".__init__") for module in dotted if ".migrations." not in module]


@pytest.mark.parametrize("name", LIGHT)
def test_light_modules_import_nothing_heavy(name):
    code = f"import sys, {', '.join(modules_of(name))}; print(*sys.modules)"
    child = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=60)
    assert child.returncode == 0, child.stderr
    assert HEAVY & set(child.stdout.split()) <= LIGHT[name]


def test_every_file_stays_under_the_limit_of_lines():
    lines = {str(path.relative_to(ROOT)): len(path.read_text().splitlines()) for path in SOURCES}
    assert lines
    assert {path: count for path, count in lines.items() if count > MAX_LINES} == {}


def test_no_module_is_a_drawer_for_anything():
    assert [str(path) for path in SOURCES if path.stem in {"utils", "helpers", "common"}] == []


def test_package_files_hold_a_docstring_and_nothing_else():
    for path in SOURCES:
        if path.name != "__init__.py":
            continue
        docstring, *rest = ast.parse(path.read_text()).body
        assert isinstance(docstring, ast.Expr), path
        allowed = ["__version__"] if path.parent == PACKAGE else []
        assert [ast.unparse(node).partition(" =")[0] for node in rest] == allowed, path


def test_every_module_says_what_belongs_in_it():
    assert [str(path) for path in SOURCES if not ast.get_docstring(ast.parse(path.read_text()))] == []

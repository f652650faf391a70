"""How files are found by their paths, on each database by an index that takes a path of any length.

SQLite indexes the path itself. PostgreSQL refuses an index entry beyond a third of a page, and with it every row of the
statement, so its index holds the first characters of each path, and of a longer one the SHA-256 too, which keeps it
unique. What is written here compares or sorts by the path alone, and says it to PostgreSQL in words of that index too.
"""

from collections.abc import Sequence
from typing import Any, TypeAlias

from sqlalchemy import ColumnElement, Text, and_, func, literal, literal_column, true
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.sql.functions import FunctionElement

from clip_pipeline.ledger.engines import POSTGRESQL

HEAD_CHARACTERS = 500
"""As the migration that makes the index has it. Four bytes each at most; an index entry may have 2,704."""

Condition: TypeAlias = ColumnElement[bool]
_Path: TypeAlias = ColumnElement[str]


class _OnPostgresql(FunctionElement[Any]):
    """The first of two expressions on PostgreSQL, the second anywhere else."""

    inherit_cache = True


@compiles(_OnPostgresql)
def _second(element: _OnPostgresql, compiler: SQLCompiler, **options: Any) -> str:
    return compiler.process(element.clauses.clauses[1], **options)


@compiles(_OnPostgresql, POSTGRESQL)
def _first(element: _OnPostgresql, compiler: SQLCompiler, **options: Any) -> str:
    return compiler.process(element.clauses.clauses[0].self_group(), **options)


def same_path(one: _Path, other: _Path | str) -> Condition:
    """True where two paths are equal."""
    text = _text(other)
    return and_(one == text, _also(_head(one) == _head(text)))


def path_among(path: _Path, texts: Sequence[str]) -> Condition:
    """True of a path that is one of some."""
    return and_(path.in_(texts), _also(_head(path).in_([text[:HEAD_CHARACTERS] for text in texts])))


def path_between(path: _Path, first: str, beyond: str | None) -> Condition:
    """True of `first` and what comes after it, up to and without `beyond`, which may be no limit."""
    after = and_(path >= first, _also(_head(path) >= _head(_text(first))))
    return after if beyond is None else and_(after, path < beyond, _also(_head(path) <= _head(_text(beyond))))


def by_path(path: _Path) -> tuple[ColumnElement[Any], ...]:
    """What to sort by."""
    return _OnPostgresql(_head(path), path), path


def _also(condition: Condition) -> Condition:
    """What follows from the rest of a condition, and tells PostgreSQL which part of the index to look at."""
    return _OnPostgresql(condition, true())


def _head(path: _Path) -> ColumnElement[str]:
    return func.left(path, literal_column(str(HEAD_CHARACTERS)))


def _text(path: _Path | str) -> _Path:
    return literal(path, Text()) if isinstance(path, str) else path

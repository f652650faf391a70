"""Label sets in the ledger: created in versions that never change, and the one of them that is in use."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace

from sqlalchemy import Connection, RowMapping, Select, insert, select, true, update

from clip_pipeline.core.errors import NotFoundError
from clip_pipeline.core.everyday import everyday_labels
from clip_pipeline.core.label_set import LabelSet, named_label_set
from clip_pipeline.ledger.database import Ledger, utc_now
from clip_pipeline.ledger.schema import label_sets

_table = label_sets.c


@dataclass(frozen=True, slots=True)
class StoredLabelSet:
    """A version of a label set, when it was created, and whether requests without labels get it."""

    label_set: LabelSet
    created_at: str
    in_use: bool


def create_label_set(ledger: Ledger, name: str, *, labels: Sequence[str], templates: Sequence[str]) -> LabelSet:
    """The next version of a label set, or its newest where that has the same labels and templates.

    Raises:
        QueryError: the name, a label or a template cannot be used.
    """
    with ledger.write() as connection:
        newest = connection.execute(_newest(name)).mappings().first()
        version = 1 if newest is None else int(newest["version"]) + 1
        created = named_label_set(name, labels, templates=templates, version=version)
        if newest is not None and newest["digest"] == created.digest:
            return _stored(newest).label_set
        connection.execute(
            insert(label_sets).values(
                name=name, version=version, labels=json.dumps(created.labels, ensure_ascii=False),
                templates=json.dumps(created.templates, ensure_ascii=False), digest=created.digest,
                created_at=utc_now(), in_use=False,
            )
        )  # fmt: skip
    return created


def list_label_sets(ledger: Ledger) -> list[StoredLabelSet]:
    """Every version of every label set, by name, the newest version first."""
    with ledger.read() as connection:
        rows = connection.execute(select(label_sets).order_by(_table.name, _table.version.desc())).mappings()
        return [_stored(row) for row in rows]


def show_label_set(ledger: Ledger, name: str, *, version: int | None = None) -> StoredLabelSet:
    """One version of a label set, the newest unless `version` names it.

    Raises:
        NotFoundError: there is none of that name, or none of that version.
    """
    with ledger.read() as connection:
        return _stored(_chosen(connection, name, version=version))


def use_label_set(ledger: Ledger, name: str, *, version: int | None = None) -> LabelSet:
    """Put one version of a label set, the newest unless `version` names it, in use in place of any other.

    Raises:
        NotFoundError: there is none of that name, or none of that version.
    """
    with ledger.write() as connection:
        chosen = _stored(_chosen(connection, name, version=version)).label_set
        connection.execute(update(label_sets).where(_table.in_use == true()).values(in_use=False))
        this = (_table.name == chosen.name) & (_table.version == chosen.version)
        connection.execute(update(label_sets).where(this).values(in_use=True))
    return chosen


def label_set_in_use(ledger: Ledger) -> LabelSet | None:
    """The label set that was put in use last, None where none ever was."""
    with ledger.read() as connection:
        return _in_use(connection)


def current_label_set(ledger: Ledger) -> LabelSet:
    """The label set for requests without labels of their own: the one in use, else `everyday`, kept from now on."""
    default = everyday_labels()
    with ledger.read() as connection:
        in_use = _in_use(connection)
        if in_use is not None:
            return in_use
        kept = connection.execute(_newest(default.name)).mappings().first()
    if kept is not None and kept["digest"] == default.digest:  # searches ask: they must not queue behind writers
        return replace(default, version=kept["version"])
    return create_label_set(ledger, default.name, labels=default.labels, templates=default.templates)


def _in_use(connection: Connection) -> LabelSet | None:
    row = connection.execute(select(label_sets).where(_table.in_use == true())).mappings().one_or_none()
    return None if row is None else _stored(row).label_set


def _newest(name: str) -> Select[tuple[object, ...]]:
    return select(label_sets).where(_table.name == name).order_by(_table.version.desc()).limit(1)


def _chosen(connection: Connection, name: str, *, version: int | None) -> RowMapping:
    query = _newest(name) if version is None else _newest(name).where(_table.version == version)
    row = connection.execute(query).mappings().first()
    if row is None:
        what = f"label set {name[:64]!a}" if version is None else f"version {version} of label set {name[:64]!a}"
        raise NotFoundError(f"no {what}; `clip-pipeline labels list` shows those there are")
    return row


def _stored(row: RowMapping) -> StoredLabelSet:
    labels, templates = tuple(json.loads(row["labels"])), tuple(json.loads(row["templates"]))
    return StoredLabelSet(LabelSet(row["name"], row["version"], labels, templates), row["created_at"], row["in_use"])

"""Label sets in the ledger: versions that never change, and one in use."""

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from clip_pipeline.core.errors import NotFoundError, QueryError
from clip_pipeline.core.label_set import LabelSet
from clip_pipeline.ledger.label_sets import (
    create_label_set,
    current_label_set,
    label_set_in_use,
    list_label_sets,
    show_label_set,
    use_label_set,
)

TEMPLATES = ("a photo of a {}", "a {}")


def create(ledger, name="pets", labels=("cat", "dog"), templates=TEMPLATES):
    return create_label_set(ledger, name, labels=labels, templates=templates)


def test_a_label_set_is_shown_as_it_was_created(ledger):
    created = create(ledger, labels=[" 猫", "dog", "Dog"])
    assert created == LabelSet("pets", 1, ("猫", "dog"), TEMPLATES)
    assert show_label_set(ledger, "pets").label_set == created


@pytest.mark.parametrize("change", [{"labels": ("dog", "cat")}, {"templates": ("a {}",)}])
def test_changed_content_is_the_next_version_and_the_same_content_is_the_same(ledger, change):
    first = create(ledger)
    assert create(ledger, labels=["cat ", "dog"]) == first
    second = create(ledger, **change)
    assert (second.version, first.digest != second.digest) == (2, True)
    # Back to the first content: a version of its own, so that the newest is always what was created last.
    third = create(ledger)
    assert (third.version, third.digest) == (3, first.digest)
    assert show_label_set(ledger, "pets").label_set == third
    assert show_label_set(ledger, "pets", version=1).label_set == first
    assert [(one.label_set.name, one.label_set.version) for one in list_label_sets(ledger)] == [
        ("pets", 3), ("pets", 2), ("pets", 1),
    ]  # fmt: skip


def test_at_most_one_version_of_one_label_set_is_in_use(ledger):
    assert label_set_in_use(ledger) is None
    first, birds = create(ledger), create(ledger, "birds")
    second = create(ledger, labels=["cat"])
    for chosen, asked in [
        (second, ("pets", None)),
        (birds, ("birds", None)),
        (first, ("pets", 1)),
        (first, ("pets", 1)),
    ]:
        assert use_label_set(ledger, asked[0], version=asked[1]) == chosen
        assert label_set_in_use(ledger) == chosen
        assert [one.label_set for one in list_label_sets(ledger) if one.in_use] == [chosen]


@pytest.mark.parametrize(("name", "version"), [("birds", None), ("pets", 2), ("pets", 0)])
def test_a_label_set_that_does_not_exist_is_an_error_and_changes_nothing(ledger, name, version):
    pets = create(ledger)
    use_label_set(ledger, "pets")
    for call in (show_label_set, use_label_set):
        with pytest.raises(NotFoundError, match="labels list"):
            call(ledger, name, version=version)
    assert label_set_in_use(ledger) == pets


def test_a_label_set_that_cannot_be_used_is_not_stored(ledger):
    with pytest.raises(QueryError, match="exactly one"):
        create(ledger, templates=["a photo"])
    assert list_label_sets(ledger) == []


def test_versions_created_at_once_get_numbers_of_their_own(ledger):
    together = threading.Barrier(6)

    def create_one(number):
        together.wait()
        return create(ledger, labels=[f"label {number}"]).version

    with ThreadPoolExecutor(6) as pool:
        assert sorted(pool.map(create_one, range(6))) == [1, 2, 3, 4, 5, 6]


def test_the_default_label_set_is_kept_once_and_then_read_while_others_write(ledger):
    default = current_label_set(ledger)
    assert [one.label_set for one in list_label_sets(ledger)] == [default]
    with ledger.write():  # whoever searches would wait for this one to end
        assert current_label_set(ledger) == default
    newer = create(ledger, name=default.name)
    assert (newer.version, current_label_set(ledger).version) == (2, 3)

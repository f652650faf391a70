"""The label set that comes with the software."""

from clip_pipeline.core.everyday import everyday_labels
from clip_pipeline.core.label_set import MAX_LABEL_CHARS


def test_it_has_about_a_thousand_labels_and_none_twice():
    everyday = everyday_labels()
    assert 900 <= len(everyday.labels) <= 1100
    assert len({label.casefold() for label in everyday.labels}) == len(everyday.labels)
    assert (everyday.name, everyday.version) == ("everyday", 1)


def test_no_label_is_the_plural_of_another():
    labels = set(everyday_labels().labels)
    assert [label for label in sorted(labels) if {label + "s", label + "es"} & labels] == ["glass"]


def test_it_names_what_photographs_show_most():
    assert {"person", "dog", "cat", "car", "tree", "beach", "coffee", "rocket"} <= set(everyday_labels().labels)


def test_every_label_is_a_short_noun_of_plain_letters():
    for label in everyday_labels().labels:
        assert label.isascii()
        assert label == label.lower()
        assert len(label.split()) <= 3
        assert len(label) < MAX_LABEL_CHARS // 4


def test_version_one_never_changes():
    """Its digest names the label vectors that were made of it: another list is another version."""
    assert everyday_labels().digest[:16] == "78a106c58fa7a44b"

"""Labels and templates as clients write them, and what is made of them."""

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from clip_pipeline.core.errors import QueryError
from clip_pipeline.core.label_set import (
    MAX_LABELS,
    LabelSet,
    ad_hoc_labels,
    label_lines,
    named_label_set,
    parse_labels,
    parse_templates,
    parse_top_k,
)

# A joiner between two letters, or two emoji, is part of the word.
MANY_SCRIPTS = ["猫", "собака", "قطة", "บ้าน", "👩\u200d🚀", "\u0645\u06cc\u200c\u062e\u0648\u0627\u0647\u0645"]


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("cat", ("cat",)),
        (" cat , dog,", ("cat", "dog")),
        (["cat, domestic", "dog"], ("cat, domestic", "dog")),
        ("cat,dog,Cat,cat", ("cat", "dog")),
        (["cafe\u0301", "café"], ("café",)),
        (MANY_SCRIPTS, tuple(MANY_SCRIPTS)),
        (["\tcat\n"], ("cat",)),
        (["x" * 200], ("x" * 200,)),
    ],
)  # fmt: skip
def test_labels_are_stripped_composed_and_distinct_in_their_order(given, expected):
    assert parse_labels(given) == expected


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("", "got none"),
        (" , ,", "got none"),
        ([], "got none"),
        (["cat", "  "], "in label 2, got 0"),
        (["x" * 201], "in label 1, got 201"),
        (["cat\x00"], "label 1 holds a control character: 'cat\\\\x00'"),
        ("cat,do\ng", "label 2 holds a control character"),
        (["a\u2028b"], "control character"),
        (["\ud800"], "control character"),
        (["\u200b"], "no visible character"),
        (["\u00a0\u00ad"], "no visible character"),
    ],
)
def test_labels_that_cannot_be_used_are_refused_with_their_number(given, message):
    with pytest.raises(QueryError, match=message):
        parse_labels(given)


def test_five_thousand_labels_are_accepted_and_one_more_is_not():
    labels = [f"thing {i}" for i in range(MAX_LABELS)]
    assert parse_labels(labels + labels) == tuple(labels)
    with pytest.raises(QueryError, match="at most 5000 labels, got 5001"):
        parse_labels([*labels, "one more"])


@given(st.lists(st.text(max_size=30), max_size=20))
def test_parsed_labels_parse_to_themselves_and_can_be_stored(given):
    try:
        labels = parse_labels(given)
    except QueryError:
        return
    assert parse_labels(labels) == labels
    assert all(label.encode().decode() == unicodedata.normalize("NFC", label) for label in labels)


@pytest.mark.parametrize("template", ["a photo", "a {} of a {}", "a {0}", "", "a\n{}", "x" * 200 + "{}"])
def test_a_template_has_one_slot_on_one_line(template):
    with pytest.raises(QueryError, match="template 2"):
        parse_templates(["a photo of a {}", template])


@pytest.mark.parametrize("templates", [[], [f"photo {i} of a {{}}" for i in range(101)]])
def test_the_number_of_templates_is_limited(templates):
    with pytest.raises(QueryError, match="1 to 100 templates"):
        parse_templates(templates)


@pytest.mark.parametrize("name", ["", "a b", "-a", "../a", "ä", "x" * 65, "a\n"])
def test_a_name_that_no_address_can_hold_is_refused(name):
    with pytest.raises(QueryError, match="expected a name"):
        named_label_set(name, ["cat"], templates=["a {}"], version=1)


def test_prompts_put_the_label_into_every_template_as_it_is():
    chosen = named_label_set("odd", ["{} {0}"], templates=["a {}", "{braces} of {}"], version=1)
    assert chosen.prompts("{} {0}") == ["a {} {0}", "{braces} of {} {0}"]


def test_the_digest_is_of_labels_and_templates_and_of_nothing_else():
    base = LabelSet("a", 1, ("cat", "dog"), ("a {}",))
    assert base.digest == LabelSet("b", 7, ("cat", "dog"), ("a {}",)).digest
    others = [LabelSet("a", 1, ("dog", "cat"), ("a {}",)), LabelSet("a", 1, ("cat",), ("dog", "a {}")),
              LabelSet("a", 1, ("cat", "dog"), ("the {}",))]  # fmt: skip
    assert len({base.digest, *(other.digest for other in others)}) == 4


def test_labels_of_one_request_have_no_name():
    assert (ad_hoc_labels(["cat"]).name, ad_hoc_labels(["cat"]).version) == ("", 0)


@pytest.mark.parametrize(("given", "expected"), [(1, 1), (7, 7), (5000, 5000), (10**18, 5000)])
def test_a_top_k_beyond_the_labels_means_all(given, expected):
    assert parse_top_k(given) == expected


@pytest.mark.parametrize("given", [0, -1])
def test_a_top_k_below_one_is_refused(given):
    with pytest.raises(QueryError, match="at least 1"):
        parse_top_k(given)


def test_a_text_has_one_label_a_line_and_only_line_feeds_end_lines():
    assert label_lines("cat\r\n\n  guide dog\t\n") == ["cat", "guide dog"]
    with pytest.raises(QueryError, match="label 1 holds a control character"):
        parse_labels(label_lines("cat\u2028dog"))

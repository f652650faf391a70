"""Where the charts put things, what they say, and that nothing in them is markup by accident."""

from itertools import pairwise
from pathlib import Path

import jinja2
import pytest

from clip_pipeline.serving.pages import charts
from clip_pipeline.serving.pages.charts import Point, Words, column_chart, compact, histogram, nice_step, row_chart
from clip_pipeline.serving.pages.time_buckets import FEWEST, folded
from clip_pipeline_tests.serving.pages.elements import parsed

WORDS = Words("sizes", "Sizes", "How large the images are.", "Size")
TEMPLATES = Path(charts.__file__).parent.parent / "templates"


def points(*values):
    return [Point(f"l{n}", f"name {n}", value) for n, value in enumerate(values)]


def drawn(chart):
    """The figure as a page has it."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES), autoescape=True, undefined=jinja2.StrictUndefined
    )
    page = environment.from_string('{% from "charts.html" import figure %}{{ figure(chart) }}')
    return parsed(page.render(chart=chart)).one("figure")


def test_columns_stand_on_the_base_line_side_by_side_and_as_high_as_their_share():
    chart = column_chart(points(10, 40, 20), WORDS)
    frame = chart.frame
    assert [round(b.y + b.height, 1) for b in chart.bars] == [frame.bottom] * 3
    assert [b.height for b in chart.bars] == pytest.approx([40 / 160 * 212, 212, 20 / 40 * 212], abs=0.1)
    ends = [(b.x, b.x + b.width) for b in chart.bars]
    assert all(end < begin for (_, end), (begin, _) in pairwise(ends))
    assert frame.left <= ends[0][0]
    assert ends[-1][1] <= frame.right
    assert next((t.label, t.at) for t in chart.y_ticks) == ("0", frame.bottom)
    assert (chart.y_ticks[-1].label, chart.y_ticks[-1].at) == ("40", frame.top)


def test_a_column_of_one_beside_a_million_is_still_visible():
    assert min(b.height for b in column_chart(points(1, 1_000_000), WORDS).bars) >= 1


def test_many_columns_have_few_labels_the_last_among_them():
    chart = column_chart(points(*range(1, 91)), WORDS)
    assert 4 <= len(chart.x_ticks) <= 6
    assert chart.x_ticks[-1].label == "l89"


def test_rows_lie_below_each_other_with_their_value_behind_them():
    chart = row_chart(points(50, 100, 0), WORDS, unit="files")
    first, second, last = chart.bars
    assert second.width == 2 * first.width
    assert last.width == 0
    assert [label.value for label in chart.labels] == ["50", "100", "0"]
    assert all(label.value_x > bar.x + bar.width for label, bar in zip(chart.labels, chart.bars, strict=True))
    assert all(label.value_x < charts.WIDTH - 20 for label in chart.labels)
    assert chart.height >= last.y + last.height


def test_a_histogram_draws_every_series_over_the_same_bins():
    chart = histogram({"near": [0, 4], "chance": [2, 1]}, [0.0, 0.5, 1.0], WORDS)
    assert [(b.series, b.name) for b in chart.bars] == [
        (0, "near, 0.50 to 1.00: 4"), (1, "chance, 0.00 to 0.50: 2"), (1, "chance, 0.50 to 1.00: 1"),
    ]  # fmt: skip
    near, _, chance = chart.bars
    assert (near.x, near.width) == (chance.x, chance.width)
    assert chart.rows == (("0.00 to 0.50", "0", "2"), ("0.50 to 1.00", "4", "1"))


@pytest.mark.parametrize(
    "chart",
    [
        column_chart([], WORDS), column_chart(points(0, 0), WORDS), row_chart([], WORDS),
        histogram({"a": [0]}, [0, 1], WORDS), histogram({"a": []}, [0], WORDS),
    ],
)  # fmt: skip
def test_without_data_the_figure_says_so_and_draws_nothing(chart):
    figure = drawn(chart)
    assert chart.is_empty
    assert list(figure.all("svg")) == []
    assert "Nothing to show yet." in figure.text


def test_a_drawing_says_in_words_what_it_shows_and_its_table_holds_every_number():
    figure = drawn(column_chart(points(1, 2000), WORDS))
    drawing = figure.one("svg")
    named = [drawing.one(id=one).text for one in drawing["aria-labelledby"].split()]
    assert (drawing["role"], named) == ("img", ["Sizes", "How large the images are."])
    assert [bar.one("title").text for bar in drawing.all("rect")] == ["name 0: 1 images", "name 1: 2,000 images"]
    cells = [row.text for row in figure.all("tr")]
    assert cells == ["Size Images", "name 0 1", "name 1 2,000"]


def test_names_that_look_like_markup_are_shown_as_they_are():
    hostile = '</title><script>alert("x")</script>&'
    figure = drawn(row_chart([Point(hostile, hostile, 1)], Words("n", hostile, hostile, hostile)))
    assert list(figure.all("script")) == []
    assert figure.one("svg").one("text", class_="chart-name").text == hostile


def test_a_drawing_carries_no_style_and_no_script_of_its_own():
    names = {name for element in drawn(column_chart(points(1, 2), WORDS)).all() for name in element.attributes}
    assert not {name for name in names if name == "style" or name.startswith("on")}


@pytest.mark.parametrize(
    ("most", "step"), [(1, 1), (4, 1), (5, 2), (8, 2), (9, 5), (21, 10), (100, 50), (80, 20), (12_345, 5000)]
)
def test_steps_are_round_and_reach_the_largest_value(most, step):
    assert nice_step(most) == step


@pytest.mark.parametrize(
    ("number", "text"), [(0, "0"), (999, "999"), (1000, "1k"), (1500, "1.5k"), (2_000_000, "2M"), (3 * 10**9, "3G")]
)
def test_large_numbers_are_short_on_axes(number, text):
    assert compact(number) == text


@pytest.mark.parametrize(
    ("last", "unit", "spans", "ends"),
    [
        ("2026-01-30T09", "hour", FEWEST, "09:00"),
        ("2026-01-31T23", "hour", 39, "23:00"),
        ("2026-02-10T00", "day", 12, "10 Feb"),
        ("2026-03-31T00", "day", 61, "31 Mar"),
        ("2026-08-01T00", "week", 27, "27 Jul"),
        ("2029-01-01T00", "month", 37, "Jan 2029"),
    ],
)
def test_the_longer_the_span_the_wider_the_columns_without_gaps(last, unit, spans, ends):
    buckets = folded({"2026-01-30T09": 2, last: 5})
    assert (buckets.unit, len(buckets.spans), buckets.spans[-1].label) == (unit, spans, ends)
    assert sum(span.images for span in buckets.spans) == (5 if last == "2026-01-30T09" else 7)


def test_hours_of_one_day_are_added_up():
    buckets = folded({"2026-01-01T05": 1, "2026-01-01T22": 2, "2026-01-20T00": 4})
    assert [span.images for span in buckets.spans] == [3, *[0] * 18, 4]


def test_nothing_counted_makes_no_columns():
    assert folded({}).spans == ()

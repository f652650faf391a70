"""The picture of the embedding benchmark."""

from xml.etree import ElementTree

from benchmarks.draw import draw

RESULT = {
    "ours": {"images_per_s": 40.0, "peak_mb": 1000},
    "limit": {"images_per_s": 50.0},
    "peers": {"slow<er": {"images_per_s": 10.0, "peak_mb": 2000}, "other": {"images_per_s": 20.0, "peak_mb": 500}},
}


def test_every_contender_has_a_bar_as_long_as_its_figure_and_the_faster_peer_comes_first():
    picture = ElementTree.fromstring(draw(RESULT))
    texts = [text.text for text in picture.iterfind(".//{*}text")]
    assert texts[1:9:2] == ["limit (decode + forward)", "clip_pipeline", "other", "slow<er"]
    widths = [int(bar.attrib["width"]) for bar in picture.iterfind(".//{*}rect") if "rx" in bar.attrib]
    assert [round(width / widths[0], 2) for width in widths[:4]] == [1.0, 0.8, 0.4, 0.2]
    assert [round(width / widths[6], 2) for width in widths[4:]] == [0.5, 0.25, 1.0]

"""A page as its tests ask about it: attributes of elements, the text that a person sees, the results shown."""

from clip_pipeline_tests.serving.pages.elements import parsed


class Page:
    """One page, well-formed."""

    def __init__(self, html):
        self.root = parsed(html)
        self.elements = [(element.tag, element.attributes) for element in self.root.all()]

    @property
    def text(self):
        return self.root.one("body").text

    def all(self, tag):
        """The attributes of every element of this kind."""
        return [attributes for name, attributes in self.elements if name == tag]

    def values(self, tag, attribute):
        """One attribute of every element of this kind that has it."""
        return [one[attribute] for one in self.all(tag) if attribute in one]

    @property
    def hits(self):
        """Ids of the images shown as results, in order."""
        return [int(number) for number in self.values("li", "data-hit")]


def read(response, *, status=200):
    """The page of an answer, checked for its status."""
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "text/html; charset=utf-8"
    return Page(response.text)

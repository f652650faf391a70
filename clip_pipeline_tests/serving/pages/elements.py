"""Pages as trees of elements: text, links, forms with what is filled in."""

from html.parser import HTMLParser
from typing import Any

VOID = {"area", "base", "br", "col", "embed", "hr", "img", "input", "link", "meta", "source", "track", "wbr"}


class Element:
    """One element of a parsed page, with those inside it."""

    def __init__(self, tag, attributes, parent=None):
        self.tag, self.attributes, self.parts = tag, dict(attributes), []
        self.parent: Any = parent

    def __getitem__(self, name):
        return self.attributes[name]

    @property
    def text(self):
        """What it says, in one line."""
        return " ".join("".join(part if isinstance(part, str) else f" {part.text} " for part in self.parts).split())

    def all(self, tag=None, **attributes):
        """The elements inside it with this tag and these attributes; `class_` is one of the classes."""
        wanted = {name.rstrip("_").replace("_", "-"): value for name, value in attributes.items()}
        for part in self.parts:
            if isinstance(part, Element):
                if tag in (None, part.tag) and all(part._has(name, value) for name, value in wanted.items()):
                    yield part
                yield from part.all(tag, **attributes)

    def one(self, tag=None, **attributes):
        """The only such element."""
        (found,) = self.all(tag, **attributes)
        return found

    def fields(self):
        """What a form sends as it stands."""
        inputs = {field["name"]: field.attributes.get("value", "") for field in self.all("input")}
        return inputs | {area["name"]: "".join(area.parts) for area in self.all("textarea")}

    def _has(self, name, value):
        have = self.attributes.get(name)
        return value in (have or "").split() if name == "class" else have == value


class _Builder(HTMLParser):
    def __init__(self):
        super().__init__()
        self.root = self.at = Element("document", ())

    def handle_starttag(self, tag, attrs):
        element = Element(tag, attrs, self.at)
        self.at.parts.append(element)
        if tag not in VOID:
            self.at = element

    def handle_startendtag(self, tag, attrs):
        self.at.parts.append(Element(tag, attrs, self.at))

    def handle_endtag(self, tag):
        if tag not in VOID:
            assert tag == self.at.tag, f"</{tag}> closes <{self.at.tag}>"
            self.at = self.at.parent

    def handle_data(self, data):
        self.at.parts.append(data)


def parsed(text):
    """The elements of a piece of HTML; each is closed where it should be, and every id is there once."""
    builder = _Builder()
    builder.feed(text)
    builder.close()
    assert builder.at is builder.root
    ids = [element["id"] for element in builder.root.all() if "id" in element.attributes]
    assert len(ids) == len(set(ids)), ids
    return builder.root


def read(response):
    """The page of an HTTP answer."""
    assert response.headers["content-type"].startswith("text/html"), response.headers["content-type"]
    return parsed(response.text)


def get(client, path, *, status=200):
    """The page at a path."""
    response = client.get(path)
    assert response.status_code == status, response.text
    return read(response)


def send(client, page, action, **filled):
    """Send the form of a page that goes to `action`, with some of its fields filled in; returns the answer."""
    form = page.one("form", action=action)
    fields = form.fields()
    assert set(filled) <= set(fields)
    return client.post(action, data=fields | filled, headers={"Origin": str(client.base_url).rstrip("/")})

"""Converted towers with their weights kept in bfloat16, for those that compute in it: half on disk, half when mapped.

A compiled tower holds on to the file that it was read from, so what lies there in float32 stays in memory beside the
rounded copy that it computes with. OpenVINO itself writes float16 at most, which cuts off the smallest weights; this
writes what it would round to when it compiles, so the vectors are the same to the bit. ViT-B/32: 343 -> 171 MB.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO
from xml.etree import ElementTree
from xml.etree.ElementTree import Element, SubElement

import torch

_ROUNDED_BY = {"MatMul", "Convolution"}
_ALIGNMENT = 64


def round_weights(graph: Path, weights: Path) -> None:
    """Rewrite a graph that OpenVINO saved: what only matrix products and convolutions read becomes bfloat16.

    Biases and scales stay float32, as they do when OpenVINO computes in bfloat16. One weight at a time is in memory.
    """
    tree = ElementTree.parse(graph)  # noqa: S314 - written by OpenVINO a moment ago, in a folder of ours
    rounded = weights.with_suffix(".rounded")
    with weights.open("rb") as source, rounded.open("wb") as target:
        moved = _Moved(source, target)
        chosen = _weights_of_products(tree)
        for data in list(tree.iter("data")):
            if "offset" in data.attrib:
                moved.move(data, dtype="bf16" if data in chosen else data.get("element_type", ""))
    _insert_conversions(tree, chosen)
    rounded.replace(weights)
    tree.write(graph, encoding="utf-8", xml_declaration=True)


@dataclass(slots=True)
class _Moved:
    """Constants on their way from one file to another; what several share stays shared."""

    source: BinaryIO
    target: BinaryIO
    _places: dict[tuple[int, int, str], tuple[int, int]] = field(
        default_factory=dict[tuple[int, int, str], tuple[int, int]]
    )

    def move(self, data: Element, *, dtype: str) -> None:
        """Copy the bytes that `data` names, rounded where `dtype` is bf16, and have it name their new place."""
        key = (int(data.attrib["offset"]), int(data.attrib["size"]), dtype)
        if key not in self._places:
            self.source.seek(key[0])
            content = self.source.read(key[1])
            if dtype == "bf16" and data.get("element_type") == "f32":
                content = _rounded(content)
            self.target.write(bytes(-self.target.tell() % _ALIGNMENT))
            self._places[key] = (self.target.tell(), self.target.write(content))
        offset, size = self._places[key]
        data.attrib.update(offset=str(offset), size=str(size))


def _rounded(content: bytes) -> bytes:
    """float32 to bfloat16, to the nearest, ties to even: as OpenVINO and torch round."""
    numbers = torch.frombuffer(bytearray(content), dtype=torch.float32)
    return numbers.to(torch.bfloat16).view(torch.uint8).numpy().tobytes()


def _weights_of_products(tree: "ElementTree.ElementTree[Element]") -> dict[Element, Element]:
    """The layers of constants in float32 that go nowhere but into products, by their element `data`."""
    layers = {layer.attrib["id"]: layer for layer in tree.iterfind("layers/layer")}
    readers: dict[str, set[str]] = {}
    for edge in tree.iterfind("edges/edge"):
        readers.setdefault(edge.attrib["from-layer"], set()).add(layers[edge.attrib["to-layer"]].attrib["type"])
    found: dict[Element, Element] = {}
    for name, layer in layers.items():
        data = layer.find("data")
        is_weight = layer.get("type") == "Const" and readers.get(name, {""}) <= _ROUNDED_BY
        if is_weight and data is not None and data.get("element_type") == "f32":
            found[data] = layer
    return found


def _insert_conversions(tree: "ElementTree.ElementTree[Element]", chosen: dict[Element, Element]) -> None:
    """Behind each of `chosen`, now in bfloat16, a conversion to what its readers expect."""
    layers, edges = tree.find("layers"), tree.find("edges")
    assert layers is not None
    assert edges is not None
    first = 1 + max(int(layer.attrib["id"]) for layer in layers)
    conversions = {layer.attrib["id"]: str(first + place) for place, layer in enumerate(chosen.values())}
    for edge in edges:
        if edge.attrib["from-layer"] in conversions:
            # Ports are counted from the inputs on.
            edge.attrib.update({"from-layer": conversions[edge.attrib["from-layer"]], "from-port": "1"})
    for data, layer in chosen.items():
        data.set("element_type", "bf16")
        number = conversions[layer.attrib["id"]]
        layers.insert(list(layers).index(layer) + 1, _conversion_of(layer, number=number))
        ends = {"from-layer": layer.attrib["id"], "from-port": "0", "to-layer": number, "to-port": "0"}
        SubElement(edges, "edge", ends)


def _conversion_of(layer: Element, *, number: str) -> Element:
    """A layer that converts what the constant `layer` holds, which is declared bfloat16, to float32."""
    port = layer.find("output/port")
    assert port is not None
    port.set("precision", "BF16")
    name = f"{layer.attrib['name']}/float32"
    made = Element("layer", {"id": number, "name": name, "type": "Convert", "version": "opset1"})
    SubElement(made, "data", {"destination_type": "f32"})
    # Without this mark the constant would be converted once and for all when the graph is compiled.
    SubElement(SubElement(made, "rt_info"), "attribute", {"name": "decompression", "version": "0"})
    for side, place, precision in (("input", "0", "BF16"), ("output", "1", "FP32")):
        SubElement(SubElement(made, side), "port", {"id": place, "precision": precision}).extend(port.iterfind("dim"))
    return made

"""File names as text: every POSIX path, valid UTF-8 or not, as a string that any database and JSON can hold.

A byte that is not part of valid UTF-8 becomes one character of the private plane (U+10FF00 + byte); a path that
really contains such a character has it written as its own escaped bytes. The mapping is one to one, and the text
of an ordinary path is the path.
"""

import os

_ESCAPE_BASE = 0x10FF00
_SURROGATE_BASE = 0xDC00
_ESCAPED = range(_ESCAPE_BASE, _ESCAPE_BASE + 0x100)


def path_to_text(path: str | bytes | os.PathLike[str]) -> str:
    """The text under which `path` is stored. Never contains a surrogate; `text_to_path` undoes it."""
    name = os.fsdecode(path)
    if name.isascii():
        return name
    return "".join(_escape(character) for character in name)


def text_to_path(text: str) -> str:
    """The path as the operating system knows it, undecodable bytes as surrogate escapes (PEP 383)."""
    if text.isascii():
        return text
    if not any(ord(character) in _ESCAPED for character in text):
        return text
    raw = b"".join(
        bytes([ord(character) - _ESCAPE_BASE]) if ord(character) in _ESCAPED else character.encode()
        for character in text
    )
    return os.fsdecode(raw)


def display_path(text: str) -> str:
    """`text` with undecodable bytes and control characters as `\\xNN`, for people and terminals."""
    shown: list[str] = []
    for character in text:
        if ord(character) in _ESCAPED:
            shown.append(f"\\x{ord(character) - _ESCAPE_BASE:02x}")
        elif character.isprintable():
            shown.append(character)
        else:
            shown.extend(f"\\x{byte:02x}" for byte in character.encode())
    return "".join(shown)


def _escape(character: str) -> str:
    point = ord(character)
    if _SURROGATE_BASE <= point < _SURROGATE_BASE + 0x100:
        return chr(_ESCAPE_BASE + point - _SURROGATE_BASE)
    if point in _ESCAPED:
        return "".join(chr(_ESCAPE_BASE + byte) for byte in character.encode())
    return character

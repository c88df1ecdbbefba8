"""A commented YAML example written from a schema: every key, its meaning, unit and default."""

from __future__ import annotations

import dataclasses
import textwrap
import types
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

import yaml

from jaxpho.schema import is_required, to_plain

_WIDTH = 96
_PLACEHOLDER = {bool: False, int: 1, float: 1.0, str: "text"}


def example_yaml(cls) -> str:
    """YAML text for the dataclass `cls`.

    Required keys (and those with an `example`, which most users set) stand there with an example
    value; the others are commented out ("#key:") with their default; prose begins with "##".
    A field's metadata `show` maps dotted keys below it to example values, to be shown as well.
    """
    return "\n".join(_mapping(cls, "", False, {}, set())) + "\n"


def _mapping(cls, indent: str, commented: bool, show: dict, known: set) -> list[str]:
    hints = get_type_hints(cls)
    lines: list[str] = []
    for f in dataclasses.fields(cls):
        if f.init and f.name[0] != "_":
            lines += _field(f, hints[f.name], indent, commented, show, known)
    return lines


def _field(f, hint, indent: str, commented: bool, show: dict, known: set) -> list[str]:
    member, is_list = _structure(hint)
    lines = [f"{indent}{line}" for line in _prose(f, hint, indent)]
    if not indent:
        lines.insert(0, "")
    # a section with defaults shows its header, so that changing one key uncomments one line
    section = member is not None and not is_list and f.default is not None
    shown = is_required(f) or "example" in f.metadata or section or f.name in show
    hidden = commented or not shown
    mark = "#" if hidden else ""
    plain = show.get(f.name) is not None
    if member is None or plain or (member in known and f.default is None):
        value = show[f.name] if plain else _value(f, hint)
        return lines + [f"{mark}{indent}{f.name}: {_flow(value)}".rstrip()]
    if f.default is None:
        known.add(member)  # explained once, where it may be given in several places
    lines.append(f"{mark}{indent}{f.name}:")
    deeper = indent + "  "
    if is_list:
        lines.append(f"{mark}{deeper}-")
        deeper += "  "
    below = {k.partition(".")[2]: v for k, v in show.items() if k.startswith(f.name + ".")}
    below.update(f.metadata.get("show", {}))
    return lines + _mapping(member, deeper, hidden, below, known)


def _structure(hint) -> tuple[Any, bool]:
    """The dataclass inside `X`, `X | None`, `list[X]`, and whether it is a list of them."""
    if dataclasses.is_dataclass(hint):
        return hint, False
    origin, args = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        found = [_structure(a) for a in args]
        return next((pair for pair in found if pair[0] is not None), (None, False))
    if origin is list and args:
        return _structure(args[0])[0], True
    return None, False


def _prose(f, hint, indent: str) -> list[str]:
    text = f.metadata.get("help", "")
    if f.metadata.get("unit"):
        text += f" [{f.metadata['unit']}]"
    choices = f.metadata.get("choices") or (get_args(hint) if get_origin(hint) is Literal else ())
    if choices:
        text += f" (one of: {', '.join(map(str, choices))})"
    if is_required(f):
        text += " (required)"
    return ["## " + line for line in textwrap.wrap(text.strip(), _WIDTH - len(indent) - 3)]


def _value(f, hint) -> Any:
    if "example" in f.metadata:
        return f.metadata["example"]
    if f.default is not dataclasses.MISSING:
        return f.default
    if f.default_factory is not dataclasses.MISSING:
        return f.default_factory()
    choices = f.metadata.get("choices") or (get_args(hint) if get_origin(hint) is Literal else ())
    if choices:
        return choices[0]
    return _placeholder(hint)


def _placeholder(hint) -> Any:
    origin, args = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        return _placeholder(args[0])
    if origin is list:
        return [_placeholder(args[0])]
    if origin is tuple:
        return [_placeholder(a) for a in args if a is not Ellipsis]
    return {} if origin is dict or hint is dict else _PLACEHOLDER.get(hint, "text")


def _flow(value: Any) -> str:
    if value is None:
        return ""  # YAML reads nothing as null
    text = yaml.safe_dump(to_plain(value), default_flow_style=True, width=10_000, sort_keys=False)
    return text.removesuffix("...\n").strip()

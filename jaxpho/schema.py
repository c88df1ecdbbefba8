"""Nested dataclasses from plain YAML values, with errors that say where and what was expected.

A schema is a dataclass whose fields carry metadata: `help`, `unit`, `choices`, `path` (text that
names a file), `example`, and the limits `gt`, `ge`, `lt`, `le`. A dataclass may name a field in
`_shorthand`: a plain value then stands for a mapping with that one key.
"""

from __future__ import annotations

import dataclasses
import difflib
import math
import os
import re
import types
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from jaxpho.errors import InputError

_NAMES = {
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    str: "text",
    list: "a list",
    dict: "a mapping of keys to values",
    type(None): "nothing (null)",
}
_LIMITS = {
    "gt": ("greater than", lambda value, limit: value > limit),
    "ge": ("at least", lambda value, limit: value >= limit),
    "lt": ("less than", lambda value, limit: value < limit),
    "le": ("at most", lambda value, limit: value <= limit),
}


def option(default: Any = dataclasses.MISSING, help: str = "", **metadata):
    """Declare one key: a dataclass field with its metadata. A callable default is a factory."""
    metadata["help"] = help
    if callable(default):
        return dataclasses.field(default_factory=default, metadata=metadata)
    return dataclasses.field(default=default, metadata=metadata)


@dataclasses.dataclass
class Context:
    """Where the values come from: the name shown in errors, the folder of relative paths."""

    name: str = "config"
    base: Path | None = None
    overridden: tuple[str, ...] = ()

    def error(self, path: str, text: str) -> InputError:
        """The error about the key at `path`, naming --set when that is where it came from."""
        for key in self.overridden:
            if path == key or path.startswith(key + ".") or key.startswith(path + "."):
                return InputError(f"--set {key}: {text}")
        return InputError(f"{self.name}: {text}")


def build(cls, values: Any, context: Context | None = None, path: str = ""):
    """Build dataclass `cls` from the mapping `values`.

    Parameters
    ----------
    cls : dataclass type.
    values : what a YAML reader returned: mapping, shorthand value, or None for all defaults.
    context : names the source in errors and resolves relative paths.
    path : dotted key of `values` itself; empty at top level.

    Raises
    ------
    InputError
        For an unknown key, a wrong type, a missing key, a value outside its choices or limits.
    """
    context = context or Context()
    where = f"'{path}'" if path else "top level"
    shorthand = getattr(cls, "_shorthand", None)
    if values is None:
        values = {}
    elif shorthand and not isinstance(values, dict):
        values = {shorthand: values}
    if not isinstance(values, dict):
        raise context.error(path, f"{where}: expected {_NAMES[dict]}, found {describe(values)}")
    fields = {f.name: f for f in dataclasses.fields(cls) if f.init and f.name[0] != "_"}
    for key in values:
        if key not in fields:
            raise context.error(_join(path, key), _unknown(key, fields, where))
    hints = get_type_hints(cls)
    kwargs = {}
    for name, f in fields.items():
        if name in values:
            kwargs[name] = _convert(
                hints[name], values[name], context, _join(path, name), f.metadata
            )
        elif is_required(f):
            text = f.metadata.get("help", "")
            raise context.error(
                path, f"missing key '{name}' at {where}" + (f" ({text})" if text else "")
            )
    try:
        return cls(**kwargs)
    except ValueError as error:  # InputError included: checks in __post_init__
        prefix = f"'{path}': " if path and f"'{path}" not in str(error) else ""
        raise context.error(path, prefix + str(error)) from error


def is_required(f: dataclasses.Field) -> bool:
    """Whether a dataclass field has no default."""
    return f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING


def describe(value: Any) -> str:
    """A value and its kind, for error messages: "'six' (text)"."""
    if value is None:
        return "nothing"
    text = repr(value)
    text = text if len(text) <= 60 else text[:57] + "..."
    if isinstance(value, bool):
        return f"{str(value).lower()} (an unquoted yes, no, on, off, true or false)"
    kind = _NAMES.get(type(value), type(value).__name__)
    return f"{text} ({kind})"


def _join(path: str, key: Any) -> str:
    return f"{path}.{key}" if path else str(key)


def _unknown(key: Any, fields, where: str) -> str:
    close = difflib.get_close_matches(str(key), list(fields), n=1, cutoff=0.5)
    hint = f"did you mean '{close[0]}'?" if close else "known keys: " + ", ".join(fields)
    return f"unknown key '{key}' at {where}; {hint}"


def _expected(hint: Any) -> str:
    if hint in _NAMES:
        return _NAMES[hint]
    origin, args = get_origin(hint), get_args(hint)
    if origin is Literal:
        return "one of " + ", ".join(map(str, args))
    if origin in (Union, types.UnionType):
        return " or ".join(_expected(a) for a in args if a is not type(None))
    if origin is tuple and Ellipsis not in args:
        return f"a list of {len(args)} values"
    if origin in (list, tuple):
        return "a list, each entry " + _expected(args[0])
    return _NAMES[dict] if origin is dict or dataclasses.is_dataclass(hint) else "text"


def _convert(hint: Any, value: Any, context: Context, path: str, meta) -> Any:
    """`value` as the type `hint`, checked against the metadata of its field."""

    def wrong():
        return context.error(path, f"'{path}': expected {_expected(hint)}, found {describe(value)}")

    origin, args = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        return _convert_union(args, value, context, path, meta, wrong)
    if dataclasses.is_dataclass(hint):
        return build(hint, value, context, path)
    if hint is list or origin is list or hint is tuple or origin is tuple:
        container, values = origin or hint, value
        fixed_length = container is tuple and args and Ellipsis not in args
        if not isinstance(values, list | tuple):
            if fixed_length or isinstance(values, dict) or values is None:
                raise wrong()
            values = [values]  # one entry need not be written as a list
        if fixed_length and len(values) != len(args):
            raise wrong()
        inner = args if fixed_length else [args[0] if args else Any] * len(values)
        items = zip(inner, values, strict=True)
        return container(
            _convert(h, v, context, _join(path, i), meta) for i, (h, v) in enumerate(items)
        )
    if hint is dict or origin is dict:
        if not isinstance(value, dict):
            raise wrong()
        inner = args[1] if args else Any
        return {str(k): _convert(inner, v, context, _join(path, k), meta) for k, v in value.items()}
    return _convert_scalar(hint, value, context, path, meta, wrong)


def _convert_union(args, value, context, path, meta, wrong):
    if value is None and type(None) in args:
        return None
    members = [a for a in args if a is not type(None)]
    # an exact match of the plain types first, so that 1 stays a whole number in `int | str`
    for member in members:
        if type(value) is member:
            return _convert(member, value, context, path, meta)
    if len(members) == 1:
        return _convert(members[0], value, context, path, meta)
    if float in members and isinstance(value, int) and not isinstance(value, bool):
        # a number is a number: one outside the limits must not be read as text instead
        return _convert(float, value, context, path, meta)
    structured = [m for m in members if isinstance(value, dict) and dataclasses.is_dataclass(m)]
    if len(structured) == 1:
        return _convert(structured[0], value, context, path, meta)
    for member in members:
        try:
            return _convert(member, value, context, path, meta)
        except InputError:
            continue
    raise wrong()


def _convert_scalar(hint, value, context, path, meta, wrong):
    if isinstance(value, str):
        value = _expand(value, context, path)
    if hint is Any or hint is object:
        return value
    if hint is Path or (hint is str and meta.get("path") and isinstance(value, str)):
        if not isinstance(value, str):
            raise wrong()
        if hint is str and value.startswith("{"):
            return value  # a template that names its own folder
        expanded = Path(value).expanduser()
        resolved = expanded if context.base is None else context.base / expanded
        return resolved if hint is Path else os.path.normpath(resolved)
    if get_origin(hint) is Literal:
        meta = {**meta, "choices": get_args(hint)}
    elif hint is float:
        if isinstance(value, bool) or not isinstance(value, int | float | str):
            raise wrong()
        try:
            value = float(value)  # YAML 1.1 reads 1e-3 as text
        except ValueError:
            raise wrong() from None
        if not math.isfinite(value):
            raise context.error(path, f"'{path}': expected a finite number, found {value}")
    elif hint is int:
        if isinstance(value, float) and value.is_integer():
            value = int(value)
        if isinstance(value, bool) or not isinstance(value, int):
            raise wrong()
    elif hint is str and isinstance(value, int) and not isinstance(value, bool):
        value = str(value)  # an unquoted number as a name or an id
    elif hint in (bool, str, type(None)) and not isinstance(value, hint):
        raise wrong()
    choices = meta.get("choices")
    if choices and value not in choices:
        close = difflib.get_close_matches(str(value), [str(c) for c in choices], n=1)
        hint = f"; did you mean '{close[0]}'?" if close else ""
        allowed = ", ".join(map(str, choices))
        raise context.error(path, f"'{path}': expected one of {allowed}, found {value!r}{hint}")
    for key, (words, holds) in _LIMITS.items():
        if key in meta and isinstance(value, int | float) and not holds(value, meta[key]):
            unit = f" {meta['unit']}" if meta.get("unit") else ""
            raise context.error(
                path, f"'{path}': expected a value {words} {meta[key]}{unit}, found {value}"
            )
    return value


def _expand(text: str, context: Context, path: str) -> str:
    """Replace ${NAME} by the environment variable, which must exist."""

    def replace(match):
        name = match.group(1)
        if name not in os.environ:
            raise context.error(path, f"'{path}': environment variable {name} is not set")
        return os.environ[name]

    return re.sub(r"\$\{(\w+)\}", replace, text)


def to_plain(value: Any) -> Any:
    """Dataclasses, paths and tuples as plain YAML values; keys that are None are left out."""
    if dataclasses.is_dataclass(value):
        pairs = ((f.name, getattr(value, f.name)) for f in dataclasses.fields(value) if f.init)
        return {key: to_plain(item) for key, item in pairs if item is not None and key[0] != "_"}
    if isinstance(value, dict):
        return {str(key): to_plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [to_plain(item) for item in value]
    return str(value) if isinstance(value, Path) else value

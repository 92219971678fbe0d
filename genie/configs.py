"""Config dataclasses from JSON; a missing, unknown or wrongly typed field is an error.

In: values as `json` reads them. Out: frozen dataclasses. Knows no particular config.
"""

from dataclasses import fields, is_dataclass
from typing import Any, Literal, get_args, get_origin, get_type_hints

from genie.errors import UserError


def config_from_dict(kind: Any, values: Any, where: str) -> Any:
    """A config dataclass from its JSON form, which must have all of its fields and no others.

    Raises:
        UserError: naming the file and the wrong field.
    """
    if not isinstance(values, dict):
        raise UserError(f"{where} is {values!r}, but must be a JSON object: restore the file")
    kind = _closest(kind, values)
    known = {f.name for f in fields(kind)}
    for name in sorted(known ^ set(values)):
        what = "misses" if name in known else "has an unknown"
        raise UserError(f"{where} {what} field {name!r}: it does not fit this program's version")
    hints = get_type_hints(kind)
    return kind(**{k: _from_json(hints[k], v, f"{where}: {k}") for k, v in values.items()})


def _from_json(kind: Any, value: Any, where: str) -> Any:
    if get_origin(kind) is tuple and is_dataclass(get_args(kind)[0]) and isinstance(value, list):
        return tuple(_from_json(get_args(kind)[0], item, where) for item in value)
    if value is None and type(None) in get_args(kind):
        return None
    if get_origin(kind) is not tuple and any(map(is_dataclass, get_args(kind) or (kind,))):
        return config_from_dict(kind, value, where)
    plain: Any = tuple(value) if isinstance(value, list) else value
    if not _fits(kind, plain):
        raise UserError(f"{where} is {plain!r}, but must be {kind}: restore the file")
    return float(plain) if kind is float else plain


def _fits(kind: Any, value: Any) -> bool:
    """Whether a plain value has a field's type; whole numbers count as floats."""
    if get_origin(kind) is Literal:
        return value in get_args(kind)
    if get_origin(kind) is tuple:
        return isinstance(value, tuple) and all(_fits(get_args(kind)[0], item) for item in value)
    allowed = (int, float) if kind is float else get_origin(kind) or kind
    return isinstance(value, allowed) and (kind is bool or not isinstance(value, bool))


def _closest(kind: Any, values: dict[str, Any]) -> Any:
    """The dataclass of a union that shares most fields with `values`."""
    options = filter(is_dataclass, get_args(kind) or (kind,))
    return max(options, key=lambda option: len({f.name for f in fields(option)} & values.keys()))

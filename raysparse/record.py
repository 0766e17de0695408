"""What all records share: JSON both ways, typed fields, an identity that leaves some fields out,
and one wording for what is refused.

A record is a frozen dataclass, and its fields say for themselves how they count. A `label` is for
people, never part of the identity; a field that is `added` later is left out at its default, so
that an identity from before it stays what it was. Every value is brought to its field's type when
the record is made, so 4 and 4.0 epochs are one trial and a string from a hand-edited file is one
line, not a traceback. What the records are stands with their users (`spec`, `sweep/plan`).
"""

from __future__ import annotations

import contextlib
import dataclasses
import difflib
import functools
import gc
import math
import numbers
import types
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import field
from typing import Any, ClassVar, Literal, Self, Union, get_args, get_origin, get_type_hints


def label(default: str = "") -> Any:
    """A field for people: kept in JSON, left out of the trial id."""
    return field(default=default, metadata={"identity": False})


def added(default: Any) -> Any:
    """A field that came later: at its default it is left out of the trial id, so that ids from
    before it stay what they were.
    """
    return field(default=default, metadata={"identity_unless": default})


def require(holds: bool, what: str, value: object, expected: str) -> None:
    """Raise ValueError with one wording for every record: field, value, what was expected."""
    if not holds:
        raise ValueError(f"{what} is {value!r}, expected {expected}")


def require_choice(what: str, value: object, choices: Any) -> None:
    require(value in get_args(choices), what, value, "one of " + ", ".join(map(str, get_args(choices))))


@contextlib.contextmanager
def many() -> Iterator[None]:
    """Inside the `with` Python does not look for garbage: where records are made by the thousand it
    would look through all of them again and again, a quarter of the time, and find none.
    """
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


def nearest(name: str, known: Iterable[str]) -> str:
    """`; did you mean 'x'?` for the known name closest to `name`, or nothing if none is close."""
    close = difflib.get_close_matches(name, list(known), n=1, cutoff=0.5)
    return f"; did you mean {close[0]!r}?" if close else ""


class Record:
    """Base of the frozen dataclasses. Raises ValueError for a value that its field cannot hold."""

    is_shared: ClassVar[bool] = True  # equal ones that are read are one; False where each is another

    def __init_subclass__(cls) -> None:
        """Bring values to their types before the record's own checks."""
        checks: Callable[[Any], None] | None = cls.__dict__.get("__post_init__")

        def checked(self: Any) -> None:
            Record.__post_init__(self)
            if checks is not None:
                checks(self)

        cls.__post_init__ = checked  # type: ignore[method-assign]

    def __post_init__(self) -> None:
        for name, kind, path in _fields(type(self)).typed:
            value = getattr(self, name)
            if type(value) is not kind:
                object.__setattr__(self, name, typed(kind, value, path))

    def to_dict(self) -> dict[str, Any]:
        """As JSON takes it; what `dataclasses.asdict` gives, without its copies of every leaf."""
        return {name: _plain(getattr(self, name)) for name in _fields(type(self)).kinds}

    def replace(self, **changes: Any) -> Self:
        """A copy with some fields changed, validated like any other."""
        return dataclasses.replace(self, **changes)  # type: ignore[type-var]

    def identity(self) -> dict[str, Any]:
        """The nested dictionary of fields that change the result. Not to be written to: records
        share the parts that they have in common.
        """
        return self._identity

    @functools.cached_property
    def _identity(self) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for f in dataclasses.fields(self):  # type: ignore[arg-type]
            value = getattr(self, f.name)
            if f.metadata.get("identity", True) and f.metadata.get("identity_unless", ...) != value:
                found[f.name] = value.identity() if isinstance(value, Record) else value
        return found

    def with_field(self, path: str, value: Any) -> Self:
        """A copy in which the field at a dotted path is `value`, which may be a text for its type.

        Raises ValueError for a path that does not exist, with the nearest one that does.
        """
        known = dict(leaves(type(self)))
        if path not in known:
            raise ValueError(f"there is no field {path!r}{nearest(path, known)}; `raysparse fields` lists them")
        name, _, rest = path.partition(".")
        if rest:
            return self.replace(**{name: getattr(self, name).with_field(rest, value)})
        return self.replace(**{name: from_text(known[path], value, path) if isinstance(value, str) else value})

    def at(self, path: str) -> Any:
        """The value of the field at a dotted path."""
        return functools.reduce(getattr, path.split("."), self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Self:
        """Raises ValueError for unknown, missing and wrong fields, each named with its path."""
        require(isinstance(values, dict), cls.__name__, values, "a JSON object")
        if not cls.is_shared:
            return cls._from_fields(values)
        key = cls, repr(values)  # in which 1, 1.0 and True differ
        if key not in _MADE:
            if len(_MADE) >= MOST_SHARED:
                _MADE.clear()
            _MADE[key] = cls._from_fields(values)
        made: Self = _MADE[key]
        return made

    @classmethod
    def _from_fields(cls, values: dict[str, Any]) -> Self:
        fields = _fields(cls)
        kinds, nested = fields.kinds, fields.nested
        if unknown := sorted(set(values) - set(kinds)):
            raise ValueError(f"{cls.__name__} has no field {', '.join(unknown)}; it has {', '.join(kinds)}")
        if missing := [name for name in fields.required if name not in values]:
            raise ValueError(f"{cls.__name__} lacks {', '.join(missing)}")
        return cls(**{n: _from_json(kinds[n], value, n) if n in nested else value for n, value in values.items()})


def _plain(value: Any) -> Any:
    """Records as dictionaries, wherever they are in a value."""
    if isinstance(value, Record):
        return value.to_dict()
    if isinstance(value, list | tuple):
        return type(value)(map(_plain, value))
    return {key: _plain(inner) for key, inner in value.items()} if isinstance(value, dict) else value


# Records that were read, by class and content: the ten thousand trials of a plan share a few models
# and corpora, and records are frozen.
_MADE: dict[tuple[type, str], Any] = {}
MOST_SHARED = 4096


class _Fields:
    """What is asked of the fields of a class again and again, found once: trials and rows are read
    by the thousand.
    """

    def __init__(self, cls: Any):
        hints, fields = get_type_hints(cls), dataclasses.fields(cls)
        prefix, absent = cls.__name__.removesuffix("Spec").lower(), dataclasses.MISSING
        prefix = "" if prefix == "trial" else f"{prefix}."
        self.kinds: dict[str, Any] = {f.name: hints[f.name] for f in fields}
        self.required = [f.name for f in fields if f.default is absent and f.default_factory is absent]
        free = {name: kind for name, kind in self.kinds.items() if get_origin(kind) is not Literal}
        # Brought to their type, with the path for messages; choices are the record's own to check.
        self.typed = [(name, kind, f"{prefix}{name}") for name, kind in free.items()]
        self.nested = {name for name, kind in free.items() if kind not in (int, float, bool, str)}  # may hold records


_FIELDS: dict[type, _Fields] = {}


def _fields(cls: type) -> _Fields:
    if cls not in _FIELDS:
        _FIELDS[cls] = _Fields(cls)
    return _FIELDS[cls]


def leaves(cls: type, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """(dotted path, type) of every field that is no record itself, in order."""
    for f in dataclasses.fields(cls):
        kind = _fields(cls).kinds[f.name]
        if isinstance(kind, type) and issubclass(kind, Record):
            yield from leaves(kind, f"{prefix}{f.name}.")
        else:
            yield f"{prefix}{f.name}", kind


def _items(kind: Any, value: Sequence[Any], path: str) -> Iterator[tuple[Any, Any, str]]:
    """(type, item, path) of each item of a tuple: of any length (`tuple[int, ...]`) or a fixed
    one.
    """
    kinds = get_args(kind)
    if len(kinds) == 2 and kinds[1] is Ellipsis:
        kinds = (kinds[0],) * len(value)
    require(len(kinds) == len(value), path, value, f"{len(kinds)} items")
    yield from ((inner, item, f"{path}[{n}]") for n, (inner, item) in enumerate(zip(kinds, value, strict=True)))


def typed(kind: Any, value: Any, path: str) -> Any:
    """`value` as the type `kind` of a field; whole numbers become floats where floats are meant.

    Raises ValueError with the path for what is of another type. Choices are the record's to check.
    """
    if kind is float:
        require(isinstance(value, numbers.Real) and not isinstance(value, bool), path, value, "a number")
        return float(value)
    if kind is int:
        is_number = isinstance(value, numbers.Real) and not isinstance(value, bool)
        whole = is_number and math.isfinite(value) and value == math.floor(value)
        require(whole, path, value, "a whole number")
        return int(float(value)) if not isinstance(value, int) else value
    if kind is bool or kind is str:
        require(isinstance(value, kind), path, value, "true or false" if kind is bool else "a text")
        return value
    if get_origin(kind) in (Union, types.UnionType):
        inner = [k for k in get_args(kind) if k is not type(None)]
        return None if value is None else typed(inner[0], value, path) if len(inner) == 1 else value
    if get_origin(kind) is tuple and isinstance(value, list | tuple):
        return tuple(typed(inner, item, where) for inner, item, where in _items(kind, value, path))
    if isinstance(kind, type) and issubclass(kind, Record):
        require(isinstance(value, kind), path, value, f"a {kind.__name__}")
    return value


def _from_json(kind: Any, value: Any, path: str) -> Any:
    """Records out of what JSON gives; whatever one of them refuses is told with its path."""
    if get_origin(kind) in (Union, types.UnionType) and value is not None:
        kind = next(k for k in get_args(kind) if k is not type(None))
    if get_origin(kind) is tuple and isinstance(value, list | tuple):
        return tuple(_from_json(inner, item, where) for inner, item, where in _items(kind, value, path))
    if not (isinstance(kind, type) and issubclass(kind, Record)) or isinstance(value, Record) or value is None:
        return value
    try:
        return kind.from_dict(value)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def from_text(kind: Any, text: str, path: str) -> Any:
    """What a person typed for a field of type `kind`. Raises ValueError with the path."""
    if kind is bool:
        require(text.lower() in ("true", "false", "1", "0", "yes", "no"), path, text, "true or false")
        return text.lower() in ("true", "1", "yes")
    if kind in (int, float):
        try:
            return typed(kind, float(text), path)
        except (ValueError, OverflowError) as error:
            raise ValueError(f"{path} is {text!r}, expected a {'whole ' if kind is int else ''}number") from error
    if get_origin(kind) is Literal:
        require_choice(path, text, kind)
    return text

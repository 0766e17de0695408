"""What all records share: JSON both ways, an identity that leaves some fields out, and one wording
for what is refused.

A record is a frozen dataclass, and its fields say for themselves how they count. A `label` is for
people, never part of the identity; a field that is `added` later is left out at its default, so
that an identity from before it stays what it was. Left out: what the records are (`spec`).
"""

from __future__ import annotations

import dataclasses
from dataclasses import field
from typing import Any, Self, get_args, get_type_hints


def label(default: str = "") -> Any:
    """A field for people: kept in JSON, left out of the trial id."""
    return field(default=default, metadata={"identity": False})


def added(default: Any) -> Any:
    """A field that came later: at its default it is left out of the trial id, so that ids from
    before it stay what they were.
    """
    return field(default=default, metadata={"identity_unless": default})


def require(holds: bool, what: str, value: object, expected: str) -> None:
    """Raise ValueError with one wording for every record: the field, the value, what was
    expected.
    """
    if not holds:
        raise ValueError(f"{what} is {value!r}, expected {expected}")


def require_choice(what: str, value: object, choices: Any) -> None:
    require(value in get_args(choices), what, value, "one of " + ", ".join(map(str, get_args(choices))))


class Record:
    """JSON both ways for the frozen dataclasses below; unknown keys are refused, not dropped."""

    def to_dict(self) -> dict[str, Any]:
        return dataclasses.asdict(self)  # type: ignore[call-overload, no-any-return]

    def replace(self, **changes: Any) -> Self:
        """A copy with some fields changed, validated like any other."""
        return dataclasses.replace(self, **changes)  # type: ignore[type-var]

    def identity(self) -> dict[str, Any]:
        """The nested dictionary of fields that change the result."""
        found: dict[str, Any] = {}
        for f in dataclasses.fields(self):  # type: ignore[arg-type]
            value = getattr(self, f.name)
            if f.metadata.get("identity", True) and f.metadata.get("identity_unless", ...) != value:
                found[f.name] = value.identity() if isinstance(value, Record) else value
        return found

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Self:
        fields = {f.name: f for f in dataclasses.fields(cls)}  # type: ignore[arg-type]
        unknown = sorted(set(values) - set(fields))
        if unknown:
            raise ValueError(f"{cls.__name__} has no field {', '.join(unknown)}; it has {', '.join(fields)}")
        types = get_type_hints(cls)
        return cls(**{name: _made(types[name], value) for name, value in values.items()})


def _made(kind: Any, value: Any) -> Any:
    is_nested = isinstance(kind, type) and issubclass(kind, Record) and isinstance(value, dict)
    return kind.from_dict(value) if is_nested else value

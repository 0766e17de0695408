"""The space of a search: axes with their ranges, and the way from values to a trial and back.

An axis is a name that a point of a sweep has (`size`, `density`, `epochs`, `lr`) or any setting of
a trial, by its column (`weight_decay`) or its dotted field (`optimizer.clip`). It is a list of
choices or a range, and is searched on the scale on which it acts: logarithms, unless a range says
otherwise. `lr` is a factor on the size's own rate, so that one range serves every size; the trial
holds the product. The way back reads any trial, also one that no search proposed: what a folder
holds already is never wasted. Left out: who chooses (`samplers`, `law`).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal, Self

from raysparse import counts, ladder
from raysparse.record import Record, from_text, leaves, nearest, require, require_choice
from raysparse.results import spec_columns
from raysparse.spec import ModelSpec, SparsitySpec, TrialSpec
from raysparse.sweep.planners.recipe import Recipe, name_of

Scale = Literal["log", "linear"]
Values = Mapping[str, Any]  # axis -> value

POINT = ("size", "density", "epochs")  # what every trial of a search must be given
RATE = "lr"
DIGITS = 3  # of a value from a range: what differs by less is the same experiment
# What a loss is measured on, and names: a search over them would compare what cannot be compared.
NOT_SEARCHED = ("name", "seed", "evaluations", "sparsity.method")
NOT_SEARCHED_PARTS = ("model.", "data.")


@lru_cache(maxsize=256)
def field_of(name: str) -> str:
    """The dotted field that an axis sets; "" for size, which is several.

    Raises ValueError for a name that is no axis, with the nearest that is.
    """
    own = {"size": "", "density": "sparsity.density", "epochs": "data.epochs", RATE: "optimizer.lr"}
    if name in own:
        return own[name]
    columns = {column: path for column, (path, _) in spec_columns().items() if is_searched(path)}
    known = {**columns, **{path: path for path in columns.values()}}
    if name not in known:
        names = dict.fromkeys([*own, *known])
        raise ValueError(f"a space has no axis {name!r}{nearest(name, names)}; axes are {', '.join([*own, *columns])}")
    return known[name]


@lru_cache(maxsize=256)
def _kind(path: str) -> Any:
    """The type of a field of a trial."""
    return dict(leaves(TrialSpec))[path]


def is_searched(path: str) -> bool:
    """Whether a field of a trial can be an axis."""
    return path not in NOT_SEARCHED and not path.startswith(NOT_SEARCHED_PARTS)


@dataclass(frozen=True, kw_only=True)
class Axis(Record):
    """One axis: `choices`, or every value from `low` to `high`.

    A size is a name of the ladder; a range of sizes is in weights outside the embedding, all of
    them counted, and makes shapes between the named ones. Raises ValueError for a name that is no
    axis, for a range that is none, and for choices that are no values of the field.
    """

    name: str
    choices: tuple[Any, ...] = ()
    low: float | None = None
    high: float | None = None
    scale: Scale = "log"

    def __post_init__(self) -> None:
        path = field_of(self.name)
        require_choice(f"{self.name}.scale", self.scale, Scale)
        if self.choices:
            require(self.low is None and self.high is None, self.name, self.choices, "choices or a range, not both")
            choices = tuple(self._choice(path, value) for value in self.choices)
            object.__setattr__(self, "choices", choices)
            require(len(set(choices)) == len(choices), self.name, list(choices), "each choice once")
            return
        if self.low is None or self.high is None:
            raise ValueError(
                f"{self.name} has neither choices nor a range; give {self.name}=A,B or {self.name}=LOW..HIGH"
            )
        kind = "" if self.name == "size" else _kind(path)
        require(kind in ("", float, int), self.name, f"{self.low:g}..{self.high:g}", "choices: it is no number")
        is_exact = not self.is_whole or (self.low % 1 == 0 and self.high % 1 == 0)
        require(is_exact, self.name, f"{self.low:g}..{self.high:g}", "whole numbers at both ends: all of it are")
        if not self.low < self.high:
            raise ValueError(f"{self.name} goes from {self.low:g} to {self.high:g}; expected the lower end first")
        if self.scale == "log" and self.low <= 0:
            raise ValueError(f"{self.name} starts at {self.low:g}; a logarithmic range starts above 0")

    def _choice(self, path: str, value: Any) -> Any:
        if self.name == "size":
            require(isinstance(value, str), "size", value, "a name of the ladder")
            return ladder.full_name(value)
        kind = _kind(path)
        if isinstance(value, str) and kind is not str:
            value = from_text(kind, value, self.name)
        return float(value) if kind is float else value

    @classmethod
    def parse(cls, text: str, vocab_size: int) -> Axis:
        """`weight_decay=0.1..10`, `density=1,0.5,0.25`, `size=laptop-xs..laptop-m`, `epochs=9`.

        vocab_size: counts the weights of the sizes that end a range. Raises ValueError for what is
        no axis, in one line.
        """
        name, equals, rest = text.partition("=")
        if not equals or not rest:
            raise ValueError(f"{text!r} is no axis; write name=LOW..HIGH or name=A,B,C")
        low, dots, high = rest.partition("..")
        if not dots:
            return cls(name=name, choices=tuple(rest.split(",")))
        if name == "size" and not (_is_number(low) and _is_number(high)):
            lowest, highest = (_weights(ladder.model(end, vocab_size=vocab_size)) for end in (low, high))
            return cls(name=name, low=lowest, high=highest)
        return cls(name=name, low=from_text(float, low, name), high=from_text(float, high, name))

    @property
    def said(self) -> str:
        """As it is written on a command line, the name aside."""
        return ", ".join(map(str, self.choices)) if self.choices else f"{self.low:g} to {self.high:g}"

    @property
    def is_free(self) -> bool:
        return len(self.choices) != 1

    @property
    def is_whole(self) -> bool:
        """Whether every value is a whole number."""
        return self.name != "size" and _kind(field_of(self.name)) is int

    @property
    def is_ordered(self) -> bool:
        """Whether the choices have an order: numbers and sizes do."""
        return self.name == "size" or not any(isinstance(value, str | bool) for value in self.choices)

    def outward(self, unit: float) -> Any:
        """The value at a place in [0, 1]."""
        if self.choices:
            ordered = self.ordered()
            return ordered[min(int(unit * len(ordered)), len(ordered) - 1)]
        assert self.low is not None
        assert self.high is not None
        if self.scale == "linear":
            value = _short(self.low + unit * (self.high - self.low), self.low, self.high)
        else:
            value = _short(self.low * (self.high / self.low) ** unit, self.low, self.high)
        return round(value) if self.is_whole else value

    def inward(self, value: Any) -> float | None:
        """The place of a value in [0, 1]; None for one that the axis does not hold."""
        if self.choices:
            ordered = self.ordered()
            return (ordered.index(value) + 0.5) / len(ordered) if value in ordered else None
        assert self.low is not None
        assert self.high is not None
        if isinstance(value, str) or not self.low * (1 - 1e-9) <= value <= self.high * (1 + 1e-9):
            return None
        if self.scale == "linear":
            return float((value - self.low) / (self.high - self.low))
        return math.log(value / self.low) / math.log(self.high / self.low)

    def ordered(self) -> list[Any]:
        """The choices, from the least to the greatest where they have an order."""
        return _ordered(self.choices, self.name == "size") if self.is_ordered else list(self.choices)


@dataclass(frozen=True, kw_only=True)
class Space(Record):
    """Axes by name. Raises ValueError for none that is free and for one that is named twice."""

    axes: tuple[Axis, ...]

    def __post_init__(self) -> None:
        paths = [field_of(axis.name) or axis.name for axis in self.axes]
        twice = next((a.name for a, path in zip(self.axes, paths, strict=True) if paths.count(path) > 1), None)
        if twice is not None:
            raise ValueError(f"the space names {twice} twice; one axis is one field")
        if not any(axis.is_free for axis in self.axes):
            fixed = ", ".join(axis.name for axis in self.axes) or "nothing"
            raise ValueError(f"the space has no free setting (it fixes {fixed}); give one axis a range or two choices")

    @classmethod
    def parse(cls, texts: Sequence[str], vocab_size: int) -> Self:
        """Axes as they are written on a command line; see `Axis.parse`."""
        return cls(axes=tuple(Axis.parse(text, vocab_size) for text in texts))

    @property
    def free(self) -> tuple[Axis, ...]:
        """The axes that are searched, in order; the others have one choice."""
        return tuple(axis for axis in self.axes if axis.is_free)

    def require_points(self) -> None:
        """Raise ValueError when an axis is missing without which no trial is whole."""
        missing = [name for name in POINT if name not in {axis.name for axis in self.axes}]
        if missing:
            raise ValueError(f"the space lacks {', '.join(missing)}; fix each by one choice or give it a range")

    def values(self, units: Sequence[float]) -> dict[str, Any]:
        """The values at a place in the unit cube of the free axes."""
        places = iter(units)
        return {axis.name: axis.outward(next(places)) if axis.is_free else axis.choices[0] for axis in self.axes}

    def units(self, values: Values) -> list[float] | None:
        """The place of values in the unit cube; None where an axis does not hold its value."""
        places = [axis.inward(values[axis.name]) for axis in self.axes]
        if any(place is None for place in places):
            return None
        return [place for axis, place in zip(self.axes, places, strict=True) if axis.is_free and place is not None]

    def trial(self, recipe: Recipe, unique_tokens: int, values: Values, seed: int = 0) -> TrialSpec:
        """The trial of a point with all its values. Raises ValueError for what a spec refuses."""
        size = values["size"]
        shape = recipe.model(size) if isinstance(size, str) else shape_of(size, recipe.vocab_size, recipe.context)
        settings = dict(self._settings(shape, values))
        return recipe.spec(shape, values["density"], unique_tokens, values["epochs"], seed=seed, settings=settings)

    def applied(self, spec: TrialSpec, values: Values) -> TrialSpec:
        """A trial with other settings at the same point."""
        settings = dict(self._settings(spec.model, values))
        for path, value in settings.items():
            spec = spec.with_field(path, value)
        return spec.replace(name=name_of(spec, settings))

    def _settings(self, shape: ModelSpec, values: Values) -> Iterator[tuple[str, Any]]:
        for axis in self.axes:
            if axis.name == RATE:
                yield "optimizer.lr", values[RATE] * ladder.dense_lr(shape)
            elif axis.name not in POINT:
                yield field_of(axis.name), values[axis.name]

    def values_of(self, spec: TrialSpec) -> dict[str, Any]:
        """What a trial has on every axis, whoever proposed it."""
        return {axis.name: _value(axis, spec) for axis in self.axes}


def _value(axis: Axis, spec: TrialSpec) -> Any:
    if axis.name == "size":
        if not axis.choices:
            return float(_weights(spec.model))
        shape = (spec.model.hidden, spec.model.intermediate, spec.model.layers, spec.model.heads)
        return next((name for name in axis.choices if ladder.SHAPES[name] == shape), spec.model.name)
    if axis.name == RATE:
        return float(f"{spec.optimizer.lr / ladder.dense_lr(spec.model):.12g}")  # undoes the product's last bit
    return spec.at(field_of(axis.name))


@lru_cache(maxsize=256)
def _ordered(choices: tuple[Any, ...], sizes: bool) -> list[Any]:
    return sorted(choices, key=(lambda name: _weights(ladder.model(name))) if sizes else None)


@lru_cache(maxsize=4096)
def shape_of(weights: float, vocab_size: int, context: int) -> ModelSpec:
    """The shape whose weights outside the embedding, all counted, are nearest to a number."""
    return ladder.shape_near(weights, 1.0, vocab_size=vocab_size, context=context)


def _weights(shape: ModelSpec) -> int:
    return counts.parameters(shape, SparsitySpec(method="dense", density=1.0)).active_non_embedding


def _is_number(text: str) -> bool:
    try:
        return math.isfinite(float(text))
    except ValueError:
        return False


def _short(value: float, low: float, high: float) -> float:
    """A value that a person can read, inside its range."""
    return min(max(float(f"{value:.{DIGITS}g}"), low), high)

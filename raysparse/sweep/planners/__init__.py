"""Who proposes the trials of a sweep. A planner is asked, never runs anything, and remembers
nothing (`base`); `recipe` is how all of them make a trial of a point.
"""

from __future__ import annotations

from typing import Any

from raysparse.record import nearest
from raysparse.sweep.planners.base import Planner


def to_dict(planner: Planner) -> dict[str, Any]:
    """For plan.json."""
    return {"kind": type(planner).__name__.lower(), **planner.to_dict()}


def from_dict(values: dict[str, Any]) -> Planner:
    """A planner out of plan.json. Raises ValueError for an unknown kind or wrong fields."""
    from raysparse.sweep.planners.adaptive import Adaptive
    from raysparse.sweep.planners.search import Search
    from raysparse.sweep.planners.tune import Tune

    kinds: dict[str, type[Planner]] = {kind.__name__.lower(): kind for kind in (Adaptive, Search, Tune)}
    rest = dict(values)
    kind = rest.pop("kind", "")
    if kind not in kinds:
        raise ValueError(f"planner.kind is {kind!r}{nearest(str(kind), kinds)}, expected one of {', '.join(kinds)}")
    return kinds[kind].from_dict(rest)

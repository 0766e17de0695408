"""What the broker remembers of its slots: what each holds, which group of workers speaks for it,
when it was last heard of, and since when it has had nothing to do.

A slot outlives its workers: Ray Train starts them again after a death, and each start is a *group*
with a name of its own. A group that was followed by another one may still be alive, cut off or
stopped; it must not speak for the slot any more. Left out: what follows from it (`broker`).
"""

from __future__ import annotations

from collections.abc import Callable


class Slots:
    """Not thread-safe. `patience`: seconds after which a slot with nothing to do may go home."""

    def __init__(self, clock: Callable[[], float], patience: float):
        self.held: dict[str, str] = {}  # slot -> the trial that it trains
        self.blamed: dict[str, str] = {}  # slot -> the trial that its last death was counted against
        self._clock, self._patience = clock, patience
        self._groups: dict[str, str] = {}
        self._former: set[tuple[str, str]] = set()
        self._heard: dict[str, float] = {}
        self._idle: dict[str, float] = {}  # since when

    def is_former(self, slot: str, group: str) -> bool:
        """Whether a group was followed by another one."""
        return (slot, group) in self._former

    def arrive(self, slot: str, group: str) -> bool:
        """A group speaks for a slot; the answer is whether it follows another one, which died."""
        self.hear(slot)
        before = self._groups.get(slot, group)
        self._groups[slot] = group
        if before != group:
            self._former.add((slot, before))
        return before != group

    def hear(self, slot: str) -> None:
        self._heard[slot] = self._clock()

    def leave(self, slot: str) -> None:
        """It went home, or its workers are gone."""
        self._heard.pop(slot, None)
        self._idle.pop(slot, None)

    def present(self, within: float) -> tuple[str, ...]:
        """The slots that were heard of in the last `within` seconds."""
        return tuple(slot for slot, heard in self._heard.items() if self._clock() - heard <= within)

    def work(self, slot: str, trial_id: str) -> None:
        self.held[slot] = trial_id
        self._idle.pop(slot, None)

    def may_go(self, slot: str) -> bool:
        """It found nothing to do; the answer is whether that has lasted long enough, while others
        still work.
        """
        since = self._idle.setdefault(slot, self._clock())
        return bool(self.held) and self._clock() - since >= self._patience

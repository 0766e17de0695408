"""Counter-based random numbers: Philox4x32-10 (Salmon et al., "Parallel random numbers: as easy as
1, 2, 3", SC 2011).

A random choice is a pure function of (seed, what it is for, index), not the next draw of a
generator. So every rank computes the same topology with nothing broadcast, a resumed run needs no
generator state, and a GPU kernel can make the same bits. Element i uses counter i // 4 and lane i %
4, the numbers that Triton's `tl.randint4x(seed, i // 4)` gives.

torch has no unsigned 32-bit arithmetic on the CPU, so words live in int64 and are masked after
every product. The rounds are many small operations: on a CPU numpy does them, whose calls cost a
quarter of torch's.
"""

from __future__ import annotations

from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

Words = TypeVar("Words", Tensor, np.ndarray)  # int64

_MASK = 0xFFFFFFFF
_ROUND_A, _ROUND_B = 0xD2511F53, 0xCD9E8D57
_KEY_A, _KEY_B = 0x9E3779B9, 0xBB67AE85
_ROUNDS = 10
# Counters worked on at once on a CPU: the temporaries stay in its cache, which is four times faster
# than one long pass.
PORTION = 1 << 13


def stream(seed: int, *purpose: int) -> int:
    """A 64-bit Philox key for one purpose of one run, for example (seed, matrix, topology update,
    what for).

    Each number is stirred in with the SplitMix64 finaliser, so neighbouring purposes share no
    pattern.
    """
    state = 0
    for number in (seed, *purpose):
        state = (state + number + 0x9E3779B97F4A7C15) & 0xFFFFFFFFFFFFFFFF
        state = ((state ^ (state >> 30)) * 0xBF58476D1CE4E5B9) & 0xFFFFFFFFFFFFFFFF
        state = ((state ^ (state >> 27)) * 0x94D049BB133111EB) & 0xFFFFFFFFFFFFFFFF
        state ^= state >> 31
    return state


def _multiply(constant: int, word: Words) -> tuple[Words, Words]:
    """High and low 32 bits of constant * word, for word in [0, 2**32). The signed product wraps
    around: its bits are right.
    """
    low = word * constant
    high = low >> 32
    high &= _MASK
    low &= _MASK
    return high, low


def _four_words(key: int, counter: Words) -> tuple[Words, Words, Words, Words]:
    k0, k1 = key & _MASK, (key >> 32) & _MASK
    c0, c1 = counter & _MASK, counter >> 32
    c2 = c3 = counter & 0
    for _ in range(_ROUNDS):
        high_b, low_b = _multiply(_ROUND_B, c2)
        high_a, low_a = _multiply(_ROUND_A, c0)
        high_b ^= c1
        high_b ^= k0
        high_a ^= c3
        high_a ^= k1
        c0, c1, c2, c3 = high_b, low_b, high_a, low_a
        k0, k1 = (k0 + _KEY_A) & _MASK, (k1 + _KEY_B) & _MASK
    return c0, c1, c2, c3


def quadruples(key: int, start: int, stop: int, *, device: torch.device | str = "cpu") -> Tensor:
    """The four words of every counter from `start` to `stop`, int64 (stop - start, 4) in [0,
    2**32).
    """
    out = torch.empty(stop - start, 4, dtype=torch.int64, device=device)
    if out.device.type == "cpu":
        table = out.numpy()
        for first in range(start, stop, PORTION):
            counter = np.arange(first, min(first + PORTION, stop), dtype=np.int64)
            for lane, word in enumerate(_four_words(key, counter)):
                table[first - start : first - start + PORTION, lane] = word
    else:
        torch.stack(_four_words(key, torch.arange(start, stop, device=device)), dim=1, out=out)
    return out


def words(key: int, start: int, stop: int, *, device: torch.device | str = "cpu") -> Tensor:
    """Words `start` to `stop` of the stream `key`, int64 (stop - start,) in [0, 2**32)."""
    first = start // 4
    return quadruples(key, first, -(-stop // 4), device=device).view(-1)[start - 4 * first : stop - 4 * first]


def uniform(word: Tensor) -> Tensor:
    """Words as float32 numbers in (0, 1), never 0 or 1: their upper 23 bits plus one half."""
    return ((word >> 9).float() + 0.5) * 2.0**-23

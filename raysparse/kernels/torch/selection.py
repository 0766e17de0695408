"""Choosing blocks in plain torch: the weakest active ones, and the inactive ones to regrow.

Nothing here makes a tensor as long as the dense matrix. Keys (magnitudes, random words) are made a
portion at a time, as often as they are needed; the k-th smallest is found by counting 11-bit digits
(radix selection: exact, and the counts do not depend on the order of work). Equal keys are taken in
ascending order of their block, so the choice is unique and the same on every device.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from raysparse.kernels import philox
from raysparse.kernels.bitmask import GROUP, WORD, pack
from raysparse.kernels.torch import bits
from raysparse.kernels.torch.bits import bits_of, portions, put_bits

WORDS = 32 * GROUP  # blocks looked at together when random words are made, slower in smaller portions
_DIGIT = 11
_NEVER = 1 << 32  # the key of a block that may not be chosen
SURVIVES = 2 * _NEVER  # and of one that is no candidate in its row, since it stays

Keys = Callable[
    [int, int], Tensor
]  # (start, stop) -> int64 keys in [0, 2**32], _NEVER for blocks that may not be chosen


def order_bits(scores: Tensor) -> Tensor:
    """int64 numbers in [0, 2**31) that sort as the non-negative float32 `scores` do."""
    return scores.contiguous().view(torch.int32).long()


def smallest(keys: Keys, total: int, k: int) -> Iterator[Tensor]:
    """For each portion of the blocks in turn, which belong to the k smallest keys, bool."""
    if total <= bits.PORTION:  # one portion: make its keys once, and look through them as they are
        all_keys = keys(0, total)

        def keys(start: int, stop: int) -> Tensor:
            return all_keys

        bound = int(all_keys.kthvalue(k).values) if k else 0
        ties = k - int((all_keys < bound).sum())
    else:
        bound, ties = _kth_smallest(keys, total, k)
    for start, stop in portions(total):
        key = keys(start, stop)
        equal = key == bound
        chosen = (key < bound) | (equal & (equal.cumsum(0) <= ties))
        ties -= min(ties, int(equal.sum()))
        del key, equal  # before the next portion's are made
        yield chosen


def _kth_smallest(keys: Keys, total: int, k: int) -> tuple[int, int]:
    """(the k-th smallest key, how many keys equal to it are among the k smallest); (0, 0) for k =
    0.
    """
    if k == 0:
        return 0, 0
    prefix = 0
    for shift in (2 * _DIGIT, _DIGIT, 0):
        count = torch.zeros(1 << _DIGIT, dtype=torch.int64)
        for start, stop in portions(total):
            key = keys(start, stop) >> shift
            key = key[(key >> _DIGIT) == prefix] & (len(count) - 1)
            count += torch.bincount(key, minlength=len(count)).cpu()
        reached = count.cumsum(0)
        digit = int(torch.searchsorted(reached, k))
        k -= int(reached[digit - 1]) if digit else 0
        prefix = (prefix << _DIGIT) | digit
    return prefix, k


def pairwise_sums(blocks: Tensor) -> Tensor:
    """The sum of every row, float32: neighbours first, then pairs of pairs, so that every device
    adds in the same order.
    """
    x = blocks.float()
    width = 1 << (x.shape[1] - 1).bit_length()
    x = torch.nn.functional.pad(x, (0, width - x.shape[1]))
    while x.shape[1] > 1:
        x = x[:, 0::2] + x[:, 1::2]
    return x[:, 0]


def weakest(values: Tensor, size: int, k: int, *, noise: int | None = None, exponent: float = 1.0) -> Tensor:
    """The k active blocks with the smallest sum of |w|, bool (active,).

    With `noise` (a Philox key) the rule is soft: a block is kept with probability growing as score
    ** exponent.
    """
    blocks = values.view(-1, size)

    def keys(start: int, stop: int) -> Tensor:
        scores = pairwise_sums(blocks[start:stop].abs())
        if (
            noise is not None
        ):  # exp(exponent * log(score) + Gumbel), written as a quotient so that it stays non-negative
            uniform = philox.uniform(philox.words(noise, start, stop, device=values.device))
            scores = scores**exponent / -uniform.double().log().float()  # in float64, so that devices agree
        return order_bits(scores)

    dropped = torch.empty(len(blocks), dtype=torch.bool, device=values.device)
    for (start, stop), part in zip(portions(len(blocks)), smallest(keys, len(blocks), k), strict=True):
        dropped[start:stop] = part
    return dropped


def regrow_at_random(mask: Tensor, total: int, k: int, key: int) -> Tensor:
    """k of the inactive blocks, uniformly: those with the smallest random words of the stream
    `key`. A mask of int32 words.

    Random words cost more than all else, so they are made once. Where they are not kept, the k-th
    smallest is where it is to be expected, give or take 8 standard deviations: what lies below is
    chosen at once, and only what lies within that window is kept and chosen from.
    """
    if total <= bits.PORTION:
        return _smallest_as_mask(lambda start, stop: _inactive_words(key, mask, start, stop), total, k)
    inactive = max(1, total - sum(int(bits_of(mask, start, stop).sum()) for start, stop in portions(total)))
    share, slack = k / inactive, (8 * math.sqrt(k * (1 - k / inactive)) + 64) / inactive
    low, high = (max(0, min(round(bound * _NEVER), _NEVER)) for bound in (share - slack, share + slack))
    found, taken = torch.empty_like(mask), 0
    block, word = [], []
    for start, stop in portions(total, WORDS):
        words = _inactive_words(key, mask, start, stop)
        put_bits(found, start, below := words < low)
        taken += int(below.sum())
        near = ((words >= low) & (words < high)).nonzero().view(-1)
        block.append(near + start)
        word.append(words[near])
        del words, below  # before the next portion's are made
    near, words, missing = torch.cat(block), torch.cat(word), k - taken
    if (
        not 0 <= missing <= len(near)
    ):  # the window missed: a stream that was used before, its small words may be active by now
        return _smallest_as_mask(lambda start, stop: _inactive_words(key, mask, start, stop), total, k)
    near = near[torch.cat(list(smallest(lambda start, stop: words[start:stop], len(near), missing)))]
    return found.scatter_add_(0, near // WORD, (torch.ones_like(near) << near % WORD).to(torch.int32))


def _inactive_words(key: int, mask: Tensor, start: int, stop: int) -> Tensor:
    return philox.words(key, start, stop, device=mask.device).masked_fill_(bits_of(mask, start, stop), _NEVER)


def regrow_largest(mask: Tensor, scores: Tensor, k: int) -> Tensor:
    """The k inactive blocks with the largest scores, float32 (total,) and not negative. A mask of
    int32 words.
    """

    def keys(start: int, stop: int) -> Tensor:
        return (0x7FFFFFFF - order_bits(scores[start:stop])).masked_fill_(bits_of(mask, start, stop), _NEVER)

    return _smallest_as_mask(keys, len(scores), k)


def _smallest_as_mask(keys: Keys, total: int, k: int) -> Tensor:
    return torch.cat([pack(part) for part in smallest(keys, total, k)])


def regrow_in_rows(
    mask: Tensor, survivors: Tensor, total: int, rows: int, per_row: int, key: int, scores: Tensor | None = None
) -> Tensor:
    """In each of `rows` equal rows of blocks, as many new ones as its `survivors` are short of
    `per_row`. A mask of int32 words.

    Taken are the inactive blocks of `mask` with the largest `scores`, float32 (total,), or without
    scores those with the smallest random words of the stream `key`; blocks that were active and do
    not survive only when a row has no others. Keys of all blocks are made at once: it is for tiles,
    of which there are few.
    """
    keys = philox.words(key, 0, total, device=mask.device) if scores is None else 0x7FFFFFFF - order_bits(scores)
    keys = (keys + bits_of(mask, 0, total) * _NEVER).masked_fill(bits_of(survivors, 0, total), SURVIVES)
    return pack(first_in_rows(keys, rows, per_row))


def first_in_rows(keys: Tensor, rows: int, per_row: int) -> Tensor:
    """Of the int64 keys of equal rows, the smallest of each: as many as those of the row's
    survivors are short of `per_row`, bool (total,).
    """
    keys = keys.view(rows, -1)
    order = keys.argsort(dim=1, stable=True)
    rank = torch.empty_like(order).scatter_(1, order, torch.arange(order.shape[1], device=keys.device).expand_as(order))
    missing = per_row - (keys == SURVIVES).sum(dim=1, keepdim=True)
    return (rank < missing).flatten()

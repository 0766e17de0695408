"""What a trial is: frozen records that say everything which changes a trial's result, and nothing
else.

A trial's identity is a hash of its fields (`TrialSpec.trial_id`), never a name that somebody must
parse back later. Fields marked as labels (a model's name, a trial's name) are for people and are
left out of the hash; where a trial runs (`placement`: devices, workers, micro-batch) is a record of
its own, because the same trial on other machines is the same trial. Everything is validated when it
is built, so that a wrong value never reaches a device.

Left out: what a size looks like (`ladder`), what a trial costs (`counts`), what came out of it
(`results`).
"""

from __future__ import annotations

import functools
import hashlib
import json
import math
from dataclasses import dataclass
from typing import Any, Literal

from raysparse.reading import ReadingSpec
from raysparse.record import Record, added, label, require, require_choice

Method = Literal["dense", "static", "set", "rigl", "smet", "smet_grad"]
LayoutKind = Literal["element", "run", "tile"]
Precision = Literal["fp32", "bf16", "bf16_master"]
LearningRateScaling = Literal["rsqrt", "inverse", "none"]
Distribution = Literal["uniform", "erk"]
PruneRule = Literal["magnitude", "soft_magnitude"]
Moments = Literal["fp32", "bf16_stochastic"]
DecayPer = Literal["own_rate", "dense_rate", "run"]

# Part of every trial id: raise it when the meaning of a field changes, so that old results are
# never taken for new ones.
IDENTITY_VERSION = 1


@dataclass(frozen=True, kw_only=True)
class ModelSpec(Record):
    """A LLaMA shape (docs/method.md): RMSNorm, rotary embedding, SwiGLU, no biases, untied head."""

    hidden: int
    intermediate: int
    layers: int
    heads: int
    vocab_size: int = 32_000
    context: int = 256  # tokens a sequence
    name: str = label()

    def __post_init__(self) -> None:
        for key in ("hidden", "intermediate", "layers", "heads", "context"):
            require(getattr(self, key) >= 1, f"model.{key}", getattr(self, key), "a positive whole number")
        require(self.vocab_size >= 2, "model.vocab_size", self.vocab_size, "at least 2")
        if self.hidden % self.heads:
            found = f"model.hidden is {self.hidden}, which {self.heads} heads do not divide"
            raise ValueError(f"{found}; choose heads from the divisors of hidden")
        require(self.hidden // self.heads % 2 == 0, "model.hidden / model.heads", self.hidden // self.heads,
                "an even number (rotary embedding turns pairs)")  # fmt: skip

    @property
    def projections(self) -> dict[str, tuple[int, int]]:
        """The matrices that can be sparse: name -> (rows = outputs, columns = inputs), in the order
        of the model.
        """
        h, i = self.hidden, self.intermediate
        one_layer = {
            "attention.query": (h, h), "attention.key": (h, h), "attention.value": (h, h), "attention.output": (h, h),
            "mlp.gate": (i, h), "mlp.up": (i, h), "mlp.down": (h, i),
        }  # fmt: skip
        return {f"layers.{n}.{name}": shape for n in range(self.layers) for name, shape in one_layer.items()}


@dataclass(frozen=True, kw_only=True)
class SparsitySpec(Record):
    """How the seven projection matrices of every layer are kept sparse (SMET, arXiv 2606.00888;
    docs/method.md, section 1).

    density is the fraction of weights kept, exact per matrix up to one block. `update_ratio` falls
    along a cosine to `update_ratio_final` over the run. Methods: `dense`; `static` (random mask,
    never changed); `set` (plain Adam); `rigl` (regrow the largest gradient); `smet` (local age and
    regrowth warm-up); `smet_grad` (smet with rigl's regrowth).
    """

    method: Method = "smet"
    density: float = 0.5
    layout: LayoutKind = "element"
    block: int = 1  # weights along one side of a block: run = 1 x block, tile = block x block
    update_every: int = 100  # steps between topology updates
    update_ratio: float = 0.2  # share of the active blocks replaced at the first update
    update_ratio_final: float = 0.005
    regrowth_warmup: int = 10  # W, steps over which a regrown weight's step rises to its full size; 0 turns it off
    lr_scaling: LearningRateScaling = "rsqrt"
    distribution: Distribution = "uniform"
    prune: PruneRule = "magnitude"
    balanced: bool = added(False)  # tiles only: as many active in every row of tiles, so that no product is longer

    def __post_init__(self) -> None:
        require_choice("sparsity.method", self.method, Method)
        require_choice("sparsity.layout", self.layout, LayoutKind)
        require_choice("sparsity.lr_scaling", self.lr_scaling, LearningRateScaling)
        require_choice("sparsity.distribution", self.distribution, Distribution)
        require_choice("sparsity.prune", self.prune, PruneRule)
        require(0.0 < self.density <= 1.0, "sparsity.density", self.density, "a fraction in (0, 1]")
        if self.method == "dense" and self.density != 1.0:
            found = f"sparsity.method is 'dense' but density is {self.density}"
            raise ValueError(f"{found}; use density 1 or a sparse method")
        require(self.block >= 1, "sparsity.block", self.block, "a positive whole number")
        if self.layout == "element" and self.block != 1:
            found = f"sparsity.block is {self.block} but layout 'element' has blocks of 1"
            raise ValueError(f"{found}; use 'run' or 'tile'")
        if self.balanced and self.layout != "tile":
            found = f"sparsity.balanced is for layout 'tile', not {self.layout!r}"
            raise ValueError(f"{found}, whose products are dense in any case")
        require(self.update_every >= 1, "sparsity.update_every", self.update_every, "at least 1 step")
        require(0.0 <= self.update_ratio <= 1.0, "sparsity.update_ratio", self.update_ratio, "a fraction in [0, 1]")
        require(0.0 <= self.update_ratio_final <= self.update_ratio, "sparsity.update_ratio_final",
                self.update_ratio_final, "a fraction in [0, update_ratio]")  # fmt: skip
        require(self.regrowth_warmup >= 0, "sparsity.regrowth_warmup", self.regrowth_warmup, "0 (off) or more steps")

    @property
    def block_size(self) -> int:
        """Weights in one block."""
        return {"element": 1, "run": self.block, "tile": self.block**2}[self.layout]

    def check_blocks(self, shapes: dict[str, tuple[int, int]]) -> None:
        """Raise ValueError when blocks do not divide a matrix of (rows, columns), or are too large
        for the density.
        """
        for name, (rows, columns) in shapes.items():
            sides = {"element": [], "run": [rows * columns], "tile": [rows, columns]}[self.layout]
            if any(side % self.block for side in sides):
                raise ValueError(
                    f"sparsity.block {self.block} (layout {self.layout!r}) does not divide {name} of {rows} x "
                    f"{columns}; choose a block that divides {math.gcd(*sides)}, or change the model's shape"
                )
            total, where = rows * columns // self.block_size, f"{name} of {rows} x {columns}"
            if self.balanced:
                total, where = columns // self.block, f"a row of {where}"
            if self.density * total < 0.5:
                raise ValueError(
                    f"sparsity.density {self.density:g} is less than half a block of the {total} in {where}; "
                    f"choose a block smaller than {self.block} or a density of at least {0.5 / total:.2g}"
                )

    @property
    def learning_rate_factor(self) -> float:
        """What the learning rate of the sparse matrices is multiplied by: 1/sqrt(d), 1/d or 1 (SMET
        section 3).
        """
        return float({"rsqrt": self.density**-0.5, "inverse": 1.0 / self.density, "none": 1.0}[self.lr_scaling])

    @property
    def changes_topology(self) -> bool:
        return self.method in ("set", "rigl", "smet", "smet_grad") and self.density < 1.0

    @property
    def uses_local_age(self) -> bool:
        return self.method in ("smet", "smet_grad")

    @property
    def regrows_by_gradient(self) -> bool:
        return self.method in ("rigl", "smet_grad")


@dataclass(frozen=True, kw_only=True)
class DataSpec(Record):
    """Which tokens, and how often; fewer `unique_tokens` are a prefix of more of one corpus."""

    corpus: str = "python"  # a name ("python", "python+packages"), a path or glob, or "hf:NAME[:CONFIG]"
    tokenizer: str = "bytes"  # "bytes", "bpe:VOCABULARY" (trained on the corpus), or "hf:NAME_OR_FILE"
    unique_tokens: int = 131_072  # U
    epochs: float = 1.0  # passes over the unique tokens; D = U * epochs
    validation_tokens: int = 65_536  # of documents that no training subset contains
    reading: ReadingSpec = added(ReadingSpec())  # fields, encoding, split (raysparse/reading.py)

    def __post_init__(self) -> None:
        require(bool(self.corpus), "data.corpus", self.corpus, "a corpus name, path or glob")
        require(bool(self.tokenizer), "data.tokenizer", self.tokenizer, "a tokenizer name")
        require(self.unique_tokens >= 2, "data.unique_tokens", self.unique_tokens, "at least 2 tokens")
        require(math.isfinite(self.epochs) and self.epochs > 0, "data.epochs", self.epochs, "a positive number")
        require(self.validation_tokens >= 2, "data.validation_tokens", self.validation_tokens, "at least 2 tokens")


@dataclass(frozen=True, kw_only=True)
class OptimizerSpec(Record):
    """Adam with SMET's parts (docs/method.md): linear warm-up, then cosine to
    `final_lr_fraction` of the peak.

    Weight decay is decoupled; it shrinks matrices, embedding and head, not norms. What one unit
    of it means is `decay_per` (`decay` has the formulas): `own_rate`, `dense_rate`, or `run`, where
    it counts the time scales tau = 1 / (lr x decay) steps of AdamW in the run: tau is 1 /
    weight_decay of the run (arXiv 2505.13738).
    """

    lr: float = 1e-3  # peak, of the dense parameters; the sparse matrices' is lr * SparsitySpec.learning_rate_factor
    beta1: float = 0.9
    beta2: float = 0.999
    eps: float = 1e-8
    weight_decay: float = 0.0  # 0 is off, whatever its unit
    clip: float = 1.0  # largest gradient norm over all parameters, dense and compact; 0 turns it off
    warmup_fraction: float = 0.1
    final_lr_fraction: float = 0.1
    batch_sequences: int = 512  # sequences a step, over all workers and micro-batches
    moments: Moments = "fp32"
    decay_per: DecayPer = added("own_rate")
    dropout: float = added(0.0)  # probability, of each number of a residual branch in training (model/dropout.py)
    average: float = added(0.0)  # time scale of the weights' moving average as a share of the run; 0 keeps none

    def __post_init__(self) -> None:
        require(math.isfinite(self.lr) and self.lr > 0, "optimizer.lr", self.lr, "a positive number")
        for key in ("beta1", "beta2"):
            require(0.0 <= getattr(self, key) < 1.0, f"optimizer.{key}", getattr(self, key), "a number in [0, 1)")
        require(self.eps > 0, "optimizer.eps", self.eps, "a positive number")
        is_amount = math.isfinite(self.weight_decay) and self.weight_decay >= 0
        require(is_amount, "optimizer.weight_decay", self.weight_decay, "0 (off) or a positive number")
        require(self.clip >= 0, "optimizer.clip", self.clip, "0 (off) or a positive norm")
        for key in ("warmup_fraction", "final_lr_fraction"):
            require(0.0 <= getattr(self, key) <= 1.0, f"optimizer.{key}", getattr(self, key), "a fraction in [0, 1]")
        require(self.batch_sequences >= 1, "optimizer.batch_sequences", self.batch_sequences, "at least 1")
        require_choice("optimizer.moments", self.moments, Moments)
        require_choice("optimizer.decay_per", self.decay_per, DecayPer)
        require(0.0 <= self.dropout < 1.0, "optimizer.dropout", self.dropout, "0 (off) or a probability below 1")
        require(0.0 <= self.average <= 1.0, "optimizer.average", self.average, "0 (off) or a fraction of the run")

    def decay(self, rate: float, factor: float, steps: int) -> float:
        """Share of its weights that one step takes away from a group at `factor` times the dense
        `rate`, in a run of `steps`.
        """
        per_unit = {"own_rate": rate * factor, "dense_rate": rate, "run": rate / (self.lr * steps)}
        return per_unit[self.decay_per] * self.weight_decay


@dataclass(frozen=True, kw_only=True)
class TrialSpec(Record):
    """One training run. `trial_id` names it everywhere: in folders, in the journal and in the
    results table.
    """

    is_shared = False

    model: ModelSpec
    sparsity: SparsitySpec = SparsitySpec()
    data: DataSpec = DataSpec()
    optimizer: OptimizerSpec = OptimizerSpec()
    precision: Precision = "fp32"
    seed: int = 0
    evaluations: int = 8  # equally spaced over the run, the last one at its end
    parent: str = added("")  # the trial whose weights it begins with (release/continued.py); "" begins anew
    name: str = label()

    def __post_init__(self) -> None:
        require_choice("precision", self.precision, Precision)
        _check_blocks(self.model, self.sparsity)
        require(0 <= self.seed < 2**31, "seed", self.seed, "a whole number in [0, 2**31)")
        require(self.evaluations >= 1, "evaluations", self.evaluations, "at least 1")
        if self.unique_sequences < 1:
            raise ValueError(
                f"data.unique_tokens is {self.data.unique_tokens}, less than one sequence of {self.model.context} "
                f"tokens and its last target; raise unique_tokens or shorten model.context"
            )
        if self.steps < 1:
            raise ValueError(
                f"{self.unique_sequences} sequences x {self.data.epochs:g} epochs do not fill one batch of "
                f"{self.optimizer.batch_sequences} sequences; lower optimizer.batch_sequences or train for longer"
            )
        factor = max(1.0, self.sparsity.learning_rate_factor)
        decay = self.optimizer.decay(self.optimizer.lr, factor, self.steps)
        if decay >= 1.0:
            raise ValueError(
                f"optimizer.weight_decay {self.optimizer.weight_decay:g} (decay_per {self.optimizer.decay_per!r}) "
                f"takes {decay:.3g} of every weight in a step at the peak rate, expected less than 1; lower it or "
                f"optimizer.lr"
            )

    @functools.cached_property
    def trial_id(self) -> str:
        return _short_hash(self.identity())

    @functools.cached_property
    def replicate_of(self) -> str:
        """The id without the seed: equal for trials that are replicates of one another."""
        return _short_hash({key: value for key, value in self.identity().items() if key != "seed"})

    @property
    def unique_sequences(self) -> int:
        """Whole sequences in the unique tokens; each predicts `context` tokens, so one token more
        is read at the end.
        """
        return (self.data.unique_tokens - 1) // self.model.context

    @functools.cached_property
    def steps(self) -> int:
        """Optimizer steps: whole batches in unique_sequences * epochs; a batch may span two
        epochs.
        """
        return round(self.unique_sequences * self.data.epochs) // self.optimizer.batch_sequences

    @property
    def tokens_per_step(self) -> int:
        return self.optimizer.batch_sequences * self.model.context

    @property
    def tokens(self) -> int:
        """D: tokens that the run predicts, exactly."""
        return self.steps * self.tokens_per_step


@functools.lru_cache(maxsize=4096)
def _check_blocks(model: ModelSpec, sparsity: SparsitySpec) -> None:
    """Once for all the trials of a plan that share both."""
    sparsity.check_blocks(model.projections)


def _short_hash(identity: dict[str, Any]) -> str:
    text = json.dumps({"identity_version": IDENTITY_VERSION, **identity}, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:12]

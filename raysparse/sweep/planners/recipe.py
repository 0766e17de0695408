"""How a point of a sweep - size, density, unique tokens, epochs, seed, settings - becomes a trial.

Every planner makes its trials here, so that density 1 always means dense, a size always gets its
own learning rate unless one is given, and a name always reads the same. Precedence, from weak to
strong: a record's default; what the recipe holds; a setting of the point.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from raysparse import ladder
from raysparse.record import Record
from raysparse.spec import DataSpec, Method, ModelSpec, OptimizerSpec, Precision, SparsitySpec, TrialSpec

# Fields that say nothing about a dense trial, which would only get another id by them.
SPARSE_ONLY = {f"sparsity.{name}" for name in ("method", "layout", "block", "balanced")}


@dataclass(frozen=True, kw_only=True)
class Recipe(Record):
    """What a sweep does not vary. lr: peak rate of every size; None takes each size's own."""

    vocab_size: int
    context: int = 256
    method: Method = "smet"
    data: DataSpec = DataSpec()
    sparsity: SparsitySpec = SparsitySpec()
    optimizer: OptimizerSpec = OptimizerSpec()
    lr: float | None = None
    precision: Precision = "fp32"
    evaluations: int = 8

    def model(self, size: str) -> ModelSpec:
        """The shape of a named size. Raises ValueError with the known names."""
        return ladder.model(size, vocab_size=self.vocab_size, context=self.context)

    def spec(
        self,
        model: str | ModelSpec,
        density: float,
        unique_tokens: float,
        epochs: float,
        *,
        seed: int = 0,
        settings: Mapping[str, Any] | None = None,
    ) -> TrialSpec:
        """The trial of a point; `settings` are dotted fields of a TrialSpec with their values.

        Density 1 is trained dense and then has no layout. Raises ValueError for what a spec
        refuses and for a field that does not exist.
        """
        shape = self.model(model) if isinstance(model, str) else model
        dense = {"method": "dense", "density": 1.0, "layout": "element", "block": 1, "balanced": False}
        sparse = {"method": self.method, "density": density}
        spec = TrialSpec(
            model=shape,
            sparsity=self.sparsity.replace(**(dense if density == 1.0 else sparse)),
            data=self.data.replace(unique_tokens=unique_tokens, epochs=epochs),
            optimizer=self.optimizer.replace(lr=ladder.dense_lr(shape) if self.lr is None else self.lr),
            precision=self.precision,
            seed=seed,
            evaluations=self.evaluations,
        )
        for path, value in (settings or {}).items():
            if density < 1.0 or path not in SPARSE_ONLY:
                spec = spec.with_field(path, value)
        return spec.replace(name=name_of(spec, settings or {}))


def name_of(spec: TrialSpec, settings: Mapping[str, Any]) -> str:
    """For people: "laptop-m d=0.25 U=50000 x9 weight_decay=1 seed=2"; seed 0 is not said."""
    parts = [spec.model.name, f"d={spec.sparsity.density:g}", f"U={spec.data.unique_tokens}", f"x{spec.data.epochs:g}"]
    for path in settings:
        value = spec.at(path)
        parts.append(f"{path.rpartition('.')[2]}={value:.3g}" if isinstance(value, float) else f"{path}={value}")
    return " ".join(parts + ([f"seed={spec.seed}"] if spec.seed else []))

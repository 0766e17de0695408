"""The model: LLaMA whose projections may be sparse."""

"""The operations on compact storage: `torch` is the definition and anybody's way, `triton` its twin
on a GPU, `native` that of its passes over memory on a CPU, and `ops` the door to all.

Nothing here knows what a layer or a trial is: tensors and numbers in, tensors out. Everything is
deterministic, and every random choice comes from `philox`, so that one seed makes the same topology
on every rank and on every device.

Another backend is a third folder with the same files and signatures, a name in `ops.using`, and a
pass through `tests/kernels/conformance.py`, which has cases for every operation.
"""

"""The operations that pass over memory, in C, for a CPU whose machine has a C compiler: the same
files and signatures as `raysparse/kernels/torch/`, of which they equal the storage to the bit, the
loss and Adam to rounding. What is not here is torch's. A new one is a function in `kernels.c`, its
caller here, a line of `library.TAKES` and a name in `ops.PASSES`; `tests/kernels/conformance.py`
holds its answers and `tests/kernels/test_native.py` how it is compiled.
"""

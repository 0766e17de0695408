"""The operations that pass over memory, in C, for a CPU whose machine has a C compiler: the same
files and signatures as `raysparse/kernels/torch/`, of which they equal the storage to the bit and
Adam to rounding. What is not here is torch's.
"""

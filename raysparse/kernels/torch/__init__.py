"""The operations in plain torch: what the Triton ones must equal, and the way of a CPU. One file a
subject, under the names and with the signatures of `raysparse/kernels/triton/`.
"""

"""The operations in Triton: the way of a GPU. One file a subject, under the names and with the
signatures of `raysparse/kernels/torch/`.
"""

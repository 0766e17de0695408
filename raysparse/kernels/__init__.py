"""The operations on compact storage. `reference` holds them in plain torch; a Triton twin of each
goes behind the same name.

Nothing here knows what a layer or a trial is: tensors and numbers in, tensors out. Everything is
deterministic, and every random choice comes from `philox`, so that one seed makes the same topology
on every rank and on every device.
"""

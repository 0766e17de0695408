"""Sparse matrices that own nothing for their inactive weights: where the active ones are, what is
stored, how it changes.
"""

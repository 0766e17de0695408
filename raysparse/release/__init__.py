"""Taking a trained model away: opening it wherever it lies, measuring it, sampling from it, writing
it in the forms that other tools read.

Nothing here trains. `opened` is the one way to a model; every other file does one job with it.
"""

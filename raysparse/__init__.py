"""raysparse: how big, how sparse, for how many epochs? - and then train that model.

This package root is deliberately almost empty: `import raysparse` loads neither torch nor ray, so
that command lines answer at once and the records (`spec`, `ladder`, `counts`, `results`) can be
used where only the standard library is installed. Import what you need from its own module, for
example `from raysparse.train import trial`.
"""

__version__ = "0.1.0"

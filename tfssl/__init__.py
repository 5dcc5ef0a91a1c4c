"""tfssl: what does self-supervised learning do to a vision model's robustness?

Importing the package registers nothing and loads no TensorFlow. `docs/design.md`
says what lives where.
"""

__version__ = "0.1.0"

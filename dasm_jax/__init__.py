"""Dataset distillation in JAX: DASM, SDC, and the methods they improve.

Import the parts: `losses`, `difficulty`, `objectives`, `segments`, `methods`.
"""

__version__ = '0.1.0'

"""`python -m dasm_jax` is `python -m dasm_jax.main`."""

from dasm_jax import main

if __name__ == '__main__':
  main.command()

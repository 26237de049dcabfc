"""`python -m dasm_jax` is `python -m dasm_jax.main`."""

from absl import app

from dasm_jax import main

if __name__ == '__main__':
  app.run(main.main, flags_parser=main.parse)

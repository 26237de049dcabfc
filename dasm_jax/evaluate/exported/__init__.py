"""Sets in formats of others: what such a folder holds, written and read.

`folders` knows what makes one whole, `array_files` and `picture_files` what is
in them, `table` the formats by name. `dasm_jax.convert` makes them.
"""

"""Dataset distillation in JAX: DASM, SDC, and the methods they improve.

Three rungs, each usable alone: formulas (`losses`, `difficulty`), objectives
(`objectives`), methods (`methods.build`). Names are loaded when they are used:
`import dasm_jax` costs nothing.
"""

import importlib

__version__ = '0.3.0'

# Name -> the module that has it; ARCHITECTURE.md says what each is for.
_MODULES = {name: name for name in (
    'config', 'convert', 'coresets', 'cost', 'data', 'difficulty', 'distill',
    'errors', 'evaluate', 'foreign', 'losses', 'methods', 'models',
    'objectives', 'pipeline', 'runtime', 'segments', 'sweep', 'synthetic',
    'training', 'transforms', 'types')} | {
        'card': 'evaluate.saved_set',  # their names before 0.2, which sets tell
        'train': 'training.ensemble'}
# Those of sets in files, and the modules of `evaluate` that have them.
_FUNCTIONS = {'load': 'saved_set', 'save': 'own_set'}


def __getattr__(name):
  if name in _FUNCTIONS:
    return getattr(importlib.import_module(
        f'dasm_jax.evaluate.{_FUNCTIONS[name]}'), name)
  if name in _MODULES:
    return importlib.import_module(f'dasm_jax.{_MODULES[name]}')
  raise AttributeError(f'module {__name__!r} has no attribute {name!r}')


def __dir__():
  return sorted({*globals(), *_MODULES, *_FUNCTIONS})

"""What others import is typed and told: signatures and docstrings."""

import importlib
import inspect

import pytest

# Modules whose functions others import; of those on the right what a parameter
# is stands in the docstring of the module, once for all operations.
TOLD = '''
losses difficulty shapes streams segments synthetic coresets
objectives.correction objectives.cross_class objectives.matching
objectives.trajectory objectives.wrappers methods.registry methods.options
models training.ensemble training.recipes training.weights_file transforms.zca
evaluate.saved_set evaluate.own_set data'''.split()
TYPED = '''
errors models.convnet models.densenet models.lenet models.resnet models.vgg
models.vit transforms.augment transforms.photometric transforms.resample
'''.split()


def functions(module):
  """The public functions that a module defines, `(name, function)`."""
  found = importlib.import_module(f'dasm_jax.{module}')
  return [(name, x) for name, x in vars(found).items()
          if inspect.isfunction(x) and x.__module__ == found.__name__
          and not name.startswith('_')]


def lacking(function, told=True):
  """What a signature and a docstring lack, a list of words."""
  signature, text = inspect.signature(function), function.__doc__ or ''
  out = [name for name, x in signature.parameters.items()
         if x.annotation is x.empty]
  if signature.return_annotation is signature.empty:
    out.append('return')
  if not text:
    out.append('docstring')
  if told and signature.parameters and 'Args:' not in text:
    out.append('Args')
  if told and signature.return_annotation is not None and (
      'Returns:' not in text):
    out.append('Returns')
  return out


@pytest.mark.parametrize('module', TOLD + TYPED)
def test_functions_are_typed_and_told(module):
  found = functions(module)
  assert found
  bad = {name: out for name, x in found if (out := lacking(x, module in TOLD))}
  assert not bad


@pytest.mark.parametrize('module', TOLD)
def test_docstrings_name_every_parameter(module):
  for name, function in functions(module):
    for parameter in inspect.signature(function).parameters.values():
      # Recipes take the fields of `Recipe`, which tells of them.
      if not (module == 'training.recipes' and parameter.kind in (
          parameter.KEYWORD_ONLY, parameter.VAR_KEYWORD)):
        assert parameter.name in function.__doc__, (name, parameter.name)


def test_what_is_lacking_is_found():
  def nothing(x, *, y: int = 0):
    return x + y
  assert lacking(nothing) == ['x', 'return', 'docstring', 'Args', 'Returns']
  assert lacking(nothing, False) == ['x', 'return', 'docstring']

  def all_of_it(x: int) -> None:
    """Does nothing.

    Args:
      x: a number.
    """
  assert not lacking(all_of_it)


def test_arrays_become_a_data_set_by_a_function_that_is_told():
  from dasm_jax import data
  assert not lacking(data.from_arrays)


def test_names_of_objectives_are_functions_or_types():
  from dasm_jax import objectives
  for name in objectives.__all__:
    assert getattr(objectives, name).__doc__ or name == 'KERNELS'

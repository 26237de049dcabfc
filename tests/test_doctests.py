"""The examples in docstrings print what they say."""

import ast
import doctest
import importlib
import inspect

import pytest
from test_public import functions

pytestmark = pytest.mark.usefixtures('quick_compiler')
MODULES = 'losses', 'difficulty'
PARSER = doctest.DocTestParser()


def run(text, name, names):
  """The failures of the examples in a text; `names` gets what they leave."""
  test = PARSER.get_doctest(text or '', names, name, None, 0)
  said = []
  result = doctest.DocTestRunner(verbose=False).run(
      test, out=said.append, clear_globs=False)
  names.update(test.globs)
  return len(test.examples), result.failed and ''.join(said)


def begun(module):
  """What the examples of a module begin with: those of its own docstring."""
  names = {}
  count, failed = run(module.__doc__, module.__name__, names)
  assert count and not failed
  return names


@pytest.mark.parametrize('name', MODULES)
def test_every_function_has_an_example_that_is_right(name):
  module = importlib.import_module(f'dasm_jax.{name}')
  names = begun(module)
  for called, function in functions(name):
    count, failed = run(function.__doc__, called, dict(names))
    assert count, f'{name}.{called} has no example'
    assert not failed, failed
    # An example that prints nothing shows nothing.
    wanted = [x.want for x in PARSER.get_examples(inspect.getdoc(function))]
    assert any(wanted), called


def test_a_wrong_example_is_found():
  count, failed = run('>>> 1 + 1\n3\n', 'wrong', {})
  assert count == 1 and 'Expected:\n    3' in failed


def test_examples_use_public_names():
  for name in MODULES:
    for called, function in functions(name):
      code = '\n'.join(x.source for x in PARSER.get_examples(
          inspect.getdoc(function)))
      used = {x.attr for x in ast.walk(ast.parse(code))
              if isinstance(x, ast.Attribute)}
      assert called in used, called

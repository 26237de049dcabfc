"""Every entry is said once, and what its row says holds for its default."""

import pytest

from dasm_jax import config, models
from dasm_jax.config import schema, validate
from dasm_jax.errors import UserError
from dasm_jax.methods import registry, settings
from dasm_jax.runtime import entries


def all_entries():
  """`{name: [values]}` of all methods and networks."""
  found = {}
  for method in registry.METHODS:
    for name, value in config.entries(config.defaults(method)):
      found.setdefault(name, []).append(value)
  for network in models.MODELS:
    for name, value in models.settings_of(network).items():
      found.setdefault(f'network.{name}', []).append(value)
  return found


def test_rows_are_those_of_the_entries_that_there_are():
  assert set(schema.ENTRIES) == set(all_entries())
  for name, entry in schema.ENTRIES.items():
    assert entry.meaning and not entry.meaning.endswith('.'), name


def test_defaults_are_allowed_and_of_their_type():
  for name, values in all_entries().items():
    entry = schema.ENTRIES[name]
    for value in values:
      # A coreset takes no steps, which its method says.
      entries.check(name, value, entry)
      if None not in (entry.default, value):
        assert type(value) is type(entry.default), name


def test_every_row_of_a_method_has_its_entry():
  for name, spec in registry.METHODS.items():
    assert set(spec.settings) <= set(settings.ENTRIES), name
    for preset, value in spec.presets.items():
      entries.check(preset, value, schema.ENTRIES[preset])
    c = config.defaults(name)
    assert (c.method.name, 'experts' in c) == (
        name, registry.family_of(c.method).experts)
    c.dataset.name = 'digits'
    validate.check(c)


def wrong(entry):
  """A value that a row does not allow, or None if any is."""
  kind = type(entry.default)
  tried = {str: ['no such thing'], tuple: [(), (2.,)]}.get(
      kind, [kind(-1e9), kind(1e9)] if kind in (int, float) else [])
  for value in tried:
    try:
      entries.check('x', value, entry)
    except UserError:
      return value
  return None


@pytest.mark.parametrize('method', ['dc', 'cafe', 'sre2l', 'datm'])
def test_what_a_row_does_not_allow_is_refused(method):
  c, count = config.defaults(method), 0
  c.dataset.name = 'digits'
  for name, _ in config.entries(c):
    value = wrong(schema.ENTRIES[name])
    if value is None or name in ('method.match', 'network.name'):
      continue
    count += 1
    changed = c.copy_and_resolve_references()
    with changed.ignore_type():
      changed.update_from_flattened_dict({name: value})
    with pytest.raises(UserError) as caught:
      validate.check_settings(changed)
      models.build(shape=(8, 8, 1), classes=10, **changed.network)
    assert name.split('.')[-1] in str(caught.value), name
    assert '\n' not in str(caught.value)
  assert count > 25

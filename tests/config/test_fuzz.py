"""What is typed into an entry is refused by its name; `tests/fuzz.py` at large.
"""

import fuzz
import pytest

# Of no number, tuple or switch; the whole script types more, also what is fine.
NEVER = ('nan', '9223372036854775808', '1e39', 'abc', '(1,"a")', 'maybe')


@pytest.mark.parametrize('group', [
    'seed', 'dataset', 'network', 'syn', 'sdc', 'segments', 'coreset', 'eval',
    'experts', 'run', 'method'])
def test_what_no_entry_takes(group):
  found = [case for case in fuzz.cases(only=group) if case[2] in NEVER
           and case[1].split('.')[0] == group and not fuzz.is_text(case[1])]
  assert found
  for case in found:
    kind, line = fuzz.outcome(*case)
    assert kind == 'refused', (case, line)


@pytest.mark.parametrize('arguments, name, text', [
    ('', 'eval.batch', '-1'), ('', 'eval.cutmix', '7'),
    ('', 'dataset.zca', '-1'), ('', 'network.depth', '0'),
    ('', 'network.depth', '7'), ('', 'network.width', '65536'),
    ('', 'network.norm', 'x'), ('', 'method.augment', 'blur'),
    ('', 'eval.augment', 'lighting'), ('', 'dataset.size', '8000'),
    ('', 'seed', '4294967296'), ('', 'method.match', 'none'),
    ('method=dm', 'method.last_block', '9'), ('', 'segments.number', '9'),
    ('method=cafe', 'method.drops', 'abc'), ('', 'dataset', "{'name': 'x'}"),
    ('', 'method', 'dm'), ('', 'method.name', 'dm'), ('', 'dataset.name', 'x'),
    ('', 'syn.factor', '9'), ('method=mtt', 'experts.augment', 'lighting'),
    ('method=mtt', 'method.start_last_epoch', '18')])
def test_the_flag_is_named(arguments, name, text):
  kind, line = fuzz.outcome(arguments, name, text)
  assert kind == 'refused', line

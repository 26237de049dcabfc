"""Membership inference: the attack by hand, copies, the command."""

import json

import jax.numpy as jnp
import numpy as np
import pytest
import saved_digits
import toy
from sklearn import metrics

from dasm_jax.uses import membership

pytestmark = pytest.mark.usefixtures('quick_compiler')


def test_attack_is_that_of_scikit_learn():
  rng = np.random.default_rng(0)
  members = rng.normal(.7, 1, 300).round(1)  # with ties
  others = rng.normal(size=500).round(1)
  found = membership.attack(members, others)
  truth = np.repeat([1, 0], [300, 500])
  score = np.concatenate([members, others])
  np.testing.assert_allclose(found['auc'], metrics.roc_auc_score(truth, score))
  false, true, _ = metrics.roc_curve(truth, score, drop_intermediate=False)
  np.testing.assert_allclose(found['low'], true[false <= .01].max())


def test_attack_by_hand():
  assert membership.attack(np.array([2., 3]), np.array([0., 1])) == {
      'auc': 1., 'low': 1.}
  assert membership.attack(np.array([0., 1]), np.array([1., 1])) == {
      'auc': .25, 'low': 0.}
  assert membership.attack(np.arange(4.), np.arange(4.)) == {
      'auc': .5, 'low': 0.}


def test_nearest_is_the_least_distance():
  data = toy.source(classes=3, each=70)
  images = np.random.default_rng(0).normal(size=(5, 8, 8, 1))
  images[3] = toy.split(classes=3, each=70).images[7] / 255.
  rows = membership.sources.take(data, jnp.arange(210)).images
  images[3] = rows[7]
  found = membership.nearest(images, data)
  expected = ((images[:, None] - np.asarray(rows)[None]) ** 2).reshape(
      5, 210, -1).sum(-1).min(1)
  np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)
  assert found[3] == 0 < found[[0, 1, 2, 4]].min()


@pytest.mark.slow
def test_command(tmp_path, capsys):
  saved_digits.save(tmp_path / 'synthetic.npz', **{
      'eval.epochs': 2, 'network.depth': 1, 'syn.factor': 1})
  words = [f'--set={tmp_path}', '--networks=2', '--full_epochs=1']
  assert membership.main(words) == 0
  said = capsys.readouterr().out
  for word in ('networks trained on', 'auc', 'low', 'full', 'random',
               '0.0% of 20 images'):  # noise is no copy
    assert word in said, word
  rows = json.loads((tmp_path / 'membership.json').read_text())['rows']
  assert [(row['of'], row['measure']) for row in rows] == [
      (of, measure) for of in ('set', 'random', 'full')
      for measure in membership.MEASURES]
  assert all(len(row['networks']) == 2 for row in rows)
  assert membership.main(words) == 0
  assert json.loads((tmp_path / 'membership.json').read_text())['rows'] == rows

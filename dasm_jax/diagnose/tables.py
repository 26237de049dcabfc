"""What the command leaves behind: diagnose.json, pictures, tables."""

import json

import numpy as np

import dasm_jax
from dasm_jax.diagnose import ageing, measures
from dasm_jax.distill import figures, page
from dasm_jax.evaluate import comparison
from dasm_jax.runtime import records, text

PICTURES = 'diagnose.png', 'diagnose_loss.png'  # of `ageing.SCORES`


def write(bench, paths, found, out):
  """Writes diagnose.json and the pictures, and returns the tables' text.

  Args:
    bench: a `Bench`; paths: of its sets.
    found: what was measured: `ages` and their `lines` (see `by_age`),
      `diversity`, `thirds` with `epochs` of the judges; any may lack.
    out: a directory.
  """
  one, tables = bench.first, []
  tree = {'version': dasm_jax.__version__, 'data': measures.origin(one),
          'network': one.network, 'seed': bench.seed, 'epochs': found['epochs'],
          'sets': {name: {'path': str(path), **{
              key: x.card.get(key) for key in ('method', 'ipc', 'segments')}}
                   for (name, x), path in zip(
                       bench.sets.items(), paths, strict=True)}}
  for key, of in (('lines', _write_ages), ('thirds', _thirds),
                  ('diversity', _diversity)):
    if key in found:
      more, table = of(found, out)
      tree |= more
      tables.append(table)
  records.write_text(out / 'diagnose.json', json.dumps(tree, indent=2) + '\n')
  return '\n\n'.join(tables)


def page_parts(title, table, folder, pictures=PICTURES):
  """What a page shows of it: parts of `distill.page`.

  table: of `write`. folder: where the pictures are; those that are not there
  are left out.
  """
  shown = [(f'{score} of an image against the age of the network',
            folder / name) for score, name in zip(
                ageing.SCORES, PICTURES, strict=True)
           if name in pictures and (folder / name).exists()]
  return [page.heading(title), page.fixed(table.rstrip()),
          page.pictures(shown)]


def _write_ages(found, out):
  lines, ages, tables = found['lines'], found['ages'], []
  labels = dict(zip(lines, _labels(list(lines)), strict=True))
  for number, (score, name) in enumerate(zip(
      ageing.SCORES, PICTURES, strict=True)):
    figures.line_plot(
        ages, {labels[name]: (x[number].mean(1), x[number].std(1))
               for name, x in lines.items()}, out / name,
        'network age, steps on real images', f'mean {score} of an image')
    tables.append(text.table(
        [(labels[name], *(f'{x:.3g}' for x in values[number].mean(1)))
         for name, values in lines.items()],
        (f'{score} at age', *map(str, ages))))
  return {
      'what': 'mean per-sample gradient norm, and loss', 'ages': list(ages),
      'lines': {name: _by_network(norms) | {'loss': _by_network(values)}
                for name, (norms, values) in lines.items()},
  }, '\n\n'.join(tables)


def _by_network(rows):
  return {'mean': rows.mean(1).tolist(), 'std': rows.std(1).tolist(),
          'networks': rows.tolist()}


def _thirds(found, out):
  del out
  rows, labels = [], _labels(list(found['thirds']))
  for label, kinds in zip(labels, found['thirds'].values(), strict=True):
    rows.append((label, kinds['set']))
    # Sets of one size and recipe are beside the same random images.
    if not any(values is kinds['random'] for _, values in rows):
      rows.append(('random', kinds['random']))
  rows.append(('all real', kinds['real']))
  table = text.table(
      [(name, *(f'{x.mean():.2%} ± {x.std():.2%}' for x in values.values()))
       for name, values in rows], ('test accuracy', *rows[0][1]))
  table += ('\nthirds of all test images, by the mean loss of the networks on '
            'all real images after '
            f'{text.plural(found["epochs"], "epoch")}')
  sets = {name: {kind: {part: comparison.summary(x)
                        for part, x in values.items()}
                 for kind, values in kinds.items()}
          for name, kinds in found['thirds'].items()}
  return {'thirds': {
      'of': 'all test images, by the mean loss of networks trained on all real '
            'images', 'sets': sets}}, table


def _diversity(found, out):
  del out
  rows, sets = [], {}
  for label, (name, one) in zip(
      _labels(list(found['diversity'])), found['diversity'].items(),
      strict=True):
    known = np.isfinite([one['set'], one['random']]).all()
    sets[name] = {'images': one['images'], **{
        kind: comparison.summary(one[kind]) if known else None
        for kind in ('set', 'random')}}
    mean, other = one['set'].mean(), one['random'].mean()
    cells = [f'{mean:.4f}', f'{other:.4f}', f'{mean / max(other, 1e-9):.2f}']
    rows.append((label, one['images'], *(cells if known else 3 * ['-'])))
  return {'diversity': {
      'what': 'mean distance to the nearest neighbour of the class, of '
              'embeddings of length 1', 'sets': sets}}, text.table(
                  rows, ('diversity', 'images', 'set', 'random', 'ratio'))


def _labels(names):
  """Names that a legend has room for, as long as they stay different."""
  short = [name if len(name) <= 32 else f'{name[:18]}…{name[-12:]}'
           for name in names]
  return short if len(set(short)) == len(names) else names

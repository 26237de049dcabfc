"""Damages workdirs, file by file: the same command ends as it should, or says.

  python tests/damage.py                      all of them, half an hour
  python tests/damage.py --only results.json  what has that in its name
  python tests/damage.py --out damage.jsonl   goes on where it was stopped

Every file and folder of a workdir, of a run that was stopped in its first or
its second segment, or has finished, is damaged in each of `KINDS`, and the run
called again. It has to end as one that nobody has damaged (`same`), to say in
one line what it cannot do (`refused`), or to say what is lost (`told`, rows of
metrics.jsonl). Prints a line for each that does neither, a table, and exits
with status 1 if there is any.
"""

import argparse
import collections
import contextlib
import io
import json
import logging
import pathlib
import shutil
import sys
import tempfile

sys.path.insert(0, str(pathlib.Path(__file__).parent / 'helpers'))
sys.path.insert(0, str(pathlib.Path(__file__).parent))

import jax  # noqa: E402
import kill  # noqa: E402
import small  # noqa: E402

from dasm_jax.distill import run  # noqa: E402
from dasm_jax.errors import UserError  # noqa: E402
from dasm_jax.runtime import preemption  # noqa: E402

WRONG = 'TRACEBACK', 'SILENT WRONG'
# How often a run hears whether it is to stop: before the first of the sweeps of
# a segment, then after each.
STOPS = {'finished': None, 'segment 2': (2, 3), 'segment 1': (1, 3)}


def config(seed=0):
  """Seconds of work in two segments, a checkpoint and a row a sweep."""
  return small.tiny(
      'dm', seed=seed, network__depth=1, method__augment='',
      method__net_steps=0, segments__window='everything', method__steps=8,
      run__chunk=1, run__save_seconds=0.0, eval__networks=1, eval__epochs=1)


def leave(workdir, state, seed=0):
  """A workdir in one of the states of `STOPS`; returns it."""
  if STOPS[state] is None:
    call(workdir, seed)
    return workdir
  index, times = STOPS[state]
  with contextlib.suppress(preemption.Stopped):
    call(workdir, seed, small.AskedAt(
        times, (workdir / f'segment_{index}').exists))
  return workdir


def call(workdir, seed=0, stopping=None):
  """Runs to the end, quietly."""
  with contextlib.redirect_stdout(io.StringIO()):
    return run.run(config(seed), workdir,
                   stopping=stopping or preemption.StopFlag())


# ---- Damage


def _rewritten(change):
  def damage(path, other):
    del other
    path.write_bytes(change(path.read_bytes()))
  return damage


def _flipped(body):
  at = len(body) // 2
  return body[:at] + bytes([body[at] ^ 1]) + body[at + 1:] if body else b'\1'


def _remove(path):
  if path.is_dir():
    shutil.rmtree(path)
  else:
    path.unlink()


def _deleted(path, other):
  del other
  _remove(path)


def _exchanged(path, other):
  """A folder where a file was, a file where a folder was."""
  del other
  was_folder = path.is_dir()
  _remove(path)
  if was_folder:
    path.write_text('a file')
  else:
    path.mkdir()


def _foreign(path, other):
  _remove(path)
  if other.is_dir():
    shutil.copytree(other, path)
  elif other.exists():
    shutil.copy(other, path)


KINDS = {
    'deleted': _deleted, 'empty': _rewritten(lambda body: b''),
    'cut': _rewritten(lambda body: body[:len(body) // 2]),
    'flipped': _rewritten(_flipped),
    'garbage': _rewritten(lambda body: b'[1, "x"]\n'),
    'exchanged': _exchanged, 'foreign': _foreign}
OF_FOLDERS = 'deleted', 'exchanged', 'foreign'


def _plain(path):
  """A path without what differs between two runs: time and random names."""
  parts = list(path.parts)
  if 'd' in parts:  # of orbax: named by a hash
    parts = parts[:parts.index('d') + 1]
  name = '/'.join(parts)
  return name.split('.tfevents')[0]


def names_of(workdir):
  """What there is to damage, below a workdir: `{short name: path}`."""
  found = {}
  for path in sorted(workdir.rglob('*')):
    below = path.relative_to(workdir)
    if path.name not in ('.lock', 'd') or path.is_file():
      found.setdefault(_plain(below), below)
  return found


# ---- What comes of it


class Warnings(logging.Handler):
  """Keeps what is warned of."""

  def __init__(self):
    super().__init__(logging.WARNING)
    self.lines = []

  def emit(self, record):
    """Keeps a line."""
    self.lines.append(record.getMessage())


def left(workdir, finished):
  """What has to be as in a run that nobody has damaged.

  finished: whether the run had finished, and looks no more at its metrics.
  """
  if finished:
    with contextlib.suppress(FileNotFoundError):
      _remove(workdir / 'metrics.jsonl')
    (workdir / 'metrics.jsonl').write_text('')
  found = kill.left(workdir)
  if finished:
    found.pop('metrics.jsonl')
  return found


def tried(workdir, straight, finished):
  """`(outcome, what was said)` of the same command on a damaged workdir."""
  heard = Warnings()
  logger = logging.getLogger('dasm_jax')
  logger.addHandler(heard)
  try:
    shown = call(workdir)
    found = json.loads(json.dumps(shown['accuracy']))
    # What is shown counts, too.
    if found != straight['results.json']['accuracy']:
      return 'SILENT WRONG', 'other accuracies are shown'
    different = kill.difference(left(workdir, finished), {
        name: value for name, value in straight.items()
        if not (finished and name == 'metrics.jsonl')})
  except UserError as error:
    text = str(error)
    return ('TRACEBACK' if '\n' in text else 'refused'), text
  except Exception as error:  # whatever it is, it is no line
    return 'TRACEBACK', f'{type(error).__name__}: {error}'
  finally:
    logger.removeHandler(heard)
  said = '; '.join(heard.lines)
  if not different:
    return 'same', said
  if different == ['metrics.jsonl'] and 'metrics.jsonl lacks' in said:
    return 'told', said
  return 'SILENT WRONG', f'{", ".join(different)} differ; said: {said or "-"}'


class Bench:
  """Workdirs in all states, of two seeds, that trials copy and damage."""

  def __init__(self, root):
    self.root = pathlib.Path(root)
    self.straight = kill.left(self.made('finished'))

  def made(self, state, seed=0):
    """The workdir of a state, which is made when it is first asked for."""
    workdir = self.root / f'seed_{seed}' / state / 'run'
    if not workdir.exists():
      leave(workdir, state, seed)
      if STOPS[state] is not None:
        # Half of the time of a trial: networks of the evaluation are trained
        # anew where a finished run is damaged.
        small.keep_accuracies(workdir, {
            name: one['networks'] for name, one in self.straight[
                'results.json']['accuracy'].items()})
    return workdir

  def trials(self, state):
    """Yields `(short name, path, kind)` of all that can be tried."""
    for name, below in names_of(self.made(state)).items():
      folder = (self.made(state) / below).is_dir()
      for kind in OF_FOLDERS if folder else KINDS:
        yield name, below, kind

  def copied(self, state):
    """A workdir of a state, to be damaged."""
    workdir = self.root / 'trial' / 'run'
    shutil.rmtree(workdir.parent, ignore_errors=True)
    shutil.copytree(self.made(state), workdir)
    return workdir

  def trial(self, state, below, kind):
    """`(outcome, what was said)` of one."""
    workdir = self.copied(state)
    other = None
    if KINDS[kind] is _foreign:
      theirs = self.made(state, seed=1)
      other = theirs / names_of(theirs).get(_plain(below), 'nothing')
    KINDS[kind](workdir / below, other)
    return tried(workdir, self.straight, state == 'finished')

  def exchanged(self):
    """The same of checkpoints of segment 1 in the place of segment 2's."""
    workdir = self.copied('segment 2')
    shutil.rmtree(workdir / 'segment_2')
    shutil.copytree(workdir / 'segment_1', workdir / 'segment_2')
    return tried(workdir, self.straight, False)


def quick_compiler(root):
  """Compiles as quickly as can be, and what is alike once."""
  for name, value in (
      ('jax_disable_most_optimizations', True),
      ('jax_compilation_cache_dir', str(pathlib.Path(root) / 'cache')),
      ('jax_persistent_cache_min_compile_time_secs', 0.0)):
    jax.config.update(name, value)


def main():
  """Tries all, and tells."""
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument('--only', default='', help='a part of "state kind name"')
  parser.add_argument('--out', default='', help='file of outcomes, added to')
  given = parser.parse_args()
  known = {}
  if given.out and pathlib.Path(given.out).exists():
    known = dict(json.loads(line)
                 for line in pathlib.Path(given.out).read_text().splitlines())
  counts = collections.Counter()
  with tempfile.TemporaryDirectory() as root, contextlib.ExitStack() as held:
    out = given.out and held.enter_context(open(given.out, 'a'))
    quick_compiler(root)
    bench = Bench(root)
    logging.getLogger('dasm_jax').propagate = False
    for state in STOPS:
      for name, below, kind in bench.trials(state):
        label = f'{state} {kind} {name}'
        if given.only not in label:
          continue
        if label not in known:
          if not len(known) % 50:
            jax.clear_caches()  # of thousands of programs a process dies
          known[label] = bench.trial(state, below, kind)
          if out:
            out.write(json.dumps([label, known[label]]) + '\n')
            out.flush()
        outcome, said = known[label]
        counts[state, outcome] += 1
        if outcome in WRONG:
          print(f'{label}: {outcome}: {said[:300]}', flush=True)
    if given.only in 'segment 2 exchanged segments':
      counts['segment 2', bench.exchanged()[0]] += 1
  for (state, outcome), count in sorted(counts.items()):
    print(f'{state:<10}  {outcome:<12}  {count}')
  print(f'{sum(counts.values())} in all')
  sys.exit(any(outcome in WRONG for _, outcome in counts))


if __name__ == '__main__':
  main()

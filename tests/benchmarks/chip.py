r"""How fast a GPU or TPU runs published jobs: python tests/benchmarks/chip.py

  [--minutes=9] [--out=runs/chip] [--only=NAME,…] [--tiny] [--json] [--accuracy]
  [network.width=64 …]

A line a measurement as soon as it is there, what decides most first: matrix
products in three precisions, then the inner programs at published shapes on
one device and random images (no data set is read), then the same in other
precisions, and with classes in turn. Where PyTorch is installed and sees the
card, IDC's matching and MTT's step are timed there too, from their formulas, in
a process of their own.

It ends before --minutes are over and says what it left out. Each result is a
line of OUT/results.jsonl: the same command goes on with what is missing. After
a change of the code take another --out. NAMEs may be patterns: 'idc_*'.

The share is of a product in the same precision as the program; GiB are its
arguments, results and temporaries (of PyTorch: what it took); hours are the
published sweeps at this speed, without evaluation and warm-up; idc_training is
idc_sweep less idc_matching.

--accuracy goes on with a whole run of IDC on CIFAR-10 in what time is left, and
saves it; this one reads the data set. --tiny: toy shapes, for a CPU.
"""

import argparse
import fnmatch
import functools
import importlib.util
import json
import os
import pathlib
import signal
import statistics
import subprocess
import sys
import threading
import time
from typing import NamedTuple

BEGAN = time.monotonic()
# Before JAX: PyTorch and the whole run share the card with this process.
os.environ.setdefault('XLA_PYTHON_CLIENT_PREALLOCATE', 'false')

import jax  # noqa: E402
import jax.numpy as jnp  # noqa: E402
from jax import flatten_util  # noqa: E402

from dasm_jax import difficulty  # noqa: E402
from dasm_jax.config import files, overrides  # noqa: E402
from dasm_jax.cost import (  # noqa: E402
    dry_run,
    hlo_counts,
    machine,
    programs,
)
from dasm_jax.distill import setup  # noqa: E402
from dasm_jax.errors import UserError  # noqa: E402
from dasm_jax.methods import trajectory  # noqa: E402
from dasm_jax.pipeline import source as sources  # noqa: E402
from dasm_jax.runtime import devices  # noqa: E402
from dasm_jax.training import train_step  # noqa: E402
from dasm_jax.types import Batch, Synthetic, Window  # noqa: E402

ROOT = pathlib.Path(__file__).resolve().parents[2]

# ---- Programs, each `(function, key -> arguments)` of an experiment


def sweep(experiment):
  """One sweep of a method, or one step of a trajectory method."""
  (segment,) = experiment.plan
  phase = experiment.phases(segment)[0]
  method = setup.build_method(experiment, phase, None)
  rows, classes = jnp.asarray(experiment.rows(phase)), experiment.classes
  experts_ = 'starts' in experiment.config.method

  def start(key):
    images, state = jax.random.split(key)
    labels = jax.nn.one_hot(rows, classes)[:, None].repeat(phase.width, 1)
    syn = Synthetic(jax.random.uniform(
        images, (len(rows), phase.width, *experiment.shape)), labels,
                    jnp.float32(.01))
    return method.init(state, syn)

  pack, run = programs.sweep_function(
      method, jax.eval_shape(start, jax.random.key(0)))

  def arguments(key):
    state = start(key)
    if experts_:
      data, per_class = _pairs(experiment, key), 1
    else:
      # Not the first, which begins a network; nor is it a network's last.
      state = state._replace(step=jnp.int32(1))
      data = _images(experiment, key)
      per_class = data.everything.indices.shape[1]
    return pack(state), data, _windows(experiment, rows, per_class), key

  return run, arguments


def _window(classes, all_classes, per_class):
  indices = classes[:, None] + all_classes * jnp.arange(per_class)
  return Window(indices.astype(jnp.int32),
                jnp.full(len(classes), per_class, jnp.int32))


def _images(experiment, key):
  """As many random images as there are; class by class in turn."""
  n, classes = len(experiment.dataset.train.labels), experiment.classes
  shape = experiment.shape
  channels = jnp.ones(shape[-1])
  return sources.Source(
      jax.random.bits(key, (n, *sources.flat_shape(shape)), jnp.uint8),
      jnp.arange(n, dtype=jnp.int32) % classes,
      _window(jnp.arange(classes), classes, n // classes), channels / 2,
      channels / 4, like=jnp.zeros(shape, jnp.uint8))


def _windows(experiment, rows, per_class):
  k, window = len(rows), _window(rows, experiment.classes, per_class)
  return sources.ClassWindows(
      rows.astype(jnp.int32), jnp.ones(k), window, window,
      Batch(jnp.zeros((k, 0, *experiment.shape)),
            jnp.zeros((k, 0, experiment.classes))))


def _pairs(experiment, key):
  # A row a start, as `experts.flat_parameters` has them.
  flat, _ = flatten_util.ravel_pytree(experiment.network.init(key).params)
  start = jnp.tile(flat, (experiment.config.method.starts, 1))
  return trajectory.Pairs(start, start + .01, jnp.int32(0))


def evaluation(experiment):
  """An epoch of five networks at once on a set of so many images a class."""
  ipc = experiment.config.syn.ipc
  return _epoch(experiment, experiment.classes * setup.decoded_count(
      experiment, ipc, training=True), 5)


def network_training(experiment, images=10_000):
  """An epoch of a network on real images, as experts are trained."""
  return _epoch(experiment, images, None)


def _epoch(experiment, images, networks):
  run, start = programs.epoch_function(experiment, networks)

  def arguments(key):
    keys = key if networks is None else jax.random.split(key, networks)
    return keys, _batch(experiment, images, key), start(keys)
  return run, arguments


def _batch(experiment, n, key):
  return Batch(jax.random.normal(key, (n, *experiment.shape)),
               jax.nn.one_hot(jnp.arange(n) % experiment.classes,
                              experiment.classes))


def difficulty_scores(experiment, images=256):
  """Gradient norms of images, one by one."""
  norms = functools.partial(
      difficulty.gradient_norms, train_step.loss_fn(experiment.network))
  return norms, lambda key: (
      experiment.network.init(key), _batch(experiment, images, key))


def product(dtype, side):
  """A square matrix product, whose speed the others are a share of."""
  return jnp.matmul, lambda key: tuple(
      jax.random.normal(x, (side, side), dtype) for x in jax.random.split(key))


# ---- What is measured, in this order


class Program(NamedTuple):
  """build: of an `Experiment`. config: `file:arguments`. entries: of it."""
  build: object
  config: str
  entries: dict = {}


IDC = 'cifar10:method=idc,ipc=10'
PUBLISHED = {
    'idc_sweep': Program(sweep, IDC),
    'mtt_step': Program(sweep, 'cifar10:method=mtt,ipc=10'),
    'dm_sweep': Program(sweep, 'cifar10:method=dm,ipc=10'),
    'evaluation': Program(evaluation, IDC),
    'idc_matching': Program(sweep, IDC, {'method.net_steps': 0}),
    'network_training': Program(
        network_training, 'cifar10:method=dsa,ipc=10'),
    'difficulty_scores': Program(difficulty_scores, IDC)}
SMALL = {'network.width': 8, 'method.batch': 8}
TINY_IDC = 'digits:method=idc,ipc=2', SMALL | {
    'method.net_steps': 2, 'method.net_batch': 16}
TINY = {
    'idc_sweep': Program(sweep, *TINY_IDC),
    'mtt_step': Program(sweep, 'digits:method=mtt,ipc=2', {
        'network.width': 8, 'method.student_steps': 3}),
    'dm_sweep': Program(sweep, 'digits:method=dm,ipc=2', SMALL),
    'evaluation': Program(evaluation, *TINY_IDC),
    'idc_matching': Program(sweep, TINY_IDC[0], TINY_IDC[1] | {
        'method.net_steps': 0}),
    'network_training': Program(
        functools.partial(network_training, images=512),
        'digits:method=dsa,ipc=2', SMALL),
    'difficulty_scores': Program(
        functools.partial(difficulty_scores, images=32), *TINY_IDC)}
# Below the defaults, the programs that decide most in other forms. Of
# trajectories no classes are matched.
VARIED = 'idc_sweep', 'mtt_step', 'dm_sweep', 'evaluation', 'idc_matching'
BY_CLASS = 'idc_sweep', 'dm_sweep', 'idc_matching'
PRODUCTS = 'default', 'bfloat16', 'highest'


class Case(NamedTuple):
  """A line: of a program, in a form (`default`, `bfloat16`, …)."""
  program: str
  form: str = 'default'

  @property
  def name(self):
    """As it is printed and asked for."""
    plain = self.form == 'default' and self.program != 'product'
    return self.program if plain else f'{self.program}.{self.form}'


def cases(tiny=False):
  """Every `Case` but the products, in their order."""
  # The way that is not this backend's own.
  alone = jax.default_backend() in devices.IN_TURN
  other = 'together' if alone else 'in_turn'
  # That forms can be asked for one program shows as well as five.
  varied = VARIED[:1] if tiny else VARIED
  return [
      *(Case(name) for name in list(PUBLISHED)[:5]),
      *(Case(name) for name in TORCH),
      *(Case(name) for name in list(PUBLISHED)[5:]),
      *(Case(name, form) for form in ('bfloat16', other, 'highest')
        for name in varied if form != other or name in BY_CLASS)]


FORMS = {'default': {}, 'highest': {},
         'bfloat16': {'network.dtype': 'bfloat16'},
         'in_turn': {'run.batched': 'no'}, 'together': {'run.batched': 'yes'}}


def config_of(program, form, entries):
  """The configuration of a `Program`.

  entries: `{name: text}` of the command line; what the line is about wins.

  Raises:
    UserError: an entry that it has not, or no value of it.
  """
  c = files.load(program.config)
  c.segments.number = 1
  overrides.apply(c, entries, program.config)
  c.update_from_flattened_dict(program.entries | FORMS[form])
  return c


# ---- A measurement


def measured(case, a, known):
  """The numbers of a `Case`, a dict.

  known: rows that there are, by name.
  """
  began, experiment = time.monotonic(), None
  if case.program == 'product':
    dtype = jnp.bfloat16 if case.form == 'bfloat16' else jnp.float32
    small = a.tiny or jax.default_backend() == 'cpu'
    function, make = product(dtype, 512 if small else 8192)
    precision = case.form
  else:
    program = (TINY if a.tiny else PUBLISHED)[case.program]
    experiment = dry_run.outline(config_of(program, case.form, a.entries))
    function, make = program.build(experiment)
    half = experiment.config.network.dtype == 'bfloat16'
    precision = 'bfloat16' if half else (
        'highest' if case.form == 'highest' else 'default')
  asked = 'highest' if precision == 'highest' else None
  with jax.default_matmul_precision(asked):
    found = _timed(function, jax.jit(make)(jax.random.key(0)))
    # The maths are the same in every form; tracing takes a while.
    plain = known.get(case.program)
    useful = plain['useful_flops'] if plain else hlo_counts.useful_flops(
        function, *jax.eval_shape(make, jax.random.key(0)))
  row = found | {'precision': precision, 'useful_flops': useful,
                 'flops_per_second': useful / found['seconds'],
                 'spent_seconds': time.monotonic() - began}
  if case.program in ('idc_sweep', 'mtt_step', 'dm_sweep') and not a.tiny:
    row['hours'] = found['seconds'] * experiment.config.method.steps / 3600
  return row


def _timed(function, arguments):
  jax.block_until_ready(arguments)
  start = time.perf_counter()
  compiled = jax.jit(function).lower(*arguments).compile()
  compile_seconds = time.perf_counter() - start
  memory = compiled.memory_analysis()
  # Two to warm up; the second tells how many more fit into two seconds.
  once = machine.call_seconds(lambda: compiled(*arguments), 2)[0]
  times = machine.call_seconds(lambda: compiled(*arguments),
                               max(3, min(20, int(2 / once))))
  return {'seconds': statistics.median(times), 'least': times[0],
          'most': times[-1], 'runs': len(times),
          'compile_seconds': compile_seconds,
          'peak_bytes': memory.temp_size_in_bytes
          + memory.argument_size_in_bytes + memory.output_size_in_bytes}


# ---- The same formulas in PyTorch, from the papers and nothing of ours


TORCH = {'torch_idc_matching': 'idc_matching', 'torch_mtt_step': 'mtt_step'}
# side, channels, width, depth, stored images a class, real images a class,
# student steps: as `PUBLISHED` and `TINY` have them.
TORCH_SHAPES = {False: (32, 3, 128, 3, 10, 64, 30),
                True: (8, 1, 8, 2, 2, 8, 3)}


def torch_network(side, channels, width, depth):
  """ConvNet with instance norm, 10 classes."""
  from torch import nn
  layers = []
  for i in range(depth):
    layers += [nn.Conv2d(width if i else channels, width, 3, padding=1),
               nn.GroupNorm(width, width), nn.ReLU(), nn.AvgPool2d(2)]
  return nn.Sequential(*layers, nn.Flatten(), nn.Linear(
      width * (side >> depth) ** 2, 10))


def torch_idc_matching(device, shapes):
  """A call that matches all classes in turn, as IDC's program does.

  Without its augmentation, which would only add to it.
  """
  import torch
  from torch.nn import functional
  side, channels, width, depth, ipc, real, _ = shapes
  net = torch_network(side, channels, width, depth).to(device)
  kernels = [x for x in net.parameters() if x.ndim == 4]
  images = torch.rand(10, ipc, channels, side, side, device=device,
                      requires_grad=True)
  optimizer = torch.optim.SGD([images], lr=.005, momentum=.5)
  batch = torch.randn(real, channels, side, side, device=device)
  half = side // 2

  def decoded(x):
    parts = [x[..., i:i + half, j:j + half] for i in (0, half)
             for j in (0, half)]
    return functional.interpolate(torch.cat(parts), size=side, mode='bilinear')

  def gradient(x, label, graph):
    labels = torch.full((len(x),), label, device=device)
    return torch.autograd.grad(functional.cross_entropy(net(x), labels),
                               kernels, create_graph=graph)

  def run():
    for label in range(10):
      goal = [x.detach() for x in gradient(batch, label, False)]
      got = gradient(decoded(images[label]), label, True)
      loss = sum(((x - y) ** 2).sum() for x, y in zip(goal, got, strict=True))
      optimizer.zero_grad()
      loss.backward()
      optimizer.step()
  return run


def torch_mtt_step(device, shapes):
  """A call that trains a student and goes back through it, as MTT's does.

  Its batches at ten images a class are all images. Without its augmentation,
  which would only add to it.
  """
  import torch
  from torch.nn import functional
  side, channels, width, depth, ipc, _, steps = shapes
  net = torch_network(side, channels, width, depth).to(device)
  start = {name: x.detach() for name, x in net.named_parameters()}
  target = {name: x + .01 for name, x in start.items()}
  images = torch.randn(10 * ipc, channels, side, side, device=device,
                       requires_grad=True)
  labels = torch.arange(10 * ipc, device=device) % 10
  rate = torch.tensor(.01, device=device, requires_grad=True)

  def far(tree):
    return sum(((x - target[name]) ** 2).sum() for name, x in tree.items())

  def run():
    student = {name: x.requires_grad_() for name, x in start.items()}
    for _ in range(steps):
      logits = torch.func.functional_call(net, student, images)
      gradients = torch.autograd.grad(
          functional.cross_entropy(logits, labels), list(student.values()),
          create_graph=True)
      student = {name: x - rate * g for (name, x), g in zip(
          student.items(), gradients, strict=True)}
    loss = far(student) / far(start).detach()
    return torch.autograd.grad(loss, (images, rate))
  return run


def torch_row(name, tiny):
  """The numbers of one of `TORCH`, a dict; `{'missing': why}` without a card.

  At PyTorch's defaults: convolutions in TF32.
  """
  import torch
  if not tiny and not torch.cuda.is_available():
    return {'missing': 'PyTorch sees no card'}
  device = 'cpu' if tiny else 'cuda'
  settle = (lambda: None) if tiny else torch.cuda.synchronize
  run = globals()[name](device, TORCH_SHAPES[tiny])

  def once():
    settle()
    start = time.perf_counter()
    run()
    settle()
    return time.perf_counter() - start
  for _ in range(3):
    last = once()
  times = sorted(once() for _ in range(max(3, min(20, int(2 / last)))))
  peak = None if tiny else torch.cuda.max_memory_allocated()
  return {'seconds': statistics.median(times), 'least': times[0],
          'most': times[-1], 'runs': len(times), 'peak_bytes': peak,
          'torch': torch.__version__}


def torch_measured(case, a):
  """The same, of another process: its libraries are not those of JAX."""
  began = time.monotonic()
  done = subprocess.run(
      [sys.executable, __file__, f'--torch={case.program}',
       *['--tiny'] * a.tiny], capture_output=True, text=True,
      timeout=max(1, a.left() - 5))
  if done.returncode:
    raise RuntimeError(_last(done.stderr))
  return json.loads(done.stdout.splitlines()[-1]) | {
      'spent_seconds': time.monotonic() - began}


def _last(text):
  lines = [line for line in text.splitlines() if line.strip()]
  return lines[-1] if lines else 'no word of it'


# ---- What is kept, and what is printed


class Book:
  """Rows of this device, JAX and command line, in a file and on the screen."""

  def __init__(self, a):
    device = jax.local_devices()[0]
    self.here = {'device': device.device_kind, 'jax': jax.__version__,
                 'tiny': a.tiny, 'entries': a.entries}
    self.path, self.json = a.out / 'results.jsonl', a.json
    self.rows, self.cut = {}, {}
    a.out.mkdir(parents=True, exist_ok=True)
    text = self.path.read_text() if self.path.exists() else ''
    for line in text.splitlines():
      try:
        row = json.loads(line)
      except ValueError:  # half of one, of a process that was killed
        continue
      if all(row.get(key) == value for key, value in self.here.items()):
        (self.cut if 'cut' in row else self.rows)[row['name']] = row
    if text and not text.endswith('\n'):
      self._write('\n')
    note = '' if device.platform != 'cpu' else (
        '; no accelerator: these are numbers of a CPU')
    self.say(f'{device.device_kind} ({device.platform}), jax {jax.__version__}'
             + note + '; toy shapes' * a.tiny, 'device',
             platform=device.platform, **self.here)

  def _write(self, text):
    with self.path.open('a') as file:
      file.write(text)

  def add(self, name, row):
    """Keeps a row."""
    row = {'name': name} | row | self.here
    self.rows[name] = row
    self._write(json.dumps(row) + '\n')

  def add_cut(self, name, seconds):
    """Keeps that some seconds were too few for a row."""
    self._write(json.dumps({'name': name, 'cut': seconds} | self.here) + '\n')

  def show(self, name):
    """Prints a row with its share, by the products that there are now."""
    row = self.rows[name]
    peak = self.rows.get(f'product.{row.get("precision")}')
    if peak and not name.startswith('product'):
      row = row | {'share': row['flops_per_second'] / peak['flops_per_second']}
    # Of the published shapes, which entries may have changed here.
    ours = self.rows.get(TORCH.get(name))
    if ours and not self.here['entries']:
      row = row | {'times_ours': row['seconds'] / ours['seconds']}
    print(json.dumps(row) if self.json else line(row), flush=True)

  def say(self, text, event, **more):
    """Prints what is no row."""
    print(json.dumps({'event': event, 'text': text} | more) if self.json
          else text, flush=True)


HEAD = (f'{"":22}{"ms":>10}{"TFLOP/s":>10}{"of a product":>16}'
        f'{"GiB":>8}{"hours":>7}{"compile":>9}')


def line(row):
  """A row as a line below `HEAD`."""
  def of(key, scale, form, width):
    value = row.get(key)
    return f'{"" if value is None else format(value / scale, form):>{width}}'
  share = f'{row["share"]:.1%} {row["precision"]}' if 'share' in row else ''
  if 'times_ours' in row:
    share = f'{row["times_ours"]:.2f} x ours'
  return (f'{row["name"]:22}{of("seconds", 1e-3, ".3f", 10)}'
          f'{of("flops_per_second", 1e12, ".3g", 10)}{share:>16}'
          f'{of("peak_bytes", 2 ** 30, ".3f", 8)}{of("hours", 1, ".2f", 7)}'
          f'{of("compile_seconds", 1, ".1f", 9)}').rstrip()


def trained(book):
  """Prints what of a sweep is its network's training: sweep less matching."""
  whole, part = (book.rows.get(x) for x in ('idc_sweep', 'idc_matching'))
  if not whole or not part or whole['precision'] != part['precision']:
    return
  row = {key: whole[key] - part[key] for key in ('seconds', 'useful_flops')}
  if row['seconds'] > 0:
    book.rows['idc_training'] = {
        'name': 'idc_training', 'precision': whole['precision'], **row,
        'flops_per_second': row['useful_flops'] / row['seconds'], **book.here}
    book.show('idc_training')


# ---- The whole run


def accuracy(a, book):
  """Goes on with a whole run while there is time; its exit status."""
  config = TINY_IDC[0] if a.tiny else IDC
  entries = ({'network.width': '8', 'method.steps': '4', 'eval.epochs': '4',
              'eval.networks': '1', 'segments.number': '1'}
             if a.tiny else {}) | a.entries
  log = a.out / 'idc.log'
  with log.open('w') as file:
    run = subprocess.Popen(
        [sys.executable, '-m', 'dasm_jax.main', f'--config={config}',
         f'--workdir={(a.out / "idc").resolve()}',
         *(f'--config.{name}={text}' for name, text in entries.items())],
        cwd=ROOT, stdout=file, stderr=subprocess.STDOUT)
    try:
      # It ends its call and saves, for which it needs a while.
      status = run.wait(max(1, a.left() - min(60, a.left() / 3)))
    except subprocess.TimeoutExpired:
      run.send_signal(signal.SIGTERM)
      try:
        status = run.wait(max(1, a.left() - 5))
      except subprocess.TimeoutExpired:
        run.kill()
        status = run.wait()
    finally:
      run.kill()
  last = [x for x in log.read_text().splitlines() if x.strip()][-6:]
  for text in last:
    book.say(f'  {text}', 'accuracy')
  # 75: it saved when it was asked to.
  if status not in (0, 75, -signal.SIGKILL):
    book.say(f'accuracy: failed, see {log}', 'failed')
    return 1
  if status:
    book.say('accuracy: not done; the same command goes on', 'left out')
  return 0


# ---- The command


def parsed():
  """The command line; `left()` tells how many seconds there are."""
  parser = argparse.ArgumentParser(
      description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
  parser.add_argument('--minutes', type=float, default=9)
  parser.add_argument('--out', type=pathlib.Path, default='runs/chip')
  parser.add_argument('--only', default='*')
  for name in ('--tiny', '--json', '--accuracy'):
    parser.add_argument(name, action='store_true')
  parser.add_argument('--torch', choices=TORCH, help=argparse.SUPPRESS)
  parser.add_argument('entries', nargs='*', metavar='KEY=VALUE')
  a = parser.parse_args()
  wrong = [x for x in a.entries if '=' not in x]
  if wrong:
    sys.exit(f'error: {wrong[0]} is no KEY=VALUE')
  a.entries = dict(x.split('=', 1) for x in a.entries)
  a.left = lambda: 60 * a.minutes - (time.monotonic() - BEGAN)
  return a


def chosen(a):
  """The products, and the cases that are asked for; all could be built."""
  every, patterns = cases(a.tiny), a.only.split(',')
  for pattern in patterns:
    if not fnmatch.filter([case.name for case in every], pattern):
      sys.exit(f'error: unknown program {pattern}; choose from '
               f'{", ".join(case.name for case in every)}')
  found = [case for case in every if any(
      fnmatch.fnmatch(case.name, x) for x in patterns)]
  programs = TINY if a.tiny else PUBLISHED
  for case in found:
    try:
      if case.program in programs:
        config_of(programs[case.program], case.form, a.entries)
    except UserError as error:
      sys.exit(f'error: {case.name}: {error}; --only leaves programs out')
  return [*(Case('product', form) for form in PRODUCTS), *found]


def expected(case, book):
  """Seconds that a case is likely to take, by what has been measured."""
  if case.name in book.cut:
    return book.cut[case.name]['cut']
  if case.program in TORCH:
    return 30
  spent = [(row['name'].partition('.')[0], row['spent_seconds'])
           for row in book.rows.values() if 'compile_seconds' in row]
  same = [took for name, took in spent if name == case.program]
  return max(same or [took for name, took in spent if name != 'product'][-3:],
             default=0)


def watched(a, book, name):
  """A timer that ends the process where a compilation outlasts the limit."""
  given = a.left()

  def end():
    book.add_cut(name, given)
    book.say(f'{name}: not done after {given:.0f} s, when time was up; the '
             'same command goes on, with this last', 'left out', names=[name])
    os._exit(1)
  timer = threading.Timer(given, end)
  timer.daemon = True
  timer.start()
  return timer


def measure(case, a, book):
  """Measures a `Case` and prints it, or why not; whether all is well."""
  timer = watched(a, book, case.name)
  try:
    found = torch_measured(case, a) if case.program in TORCH else measured(
        case, a, book.rows)
  except Exception as error:  # the others may still be measured
    told = ' '.join(str(error).split())[:300]
    book.say(f'{case.name}: failed: {type(error).__name__}: {told}', 'failed',
             name=case.name)
    return False
  finally:
    timer.cancel()
  if 'missing' in found:
    book.say(f'{case.name}: left out: {found["missing"]}', 'missing',
             name=case.name)
    return True
  book.add(case.name, found)
  book.show(case.name)
  return True


def main():
  """Measures what is missing and fits; the exit status."""
  a = parsed()
  if a.torch:
    print(json.dumps(torch_row(a.torch, a.tiny)))
    return 0
  # At toy shapes only whether it works counts, and compiling takes longest.
  jax.config.update('jax_disable_most_optimizations', a.tiny)
  todo, left, good = chosen(a), [], True
  book = Book(a)
  if not importlib.util.find_spec('torch'):
    gone = [case.name for case in todo if case.program in TORCH]
    todo = [case for case in todo if case.program not in TORCH]
    if gone:
      book.say(f'no PyTorch here: {", ".join(gone)} left out', 'missing',
               names=gone)
  if not a.json:
    print(HEAD, flush=True)
  # What outlasted an earlier call must not keep the others from their turn.
  for case in sorted(todo, key=lambda case: case.name in book.cut):
    if case.name in book.rows:
      book.show(case.name)
    elif a.left() <= expected(case, book):
      left.append(case.name)
    else:
      good &= measure(case, a, book)
    if case == Case('idc_matching'):
      trained(book)
  if a.accuracy:
    if a.left() > 30:
      good &= not accuracy(a, book)
    else:
      left.append('accuracy')
  if left:
    book.say(f'no time for {", ".join(left)}; the same command goes on with '
             'them', 'left out', names=left)
  return 0 if good else 1


if __name__ == '__main__':
  sys.exit(main())

"""What a compiled program does, counted in the text of its optimised HLO.

Also what it has to do: the products in a traced program, counted in their
plainest form, whatever its derivatives look like (`useful_flops`).
"""

import functools
import math
import re
from typing import NamedTuple

import jax
from jax.interpreters import partial_eval

# Instructions that run nothing on a device, or whose other half is counted.
FREE = {'parameter', 'constant', 'tuple', 'get-tuple-element', 'bitcast',
        'after-all', 'opt-barrier', 'partition-id', 'replica-id', 'domain',
        'copy-done', 'async-done', 'async-update', 'all-reduce-done',
        'all-gather-done', 'collective-permute-done', 'reshape', 'recv-done',
        'send-done', 'add-dependency', 'get-dimension-size'}
COLLECTIVES = re.compile('all-reduce|all-gather|all-to-all|reduce-scatter|'
                         'collective-permute|collective-broadcast')
_TYPE = re.compile(r'\b(pred|[subf]\w*?(\d+)\w*)\[([\d,]*)\]')


class Counts(NamedTuple):
  """Of one call; loops of an unknown number of turns count as one turn.

  kernels: launches, of a conditional those of its longest branch. in_loops:
  those of them within loops. conditionals: and loops whose end the host has to
  ask a GPU for. convolution_flops, product_flops: as they are run, zeros of
  padding and dilation included. written: bytes of results. cycles: as a TPU's
  compiler estimates them, of two branches the dearer one's, of more, one of
  which is drawn, their mean. collectives: exchanges between devices.
  """
  kernels: float = 0
  in_loops: float = 0
  conditionals: float = 0
  convolution_flops: float = 0
  product_flops: float = 0
  written: float = 0
  cycles: float = 0
  collectives: float = 0

  @property
  def flops(self):
    """Of convolutions and products, as they are run."""
    return self.convolution_flops + self.product_flops

  def times(self, n):
    """That much, n times."""
    return Counts(*(n * x for x in self))

  def plus(self, other):
    """Both."""
    return Counts(*map(sum, zip(self, other, strict=True)))


class Instruction(NamedTuple):
  """One line.

  operands: their names; value: as they are written, of a constant itself.
  rest: all that stands behind them.
  """
  name: str
  type: str
  opcode: str
  operands: list
  rest: str
  root: bool
  value: str


# ---- The text


def read(text):
  """`(entry, {name: {instruction: Instruction}})` of a module's text."""
  entry, found, current = None, {}, None
  for line in text.splitlines():
    head = re.match(r'(ENTRY )?%?([\w.\-]+) \(.*-> .*\{$', line)
    if head:
      current = found[head[2]] = {}
      entry = head[2] if head[1] else entry
    elif current is not None and (one := _instruction(line)):
      current[one.name] = one
  return entry, found


def _instruction(line):
  begin = re.match(r'\s+(ROOT )?%?([\w.\-]+) = ', line)
  if not begin:
    return None
  rest = line[begin.end():]
  end = _closing(rest) + 1 if rest[0] == '(' else rest.index(' ')
  kind, rest = rest[:end], rest[end:].lstrip()
  opcode, _, behind = rest.partition('(')
  stop = _closing('(' + behind) - 1
  return Instruction(begin[2], kind, opcode, re.findall(
      r'%([\w.\-]+)', behind[:stop]), behind[stop + 1:], bool(begin[1]),
                     behind[:stop])


def _closing(text):
  """Where the parenthesis that the text begins with is closed."""
  depth = 0
  for at, sign in enumerate(text):
    depth += (sign == '(') - (sign == ')')
    if not depth:
      return at
  raise ValueError(f'not closed: {text[:80]}')


def arrays(kind):
  """`[(bytes of an entry, dimensions)]` of a type, of all parts of a tuple."""
  return [(max(1, int(bits or 8) // 8), [int(x) for x in dims.split(',') if x])
          for _, bits, dims in _TYPE.findall(kind)]


def size(kind):
  """Bytes of a type."""
  return sum(each * math.prod(dims) for each, dims in arrays(kind))


# ---- What a program does


def count(text):
  """The `Counts` of a module's text."""
  entry, computations = read(text)

  @functools.cache
  def of(name, loops):
    here = computations[name]
    total = Counts()
    for one in here.values():
      total = total.plus(launched(one, here, loops))
    return total

  def called(rest, *names):
    """Computations that some attributes name."""
    found = []
    for name in names:
      for text in re.findall(name + r'=(\{[^}]*\}|%?[\w.\-]+)', rest):
        found += re.findall(r'[\w.\-]+', text)
    return found

  def launched(one, here, loops):
    if one.opcode in FREE:
      return Counts()
    if one.opcode == 'while':
      turns = _turns(one, computations[called(one.rest, 'condition')[0]])
      (body,) = called(one.rest, 'body')
      return of(body, True).times(turns or 1).plus(
          Counts(conditionals=int(not turns)))
    if one.opcode == 'conditional':
      branches = [of(name, loops) for name in called(
          one.rest, 'true_computation', 'false_computation',
          'branch_computations')]
      times = [x.cycles for x in branches]
      return max(branches, key=lambda x: (x.kernels, x.written))._replace(
          cycles=max(times) if len(times) < 3 else sum(times) / len(times),
      ).plus(Counts(conditionals=1))
    if one.opcode == 'call':
      return of(*called(one.rest, 'to_apply'), loops)
    cycles = re.search(r'"estimated_cycles":"(\d+)"', one.rest)
    return flops_of(one, here)._replace(
        kernels=1, in_loops=int(loops), written=written(one, here),
        cycles=int(cycles[1]) if cycles else 0,
        collectives=int(bool(COLLECTIVES.match(one.opcode))))

  def flops_of(one, here):
    # Of a fusion (or what runs beside others): all that is within.
    if re.search(r'\bcalls=', one.rest):
      total = Counts()
      for name in called(one.rest, 'calls'):
        for part in computations[name].values():
          total = total.plus(flops_of(part, computations[name]))
      return total
    return Counts(convolution_flops=_convolution(one, here),
                  product_flops=_product(one, here))

  def written(one, here):
    # What changes a part of an array in its place writes that part.
    def changed(one, here):
      if one.opcode == 'dynamic-update-slice':
        return size(here[one.operands[1]].type)
      if one.opcode == 'bitcast':
        return changed(here[one.operands[0]], here)
      if one.opcode == 'tuple':
        return sum(changed(here[name], here) for name in one.operands)
      return size(one.type)
    if one.opcode == 'fusion':
      inner = computations[called(one.rest, 'calls')[0]]
      return changed(next(x for x in inner.values() if x.root), inner)
    return changed(one, here)

  return of(entry, False)


def _turns(loop, condition):
  """How many turns a loop has, None if nobody knows.

  A GPU's compiler says it; of a TPU's the condition tells, `i < n`, as loops of
  JAX begin with 0 where n is a constant.
  """
  said = re.search(r'"known_trip_count":\{"n":"(\d+)"\}', loop.rest)
  if said:
    return int(said[1])
  root = next(x for x in condition.values() if x.root)
  end = condition.get(root.operands[-1]) if root.operands else None
  if root.opcode == 'compare' and 'direction=LT' in root.rest and end and (
      end.opcode == 'constant'):
    return int(end.value)
  return None


def _convolution(one, here):
  target = re.search(r'custom_call_target="__cudnn\$conv(\w+)"', one.rest)
  if one.opcode != 'convolution' and not target:
    return 0
  types = [arrays(one.type)[0][1]] + [
      arrays(here[name].type)[0][1] for name in one.operands[:2]]
  # Which of them is the filter, and which the output of the forward pass: of
  # the two that a gradient is made of, the result is another one.
  kind = target[1] if target else 'Forward'
  rhs, out = {'BackwardFilter': (0, 2), 'BackwardInput': (2, 1)}.get(
      kind, (2, 0))
  labels = re.search(r'dim_labels=\w+_(\w+)->', one.rest)[1]
  return 2 * math.prod(types[out]) * _taps(one.rest, types[0]) * (
      types[rhs][labels.index('i')])


def _taps(rest, result):
  """Taps of a window that meet an entry or its padding, a mean over places.

  Where a TPU has groups they are a side of their own, of a window with holes
  between all but one of them.
  """
  window = re.search(r'window=\{([^}]*)\}', rest)
  if not window:
    return 1
  given = dict(part.split('=') for part in window[1].split())
  sizes = [int(x) for x in given['size'].split('x')]
  def of(name):
    return [x for x in given.get(name, 'x'.join(['1'] * len(sizes))).split('x')]
  places = re.search(r'->(\w+)', rest)[1]
  taps = 1
  for side, (size_, stride, holes, pad) in enumerate(zip(
      sizes, map(int, of('stride')), map(int, of('lhs_dilate')),
      of('pad') if 'pad' in given else ['0_0'] * len(sizes), strict=True)):
    if holes == 1:
      taps *= size_
    else:
      low, n = int(pad.split('_')[0]), result[places.index(str(side))]
      taps *= sum((at * stride + k - low) % holes == 0
                  for at in range(n) for k in range(size_)) / n
  return taps


def _product(one, here):
  if one.opcode == 'dot':
    dims = re.search(r'lhs_contracting_dims=\{([\d,]*)\}', one.rest)[1]
  elif 'custom_call_target="__cublas$' in one.rest:
    dims = re.search(r'"lhs_contracting_dimensions":\[([\d",]*)\]',
                     one.rest)[1].replace('"', '')
  else:
    return 0
  left = arrays(here[one.operands[0]].type)[0][1]
  return 2 * math.prod(arrays(one.type)[0][1]) * math.prod(
      left[int(x)] for x in dims.split(',') if x)


# ---- What it has to do


def useful_flops(function, *arguments):
  """FLOPs of the convolutions and products of a function, in their plain form.

  A convolution and both its derivatives, of any order, take the same: for each
  side the product of the two smallest of image, kernel and output, whichever of
  these the two operands are. A loop of an unknown number of turns counts as one
  turn, a conditional as its dearest branch.
  """
  return _flops(function, arguments, _plain_sides)


def traced_flops(function, *arguments):
  """The same as it is traced: every tap of every window, zeros included."""
  return _flops(function, arguments, _traced_sides)


def _flops(function, arguments, sides):
  # Traced anew, whatever it was traced for before.
  jaxpr = jax.make_jaxpr(lambda *given: function(*given))(*arguments).jaxpr
  # Both derivatives of a piece are traced even where one is asked for.
  jaxpr = partial_eval.dce_jaxpr(jaxpr, [True] * len(jaxpr.outvars))[0]

  def of_jaxpr(jaxpr):
    return sum(map(of_equation, jaxpr.eqns))

  def of_equation(eqn):
    name, p = eqn.primitive.name, eqn.params
    if name == 'conv_general_dilated':
      numbers, (_, right) = p['dimension_numbers'], eqn.invars
      out = eqn.outvars[0].aval.shape
      return 2 * out[numbers.out_spec[0]] * out[numbers.out_spec[1]] * (
          right.aval.shape[numbers.rhs_spec[1]]) * math.prod(sides(eqn))
    if name == 'dot_general':
      (contracted, _), _ = p['dimension_numbers']
      return 2 * eqn.outvars[0].aval.size * math.prod(
          eqn.invars[0].aval.shape[x] for x in contracted)
    inner = [of_jaxpr(x) for x in _inner(p)]
    if name == 'cond':
      return max(inner)
    return sum(inner) * (p['length'] if name == 'scan' else 1)

  return of_jaxpr(jaxpr)


def _inner(params):
  """Programs within an equation, of a custom derivative the function itself."""
  for key, value in params.items():
    if 'fwd' in key or 'bwd' in key or 'jvp' in key:
      continue
    for one in value if isinstance(value, list | tuple) else [value]:
      if hasattr(one, 'eqns'):
        yield one
      elif hasattr(one, 'jaxpr') and hasattr(one.jaxpr, 'eqns'):
        yield one.jaxpr


def _shapes(eqn):
  """Sides of left operand, right operand and result, `[(l, r, o), …]`."""
  numbers = eqn.params['dimension_numbers']
  left, right = (x.aval.shape for x in eqn.invars)
  out = eqn.outvars[0].aval.shape
  return [(left[a], right[b], out[c]) for a, b, c in zip(
      numbers.lhs_spec[2:], numbers.rhs_spec[2:], numbers.out_spec[2:],
      strict=True)]


def _plain_sides(eqn):
  return [math.prod(sorted(sides)[:2]) for sides in _shapes(eqn)]


def _traced_sides(eqn):
  return [right * out for _, right, out in _shapes(eqn)]

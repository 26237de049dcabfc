"""Numbers as people read them: durations, sizes, counts, tables."""

import math


def table(rows, header):
  """Rows of cells as aligned text; columns of numbers to the right."""
  rows = [[_cell_text(value) for value in row] for row in rows]
  columns = list(zip(header, *rows, strict=True))
  widths = [max(map(len, column)) for column in columns]
  # An empty cell does not turn a column of numbers to the left.
  right = [bool(rows) and all(_is_number(cell) for cell in column[1:])
           for column in columns]
  lines = [list(header), ['-' * width for width in widths], *rows]
  return '\n'.join(
      '  '.join(cell.rjust(width) if flush else cell.ljust(width)
                for cell, width, flush in zip(line, widths, right, strict=True)
                ).rstrip()
      for line in lines)


def duration(value):
  """A duration in seconds as `8.2s`, `1m40s`, `2h05m` or `3d04h`."""
  if not math.isfinite(value):
    return '?'
  if value < 9.95:
    return f'{max(value, 0):.1f}s'
  # With one decimal 9.95 would read 10.0 already.
  value = round(value)
  if value < 60:
    return f'{value}s'
  if value < 3600:
    return f'{value // 60}m{value % 60:02d}s'
  if value < 86400:
    return f'{value // 3600}h{value % 3600 // 60:02d}m'
  return f'{value // 86400}d{value % 86400 // 3600:02d}h'


def plural(number, noun):
  """`1 image`, `2 images`."""
  return f'{number} {noun}' + ('' if number == 1 else 's')


def count(value):
  """A number in at most three digits and a letter: `870`, `1.2k`, `34M`."""
  return _scaled(value, 1000, ('', 'k', 'M', 'G', 'T'))


def size(value):
  """Bytes as `512 B`, `1.5 MB` (a kB is 1000 bytes)."""
  return _scaled(value, 1000, (' B', ' kB', ' MB', ' GB', ' TB'))


def _scaled(value, base, units):
  if not math.isfinite(value):
    return f'?{units[0]}'
  value = float(value)
  # 999.5 would be shown as 1000: the next unit takes it.
  place = 0
  while abs(value) >= base - .5 and place < len(units) - 1:
    value, place = value / base, place + 1
  digits = f'{value:.1f}' if abs(value) < 9.95 else f'{value:.0f}'
  return digits.removesuffix('.0') + units[place]


def _cell_text(value):
  return f'{value:.4g}' if isinstance(value, float) else str(value)


def _is_number(cell):
  return not cell or cell[0].isdigit() or cell[0] in '-+.'

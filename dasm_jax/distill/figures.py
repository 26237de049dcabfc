"""Pictures of a run."""

import contextlib
import functools
import pathlib
import unicodedata

import numpy as np

from dasm_jax.runtime.records import replacing

# Of pictures: they stay light where a page is dark.
_PAPER, _INK, _ALL, _IN = 'white', '#333333', '#c3cad3', '#2f6db5'


def image_grid(images, path, names=(), cell=32, width=2000, height=4000, gap=2):
  """Saves a PNG, one row a class; returns `(rows, columns)` that it shows.

  images: `[classes, n, height, width, channels]` in [0, 1], one channel or
  three; clipped, a NaN is black. names: of the classes, written before their
  rows, or none. cell: small images are enlarged to at least this many pixels,
  whole times; the others are reduced to at most 128. width, height: of the
  picture in pixels; the first that fit are shown. Raises `ValueError` for
  another shape.
  """
  images = np.asarray(images, np.float32)
  if images.ndim != 5 or images.shape[-1] not in (1, 3) or not images.size:
    raise ValueError(
        f'images of shape {images.shape}; expected [classes, n, height, width,'
        ' 1 or 3]')
  # Whole factors only, so that a pixel that is enlarged stays a square.
  _, _, h, w, _ = images.shape
  shrink = -(-max(h, w) // 128)
  least = -(-cell // min(h, w)) if shrink == 1 else 1
  grow = max(least, 96 // max(h, w))
  # A few images may be large; many have to fit.
  while grow > least and images.shape[1] * (w * grow + gap) > width // 2:
    grow -= 1
  tall, wide = -(-h // shrink) * grow, -(-w // shrink) * grow
  rows = max(1, min(images.shape[0], (height - gap) // (tall + gap)))
  columns = max(1, min(images.shape[1], (width - gap) // (wide + gap)))
  page = np.full((rows * (tall + gap) + gap, columns * (wide + gap) + gap, 3),
                 255, np.uint8)
  for i in range(rows):
    for j in range(columns):
      y, x = gap + i * (tall + gap), gap + j * (wide + gap)
      page[y:y + tall, x:x + wide] = _thumb(images[i, j], shrink, grow)
  _png(_named(page, names[:rows], tall + gap, gap), path)
  return rows, columns


def window_plot(scores, inside, path, segment, segments, score_name):
  """Saves the difficulty of all real images and of one segment's window.

  scores: `[n]`, all 0 where nobody scored. inside: `[n]` bool. segment:
  counted from one.
  """
  figure = _figure(7, 3.4 if np.any(scores) else .5)
  _panel(figure.subplots(), scores, inside, segment, segments, score_name)
  _save(figure, path)


def window_plots(pairs, path, score_name='difficulty'):
  """Saves one panel a segment, from the first to the last.

  pairs: `[(scores [n], inside [n])]`, one a segment.
  """
  pairs = list(pairs)
  scored = [bool(np.any(scores)) for scores, _ in pairs]
  heights = [1.9 if known else .4 for known in scored]
  figure = _figure(7, .9 + sum(heights))
  axes = figure.subplots(len(pairs), 1, sharex='all', squeeze=False,
                         height_ratios=heights)[:, 0]
  first = scored.index(True) + 1 if any(scored) else 0
  for number, (axis, (scores, inside)) in enumerate(
      zip(axes, pairs, strict=True), 1):
    _panel(axis, scores, inside, number, len(pairs),
           score_name if number == len(pairs) else '',
           legend=number == first)
  _save(figure, path)


def line_plot(x, lines, path, x_name, y_name):
  """Saves one line a name, with the spread around its mean.

  x: `[n]` ascending, 0 or more, shown by its logarithm beyond the first
  positive one. lines: `{name: (mean [n], std [n])}`; `real` is drawn dashed.
  """
  from matplotlib.font_manager import FontProperties
  figure = _figure(7, 4)
  axis = figure.subplots()
  font, labels = readable(lines)
  for (name, (mean, std)), label in zip(lines.items(), labels, strict=True):
    style = dict(color=_INK, linestyle='--') if name == 'real' else {}
    mean, std = np.asarray(mean), np.asarray(std)
    # Between two dollars Matplotlib reads formulas.
    label = label.replace('$', r'\$')
    (line,) = axis.plot(x, mean, marker='o', markersize=4, label=label, **style)
    axis.fill_between(x, mean - std, mean + std, color=line.get_color(),
                      alpha=.15, linewidth=0)
  # Ages begin at 0, which a logarithm does not show.
  axis.set_xscale('symlog', linthresh=min((v for v in x if v), default=1))
  axis.set_xticks(x, [str(v) for v in x])
  axis.minorticks_off()
  axis.set_ylim(bottom=0)
  axis.set_xlabel(x_name, color=_INK)
  axis.set_ylabel(y_name, color=_INK)
  axis.spines[['top', 'right']].set_visible(False)
  axis.tick_params(colors=_INK, labelsize=9)
  axis.legend(frameon=False, prop=FontProperties(fname=font, size=9))
  _save(figure, path)


def curve_panels(panels, path, x_name, y_name, columns=3):
  """Saves panels of curves with error bars, by the logarithm of x.

  panels: `[(title, {name: (x [n], y [n], error [n])}, {name: level})]`; a level
  is a line across its panel. A name has one colour in all of them, and after
  the tenth another dash. An error that is NaN is not drawn.
  """
  from matplotlib.font_manager import FontProperties
  columns = min(columns, len(panels))
  rows = -(-len(panels) // columns)
  figure = _figure(.6 + 4.6 * columns, .6 + 3.4 * rows)
  axes = figure.subplots(rows, columns, squeeze=False, sharey='all').ravel()
  names = list(dict.fromkeys(name for _, lines, levels in panels
                             for name in (*lines, *levels)))
  font, labels = readable(names)
  labels = {name: label.replace('$', r'\$')
            for name, label in zip(names, labels, strict=True)}
  colors = {name: f'C{number % 10}' for number, name in enumerate(names)}
  drawn = {}
  for axis, (title, lines, levels) in zip(axes, panels, strict=False):
    for name, (x, y, error) in lines.items():
      dash = '-' if names.index(name) < 10 else '--'
      drawn[name] = axis.errorbar(
          x, y, np.nan_to_num(np.asarray(error, np.float64)), marker='o',
          markersize=4, capsize=2, linestyle=dash, color=colors[name])
    for name, level in levels.items():
      drawn[name] = axis.axhline(level, color=colors[name], linestyle=':')
    axis.set_xscale('log')
    # Numbers that are near each other would be written over each other.
    ticks = []
    for value in sorted({value for x, _, _ in lines.values() for value in x}):
      if not ticks or value > 1.2 * ticks[-1]:
        ticks.append(value)
    axis.set_xticks(ticks, [str(value) for value in ticks])
    axis.minorticks_off()
    axis.set_title(title, loc='left', fontsize=10, color=_INK)
    axis.set_xlabel(x_name, color=_INK)
    axis.spines[['top', 'right']].set_visible(False)
    axis.tick_params(colors=_INK, labelsize=9)
  for axis in axes[len(panels):]:
    axis.axis('off')
  for axis in axes[::columns]:
    axis.set_ylabel(y_name, color=_INK)
  if drawn:
    figure.legend(drawn.values(), [labels[name] for name in drawn],
                  frameon=False, loc='outside lower left', ncols=columns + 1,
                  prop=FontProperties(fname=font, size=9))
  _save(figure, path)


def loss_plot(lines, path):
  """Saves the matching loss against steps, a colour a segment.

  lines: `{segment: (steps [n], losses [n])}`, steps of the whole run; a loss
  that is no number is left out.
  """
  figure = _figure(7, 2.6)
  axis = figure.subplots()
  drawn = []
  for number, (steps, losses) in sorted(lines.items()):
    losses = np.asarray(losses, np.float64)
    axis.plot(steps, losses, color=f'C{(number - 1) % 10}', linewidth=1,
              marker='.', markersize=3, label=f'segment {number}')
    drawn.append(losses[np.isfinite(losses)])
  drawn = np.concatenate(drawn)
  # Losses of fresh networks are hundreds of those of trained ones.
  if drawn.size and drawn.min() > 0 and drawn.max() > 20 * drawn.min():
    axis.set_yscale('log')
  axis.set_xlabel('step', color=_INK)
  axis.set_ylabel('matching loss', color=_INK)
  axis.spines[['top', 'right']].set_visible(False)
  axis.tick_params(colors=_INK, labelsize=9)
  if len(lines) > 1:
    axis.legend(frameon=False, fontsize=9)
  _save(figure, path)


def readable(names, fonts=None):
  """A font, and how names are written in it: no sign is an empty box.

  Args:
    names: texts. fonts: paths, the best first; None: DejaVu Sans, which comes
      with Matplotlib, then those of this machine.

  Returns:
    `(path, labels)`: the first font that has every sign of all names, else the
    one that has most; there a name goes without the signs that it lacks, after
    its number, from 0.
  """
  names = [unicodedata.normalize('NFC', str(name)) for name in names]
  # A sign that is no space and cannot be printed has no picture either.
  names = [''.join(sign for sign in name if sign == ' ' or sign.isprintable())
           for name in names]
  signs = frozenset(''.join(names)) - {' '}
  best = None
  for path in _fonts() if fonts is None else fonts:
    known = _signs_of(path, signs)
    if best is None or len(known) > len(best[1]):
      best = path, known
    if known == signs:
      break
  path, known = best
  return path, [_without(name, signs - known, number)
                for number, name in enumerate(names)]


def _without(name, missing, number):
  """A name without some signs, after its number if it has any of them."""
  left = ''.join(sign for sign in name if sign not in missing)
  return name if left == name else f'{number} {" ".join(left.split())}'.strip()


def _fonts():
  """Paths of fonts, lazily: those of the machine take a while to find."""
  import matplotlib
  from matplotlib import font_manager
  yield str(pathlib.Path(matplotlib.get_data_path(), 'fonts', 'ttf',
                         'DejaVuSans.ttf'))
  found = map(pathlib.Path, font_manager.findSystemFonts())
  # The usual weight of a family before its others. A font of last resort has
  # a box for every sign.
  yield from map(str, sorted(
      (path for path in found if 'lastresort' not in path.stem.lower()),
      key=lambda path: ('regular' not in path.stem.lower(), path)))


@functools.lru_cache(1000)
def _signs_of(path, signs):
  """Those of some signs that a font can draw."""
  from matplotlib.ft2font import FT2Font
  with contextlib.suppress(Exception):  # of a file that is no font
    font = FT2Font(path)
    if font.scalable:
      return frozenset(x for x in signs if font.get_char_index(ord(x)))
  return frozenset()


def _thumb(image, shrink, grow):
  image = np.nan_to_num(image, nan=0, posinf=1, neginf=0).clip(0, 1)
  image = np.rint(image * 255).astype(np.uint8)
  image = np.broadcast_to(image, (*image.shape[:2], 3))
  if shrink > 1:
    from PIL import Image
    image = np.asarray(Image.fromarray(image.copy()).reduce(shrink))
  return image.repeat(grow, 0).repeat(grow, 1)


def _named(page, names, row, gap):
  """A page with the name of each of its rows at the left."""
  if not len(names):
    return page
  from PIL import Image, ImageDraw, ImageFont
  path, names = readable(names)
  font = ImageFont.truetype(path, max(8, min(16, row - gap - 2)))
  names = [name if len(name) <= 24 else f'{name[:23]}…' for name in names]
  wide = int(max(map(font.getlength, names))) + 3 * gap
  margin = Image.new('RGB', (wide, len(page)), _PAPER)
  draw = ImageDraw.Draw(margin)
  for number, name in enumerate(names):
    at = wide - gap, gap + number * row + (row - gap) // 2
    draw.text(at, name, _INK, font, anchor='rm')
  return np.concatenate([np.asarray(margin), page], axis=1)


def _png(page, path):
  from PIL import Image
  with replacing(path) as file:
    Image.fromarray(page).save(file, format='PNG', optimize=True)


def _save(figure, path):
  with replacing(path) as file:
    figure.savefig(file, dpi=120, format='png')


def _figure(width, height):
  # Not pyplot: it takes 0.7 s, looks for a display and keeps every figure.
  from matplotlib.backends.backend_agg import FigureCanvasAgg
  from matplotlib.figure import Figure
  figure = Figure((width, height), layout='constrained', facecolor=_PAPER)
  FigureCanvasAgg(figure)
  return figure


def _panel(axis, scores, inside, segment, segments, score_name, legend=True):
  scores = np.asarray(scores, np.float64)
  inside = np.asarray(inside, bool)
  title = (f'segment {segment} of {segments}: {inside.sum():,} of '
           f'{inside.size:,} images')
  # A segment of which nobody judged the images has zeros.
  if not scores.any():
    axis.set_title(f'{title}, chosen without scores', loc='left', fontsize=10,
                   color=_INK)
    axis.axis('off')
    return
  known = np.isfinite(scores)
  low, high = _limits(scores[known])
  # The same bars for all images and for those inside.
  edges = np.histogram_bin_edges((), bins=40, range=(low, high))
  wild = ((scores[known] < low) | (scores[known] > high)).any()
  for chosen, color, label in ((known, _ALL, 'all real images'),
                               (known & inside, _IN, 'in the window')):
    axis.hist(scores[chosen].clip(low, high), edges, color=color, label=label)
  axis.set_title(title + ', outliers in the end bars' * bool(wild),
                 loc='left', fontsize=10, color=_INK)
  axis.set_ylabel('images', color=_INK)
  axis.set_xlabel(score_name, color=_INK)
  axis.spines[['top', 'right']].set_visible(False)
  axis.tick_params(colors=_INK, labelsize=9)
  axis.yaxis.get_major_locator().set_params(integer=True)
  if legend:
    axis.legend(frameon=False, fontsize=9)


def _limits(scores):
  """A range that one wild score cannot stretch; numpy widens an empty one."""
  if not scores.size:
    return 0., 1.
  # Losses have long tails: what is far beyond the middle 99 % is in the end
  # bars.
  low, high = np.percentile(scores, (.5, 99.5))
  reach = .5 * (high - low)
  if not reach:
    return float(scores.min()), float(scores.max())
  return max(scores.min(), low - reach), min(scores.max(), high + reach)

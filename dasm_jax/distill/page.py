"""A page of results as one file: it needs no other file and no network.

`write` takes parts, each a text of HTML that one of the other functions here
has made. Narrow screens show it as well: what is wide scrolls by itself.
"""

import base64
import html
import pathlib

from dasm_jax.runtime.records import write_text

_STYLE = '''
:root { color-scheme: light dark; }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem;
  margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.6rem; line-height: 1.25; }
h2 { font-size: 1.15rem; margin-top: 2.2rem; }
pre, .wide { overflow-x: auto; }
pre { padding: .8rem; border: 1px solid #8886; border-radius: .4rem;
  line-height: 1.35; font-size: .85rem; }
table { border-collapse: collapse; }
th { text-align: left; font-weight: 600; }
td, th { padding: .15rem 1.2rem .15rem 0; border-bottom: 1px solid #8884;
  vertical-align: top; }
td + td, th + th { font-variant-numeric: tabular-nums; }
.facts td + td { overflow-wrap: anywhere; }
.note { font-size: .9rem; opacity: .8; }
.bars { display: grid; gap: .3rem 1rem; align-items: center;
  grid-template-columns: max-content 1fr; margin: 1rem 0; }
.bar { display: flex; align-items: center; gap: .6rem; white-space: nowrap; }
.bar i { height: 1.1rem; border-radius: .2rem; background: #8888; }
.bar.ours i { background: #2f6db5; }
.pictures { display: flex; flex-wrap: wrap; gap: 0 1.5rem; }
figure { margin: 1rem 0; max-width: 100%; }
figcaption { font-size: .9rem; opacity: .8; margin-bottom: .4rem; }
img { max-width: 100%; height: auto; border-radius: .2rem; }
summary { cursor: pointer; }
'''


def write(path, title, parts):
  """Writes the page.

  title: a text. parts: of HTML, '' is left out.
  """
  title = html.escape(title)
  write_text(path, (
      '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
      '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
      f'<title>{title}</title>\n<style>{_STYLE}</style>\n</head>\n<body>\n'
      f'<h1>{title}</h1>\n' + ''.join(parts) + '</body>\n</html>\n'))


def slot(name):
  """A place that `fill` fills later; name: one word."""
  return f'<!-- {name} --><!-- end of {name} -->\n'


def fill(path, name, parts):
  """Puts parts into the slot of a page, in the place of what is there.

  Returns:
    Whether there is such a page with such a slot.
  """
  path = pathlib.Path(path)
  if not path.is_file():
    return False
  text = path.read_text(encoding='utf-8')
  begin, end = f'<!-- {name} -->', f'<!-- end of {name} -->'
  before, found, rest = text.partition(begin)
  if not found or end not in rest:
    return False
  write_text(path, before + begin + '\n' + ''.join(parts) + end
             + rest.partition(end)[2])
  return True


def heading(text):
  """A heading of a section."""
  return f'<h2>{html.escape(text)}</h2>\n'


def paragraph(text, note=False):
  """A paragraph; note: in smaller letters."""
  kind = ' class="note"' * note
  return f'<p{kind}>{html.escape(text)}</p>\n' if text else ''


def bars(rows, ours=0):
  """Accuracies as bars from 0 to 100 %.

  rows: `[(name, mean, std)]` of fractions, or None for what is unknown. ours:
  the one that stands out.
  """
  out = []
  for number, (name, mean, std) in enumerate(rows):
    # Of what is left of the number that stands behind it.
    width = f'calc((100% - 9rem) * {max(0, min(1, mean)):.4f})'
    shown = f'{mean:.1%}' + (f' ± {100 * std:.1f}' if std is not None else '')
    kind = 'bar ours' if number == ours else 'bar'
    out.append(f'<span>{html.escape(name)}</span><span class="{kind}">'
               f'<i style="width:{width}"></i>{shown}</span>\n')
  return f'<div class="bars">\n{"".join(out)}</div>\n'


def table(head, rows):
  """A table; head: texts, rows: lists of what `str` takes."""
  def line(cells, tag):
    return '<tr>' + ''.join(f'<{tag}>{html.escape(str(cell))}</{tag}>'
                            for cell in cells) + '</tr>\n'
  return ('<div class="wide"><table>\n' + line(head, 'th')
          + ''.join(line(row, 'td') for row in rows) + '</table></div>\n')


def facts(pairs):
  """`[(name, value)]` as lines."""
  rows = ''.join(
      f'<tr><td>{html.escape(name)}</td><td>{html.escape(str(value))}</td>'
      '</tr>\n' for name, value in pairs)
  return f'<table class="facts">\n{rows}</table>\n'


def fixed(text):
  """A text whose columns stand below each other, or a command."""
  return f'<pre>{html.escape(text)}</pre>\n' if text else ''


def pictures(pairs):
  """`[(caption, path of a PNG)]`, beside each other where there is room."""
  return f'<div class="pictures">\n{"".join(map(_picture, pairs))}</div>\n'


def _picture(pair):
  caption, path = html.escape(pair[0]), pathlib.Path(pair[1])
  # In the text itself, so that the page can be sent alone.
  data = base64.b64encode(path.read_bytes()).decode()
  return (f'<figure><figcaption>{caption}</figcaption>\n<img alt="{caption}" '
          f'src="data:image/png;base64,{data}"></figure>\n')


def folded(summary, *parts):
  """Parts that are shown at a click."""
  return (f'<details><summary>{html.escape(summary)}</summary>\n'
          + ''.join(parts) + '</details>\n')

"""The page: whole in one file, whatever names hold, and narrow."""

import re

import numpy as np

from dasm_jax.distill import figures, page


def test_a_slot_is_filled_as_often_as_one_likes(tmp_path):
  path = tmp_path / 'report.html'
  assert not page.fill(path, 'later', ['x'])
  page.write(path, 'a', [
      page.heading('b'), page.slot('later'), page.fixed('c')])
  before = path.read_text()
  assert not page.fill(path, 'other', ['x']) and path.read_text() == before
  for text in ('first', 'second'):
    assert page.fill(path, 'later', [page.paragraph(text), page.fixed('d')])
    now = path.read_text()
    assert now.replace(f'\n<p>{text}</p>\n<pre>d</pre>\n', '') == before


def test_page(tmp_path):
  figures.image_grid(np.ones((1, 1, 8, 8, 3)), tmp_path / 'g.png')
  path = tmp_path / 'report.html'
  page.write(path, 'a <b> & c', [
      page.heading('h & h'), page.paragraph('<script>'), page.paragraph(''),
      page.bars([('ours <1>', .9312, .0123), ('other', .5, None)]),
      page.table(['x < y'], [['<td>'], [3]]), page.fixed('a < b'),
      page.facts([('method.augment', '<a>'), ('seed', 3)]),
      page.pictures([('the "set"', tmp_path / 'g.png')]),
      page.folded('<more>', page.paragraph('inside'))])
  text = path.read_text()
  for word in ('<h1>a &lt;b&gt; &amp; c</h1>', '<title>a &lt;b&gt; &amp; c<',
               '<h2>h &amp; h</h2>', '&lt;script&gt;', 'x &lt; y</th>',
               '<td>&lt;td&gt;</td>', '<pre>a &lt; b</pre>',
               'method.augment</td><td>&lt;a&gt;<', 'seed</td><td>3<',
               'alt="the &quot;set&quot;"', '<summary>&lt;more&gt;</summary>',
               'ours &lt;1&gt;', '93.1% ± 1.2', '50.0%<'):
    assert word in text, word
  assert text.count('bar ours') == 1 and '* 0.9312)' in text
  assert '<script' not in text and text.count('<p>') == 2
  assert not re.search(r'https?:|//|<link|url\(|@import|src="(?!data:)',
                       re.sub(r'base64,[^"]*', '', text))
  assert str(tmp_path) not in text

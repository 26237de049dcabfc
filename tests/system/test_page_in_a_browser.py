"""The page of a run as a browser shows it, where there is one: Chromium.

What it drew is looked at: nothing is wider than the screen, and dark is dark.
"""

import re
import shutil
import subprocess

import kill
import numpy as np
import pytest
import small
from PIL import Image

BROWSER = next(filter(None, map(shutil.which, (
    'chromium', 'chromium-browser', 'google-chrome'))), None)
pytestmark = [pytest.mark.long, pytest.mark.skipif(
    not BROWSER, reason='no Chromium on this machine')]
# A window of this browser is never narrower than 500 pixels; a frame may be.
FRAME = '''<!doctype html><body style="margin:0">
<iframe id="page" src="report.html" style="border:0" width="{width}"
 height="{height}"></iframe><script>
document.getElementById('page').onload = e => {{
  const page = e.target.contentDocument;
  for (const one of page.querySelectorAll('details')) one.open = true;
  document.body.dataset.wide = page.documentElement.scrollWidth;
  document.body.dataset.tall = page.documentElement.scrollHeight;
  document.body.dataset.broken = [...page.images].filter(
    i => !i.naturalWidth).length;
}}</script>'''


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
  """The workdir of a run of two segments."""
  root = tmp_path_factory.mktemp('page')
  kill.finish(kill.start(root / 'run', root / 'cache', **small.PLAIN,
                         eval__prefixes=1))
  return root / 'run'


def browse(folder, *arguments):
  """What the browser prints of a frame around the page."""
  return subprocess.run(
      [BROWSER, '--headless', '--no-sandbox', '--disable-gpu', '--disable-quic',
       '--no-first-run', '--disable-background-networking',
       '--disable-component-update', '--disable-sync', '--hide-scrollbars',
       '--allow-file-access-from-files', '--virtual-time-budget=5000',
       f'--user-data-dir={folder / "profile"}', *arguments,
       f'file://{folder / "frame.html"}'], text=True, check=True, timeout=120,
      capture_output=True).stdout


@pytest.mark.parametrize('width', [375, 1000])
def test_nothing_is_wider_than_the_screen(width, folder):
  (folder / 'frame.html').write_text(FRAME.format(width=width, height=800))
  dom = browse(folder, '--dump-dom')
  wide, tall, broken = (int(re.search(f'data-{name}="(\\d+)"', dom)[1])
                        for name in ('wide', 'tall', 'broken'))
  assert wide <= width and tall > 1500 and not broken
  assert 'Accuracy after each segment' in (folder / 'report.html').read_text()


def test_it_is_light_or_dark_as_the_screen_is(folder):
  (folder / 'frame.html').write_text(FRAME.format(width=375, height=1400))
  def drawn(name, *more):
    browse(folder, f'--screenshot={folder / name}', '--window-size=500,1400',
           *more)
    with Image.open(folder / name) as picture:
      return np.asarray(picture.convert('L'))[:, :375]
  light = drawn('light.png')
  dark = drawn('dark.png', '--blink-settings=preferredColorScheme=0')
  # Most of a page is its paper; the pictures and the letters are the rest.
  assert np.median(light) > 240 and np.median(dark) < 60
  assert light.std() > 20 and dark.std() > 20

"""Of `mkdocs build`: pages that lie outside of docs/, and links to such."""

import pathlib
import posixpath
import re

from mkdocs.structure.files import File

ROOT = pathlib.Path(__file__).parents[1]
# As they are called on the site.
OUTSIDE = {
    'ARCHITECTURE.md': 'architecture.md', 'RESULTS.md': 'results.md',
    'CHANGELOG.md': 'changes.md',
    **{f'launch/{page.name}': f'launch/{page.name}'
       for page in sorted((ROOT / 'launch').glob('*.md'))}}


def on_files(files, config):
  """Adds these pages."""
  for path, name in OUTSIDE.items():
    files.append(File.generated(
        config, name, content=(ROOT / path).read_text()))
  return files


def on_page_markdown(markdown, page, **_):
  """Makes links of the repository those of the site.

  What is no page of it, such as a module, becomes plain text.
  """
  name = page.file.src_uri
  lies = {there: here for here, there in OUTSIDE.items()}.get(
      name, f'docs/{name}')

  def link(match):
    label, target = match.groups()
    if '://' in target or target.startswith('#'):
      return match[0]
    path, mark, section = target.partition('#')
    path = posixpath.normpath(posixpath.join(posixpath.dirname(lies), path))
    if path not in OUTSIDE and not path.startswith('docs/'):
      return label
    there = OUTSIDE.get(path, path.removeprefix('docs/'))
    there = posixpath.relpath(there, posixpath.dirname(name) or '.')
    return f'[{label}]({there}{mark}{section})'

  return re.sub(r'\[([^\[\]]*)\]\(([^()\s]+)\)', link, markdown)

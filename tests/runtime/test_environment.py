"""Streams, a home and devices that are not there."""

import os
import subprocess
import sys

import pytest
import toy

from dasm_jax.errors import UserError
from dasm_jax.runtime import environment, paths


@pytest.mark.skipif(sys.platform == 'win32', reason='has no such names')
def test_without_a_home_no_folder_is_called_so(monkeypatch):
  monkeypatch.setenv('HOME', '~')  # as where the user has no entry
  monkeypatch.delenv('XDG_CACHE_HOME', raising=False)
  assert environment.home() is None and environment.cache_folder() is None
  for text in ('~', '~/x', '~nobody-of-that-name/x'):
    with pytest.raises(UserError, match='set HOME, or give the whole path'):
      environment.expand(text, '--workdir')
    with pytest.raises(UserError, match='--out'):
      paths.to_path(text, '--out')


def test_a_home_is_found(monkeypatch, tmp_path):
  monkeypatch.setenv('HOME', str(tmp_path))
  monkeypatch.delenv('XDG_CACHE_HOME', raising=False)
  assert environment.expand('~/x') == os.path.join(tmp_path, 'x')
  assert environment.cache_folder() == os.path.join(tmp_path, '.cache')
  assert environment.expand('a~b') == 'a~b' and environment.expand('') == ''
  monkeypatch.setenv('XDG_CACHE_HOME', '/elsewhere')
  assert environment.cache_folder() == '/elsewhere'


def test_closed_streams_are_not_given_to_files(tmp_path):
  code = ('import os, sys; from dasm_jax.runtime import environment; '
          'environment.open_streams(); f = open(sys.argv[1], "w"); '
          'print("said"); os.write(1, b"x"); os.write(2, b"x"); '
          'f.write("mine")')
  path = tmp_path / 'kept'
  done = subprocess.run(
      f"{sys.executable} -c '{code}' {path} >&- 2>&-", shell=True,
      cwd=toy.ROOT, env=toy.environment())
  assert done.returncode == 0
  assert path.read_text() == 'mine'

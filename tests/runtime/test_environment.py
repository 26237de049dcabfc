"""Streams, a home and devices that are not there."""

import os
import subprocess
import sys

import pytest
import toy

from dasm_jax.errors import UserError
from dasm_jax.runtime import cli, environment, paths


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


# ---- Versions


def test_versions_are_those_that_are_loaded(monkeypatch):
  import importlib.metadata

  import jax
  import numpy as np
  found = environment.versions()
  assert list(found) == ['jax', 'jaxlib', 'numpy']
  assert found['jax'] == jax.__version__
  assert found['numpy'] == np.__version__
  monkeypatch.setattr(np, '__version__', '9.8.7')
  assert environment.versions()['numpy'] == '9.8.7'
  # Of what is not loaded those that are installed; others are none.
  monkeypatch.delitem(sys.modules, 'jaxlib')
  assert environment.versions()['jaxlib'] == importlib.metadata.version(
      'jaxlib')
  monkeypatch.setattr(importlib.metadata, 'version', _not_installed)
  assert environment.versions()['jaxlib'] == 'missing'


def _not_installed(name):
  import importlib.metadata
  raise importlib.metadata.PackageNotFoundError(name)


def test_the_command_says_its_version():
  done = subprocess.run(
      [sys.executable, '-m', 'dasm_jax', '--version'], text=True,
      cwd=toy.ROOT, env=toy.environment(), capture_output=True)
  assert done.stdout == f'{environment.version_line()}\n'
  assert done.returncode == 0 and not done.stderr


def test_a_command_is_called_as_it_was(monkeypatch, capsys):
  text = 'call python -m dasm_jax.sweep --x'
  monkeypatch.setattr(sys, 'argv', ['/a/b/sweep/__main__.py'])
  assert cli.as_called(text, 'sweep') == text
  monkeypatch.setattr(sys, 'argv', ['/a/bin/dasm-jax-sweep'])
  assert cli.as_called(text, 'sweep') == 'call dasm-jax-sweep --x'
  with pytest.raises(SystemExit) as caught:
    cli.Parser('sweep', text).parse_args(['--version'])
  assert caught.value.code == 0
  assert capsys.readouterr().out == f'{environment.version_line()}\n'

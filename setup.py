"""Puts configs/ into a wheel as dasm_jax/configs; all else: pyproject.toml."""

import pathlib
import shutil

import setuptools
from setuptools.command.build_py import build_py


class BuildWithConfigs(build_py):
  """`build_py`, and the configs of `dasm_jax.config.files`."""

  def run(self):
    super().run()
    if self.editable_mode:  # they are found where they lie
      return
    to = pathlib.Path(self.build_lib, 'dasm_jax', 'configs')
    # What an earlier build has left may be there no more.
    shutil.rmtree(to, ignore_errors=True)
    to.mkdir(parents=True)
    for path in sorted(pathlib.Path('configs').glob('*.py')):
      self.copy_file(str(path), str(to / path.name))


setuptools.setup(cmdclass={'build_py': BuildWithConfigs})

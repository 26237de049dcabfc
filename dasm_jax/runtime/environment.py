"""What a process finds around it: streams, a home, versions, JAX's devices."""

import os
import platform
import sys

import dasm_jax
from dasm_jax.errors import UserError

# ---- Streams


def open_streams():
  """Opens what stands for a closed input, output or error stream.

  Else the first files that are opened would take their numbers, and whatever
  is printed would be written into them.
  """
  for number, name, mode in ((0, 'stdin', 'r'), (1, 'stdout', 'w'),
                             (2, 'stderr', 'w')):
    try:
      os.fstat(number)
    except OSError:
      opened = os.open(os.devnull, os.O_RDWR)
      if opened != number:
        os.dup2(opened, number)
        os.close(opened)
    if getattr(sys, name) is None:
      setattr(sys, name, open(number, mode, closefd=False))


# ---- Home


def home():
  """The user's home as an absolute path, or None where there is none."""
  found = os.path.expanduser('~')
  return found if os.path.isabs(found) else None


def expand(text, what=''):
  """A path with `~` in place of the home; what: the option that names it.

  Raises:
    UserError: there is no home, or no such user.
  """
  text = os.fspath(text)
  found = os.path.expanduser(text)
  if found.startswith('~') or (
      text.split('/')[0] == '~' and home() is None):
    raise UserError(f'{what}{" " if what else ""}{text!r}: there is no '
                    'such home here; set HOME, or give the whole path')
  return found


def cache_folder():
  """Where programs keep what they can make again; None if there is no home."""
  given = os.environ.get('XDG_CACHE_HOME') or ''
  if os.path.isabs(given):
    return given
  return home() and os.path.join(home(), '.cache')


# ---- Versions


def versions():
  """`{name: version}` of what computes: jax, jaxlib and numpy.

  Loads none of them; one that is not installed is `missing`.
  """
  from importlib import metadata  # which loads much
  def version(name):
    # What is loaded may be another than what is installed.
    loaded = getattr(sys.modules.get(name), '__version__', None)
    try:
      return loaded or metadata.version(name)
    except metadata.PackageNotFoundError:
      return 'missing'
  return {name: version(name) for name in ('jax', 'jaxlib', 'numpy')}


def version_line():
  """What `--version` says."""
  others = ', '.join(f'{name} {version}'
                     for name, version in versions().items())
  return (f'dasm_jax {dasm_jax.__version__} ({others}, '
          f'Python {platform.python_version()})')


# ---- JAX


def use_single_precision():
  """Computes in float32, whatever JAX_ENABLE_X64 says.

  Random numbers of 64 bits are others: the same command would give another set
  where the variable is set.
  """
  import jax
  jax.config.update('jax_enable_x64', False)


def leave_accelerators():
  """Computes on the CPU: neither looks for an accelerator nor takes it."""
  import jax
  # Compilers for chips that are not here say that these are not.
  os.environ.setdefault('TF_CPP_MIN_LOG_LEVEL', '2')
  jax.config.update('jax_platforms', 'cpu')


def keep_programs():
  """Keeps compiled programs in the cache folder, for all later processes."""
  import jax
  folder = cache_folder()
  # A cache that the user has named stays.
  if folder and not jax.config.jax_compilation_cache_dir:
    jax.config.update('jax_compilation_cache_dir',
                      os.path.join(folder, 'dasm_jax', 'xla'))


def check_devices():
  """Makes sure that JAX finds a device.

  Raises:
    UserError: it finds none of those that it was told to use.
  """
  import jax
  try:
    jax.devices()
  except Exception as error:  # JAX asserts that there is one, too
    asked = os.environ.get('JAX_PLATFORMS', '')
    # Of what it says the first sentence; the rest is how to ask for another.
    reason = ' '.join(str(error).split()).split('. (')[0][:200]
    raise UserError(
        f'JAX finds no device{f" of JAX_PLATFORMS={asked}" if asked else ""}'
        f'{": " if reason else ""}{reason}; ' + (
            'unset it, or name a platform that is here, such as cpu' if asked
            else 'JAX_PLATFORMS=cpu computes without one')) from error

"""Where prepared TFDS sets are on disk, and making those that are not."""

import contextlib
import fcntl
import importlib.util
import io
import logging
import os
import re
import socket
import sys
import textwrap
import types
import urllib.request
from pathlib import Path

from dasm_jax.data import tfds_features
from dasm_jax.data.dataset import brief, shorten
from dasm_jax.data.registry import DATASETS, IF_MOVED, unknown_name
from dasm_jax.errors import UserError
from dasm_jax.runtime import paths, waiting

DEFAULT_DATA_DIR = '~/tensorflow_datasets'
INFO = 'dataset_info.json'
CONNECT = 10  # seconds for a host to answer
_VERSION = re.compile(r'\d+\.\d+\.\d+')


def data_root(data_dir=None):
  """The data directory: the argument, else TFDS_DATA_DIR, else TFDS's own.

  Raises `UserError` if one was asked for and is not there.
  """
  told = data_dir or os.environ.get('TFDS_DATA_DIR')
  root, source = (paths.to_path(told or DEFAULT_DATA_DIR),
                  'data_dir' if data_dir else 'TFDS_DATA_DIR')
  try:
    with paths.remote_access(told or root, source):
      missing = told and not root.is_dir()
  except OSError as error:
    raise UserError(f'cannot reach data directory {str(told)!r} ({source}): '
                    f'{brief(error)}') from error
  if missing:
    raise UserError(f'data directory {str(told)!r} ({source}) does not exist; '
                    'make it, or name the one that holds the data sets')
  return root


def is_path(name):
  """Whether a name can only be meant as a path."""
  return name.startswith(('/', '.', '~')) or paths.is_remote(name)


def tfds_name(name):
  """What TFDS calls a data set: `svhn` is `svhn_cropped` there."""
  stem, slash, rest = name.partition('/')
  return (DATASETS[stem].tfds if stem in DATASETS else stem) + slash + rest


def locate(name, data_dir=None):
  """The directory of a prepared set, or None if it is not prepared.

  name: a path, or a name below the data directory, `name[/config][:version]`.
  Raises `UserError` for a path with nothing prepared, and for a choice.
  """
  where = name if is_path(name) else (
      data_dir or os.environ.get('TFDS_DATA_DIR', ''))
  try:
    with paths.remote_access(where):
      return _locate(name, data_dir)
  except OSError as error:
    raise UserError(f'cannot look for data set {name!r}: {brief(error)}'
                    ) from error


def _locate(name, data_dir):
  if not is_path(name):
    return _below(name, data_dir)
  found = _newest(paths.to_path(name), name)
  if found is None:
    way = (f'a file of arrays is npz:{name}' if name.endswith('.npz')
           else f'for plain images use folder:{name}')
    raise UserError(f'no prepared TFDS set at {name!r}: no {INFO} in it or '
                    f'its version directories; {way}{IF_MOVED}')
  return found


def _below(name, data_dir):
  here = _newest(Path(name), name) if os.sep in name else None
  if here is not None:
    return here
  stem, _, version = tfds_name(name).partition(':')
  path = data_root(data_dir) / stem
  if version:
    return path / version if (path / version / INFO).is_file() else None
  return _newest(path, name)


def _newest(path, name):
  """`path` if it is a version directory, else its newest version's."""
  if (path / INFO).is_file():
    return path
  if not path.is_dir():
    return None
  versions = _versions(path)
  if versions:
    return versions[-1]
  configs = sorted(entry for entry in path.iterdir()
                   if entry.is_dir() and _versions(entry))
  if len(configs) > 1:
    raise UserError(
        f'data set {name!r} is prepared in several configurations; choose one '
        f'of {shorten((f"{name}/{entry.name}" for entry in configs), 20)}')
  return _versions(configs[0])[-1] if configs else None


def prepared_sets(root):
  """Names of the sets that are prepared below a data directory."""
  try:
    return sorted(entry.name for entry in root.iterdir()
                  if entry.is_dir() and _versions(entry))
  except OSError:  # What cannot be listed helps nobody.
    return []


def _versions(path):
  """The prepared versions in a directory, oldest first."""
  found = [entry for entry in path.iterdir()
           if _VERSION.fullmatch(entry.name) and (entry / INFO).is_file()]
  return sorted(found, key=lambda entry: [
      int(part) for part in entry.name.split('.')])


@contextlib.contextmanager
def quiet_tfds():
  """No TFDS progress bars, and of absl and urllib3 only what is an error."""
  import tensorflow_datasets as tfds
  from absl import logging as absl_logging
  tfds.disable_progress_bar()
  verbosity = absl_logging.get_verbosity()
  retries = logging.getLogger('urllib3.connectionpool')
  level = retries.level
  absl_logging.set_verbosity(absl_logging.ERROR)
  retries.setLevel(logging.ERROR)
  try:
    yield
  finally:
    absl_logging.set_verbosity(verbosity)
    retries.setLevel(level)


def registered_builder(name, data_dir=None):
  """TFDS's own builder of a set; `UserError` if TFDS does not know it."""
  import tensorflow_datasets as tfds
  root = data_root(data_dir)
  def unknown():
    return unknown_name(name, f'{str(root)!r} and TFDS', prepared_sets(root))
  # A version that `locate` does not take for one TFDS may read all the same.
  tfds_features.check_below(root / tfds_name(name).partition(':')[0])
  try:
    # Some builders print a banner about TensorFlow before they fail.
    with contextlib.redirect_stdout(io.StringIO()):
      return tfds.builder(
          tfds_name(name), data_dir=str(root), file_format='array_record')
  except tfds.core.DatasetNotFoundError as error:
    raise unknown() from error
  except Exception as error:  # Whatever a builder's constructor raises.
    if 'Parsing builder name' in str(error):
      raise unknown() from error
    raise UserError(f'TFDS cannot make data set {name!r}: {brief(error)}'
                    ) from error


def check_possible(name, builder, data_dir=None):
  """`UserError` if preparing would fail: a read-only directory, no network."""
  root = data_root(data_dir)
  parent = root if root.exists() else root.parent
  if not os.access(parent, os.W_OK):
    raise _not_preparable(name, root, 'that directory is read-only')
  by_hand = builder.MANUAL_DOWNLOAD_INSTRUCTIONS
  if by_hand:
    _check_by_hand(name, root, textwrap.shorten(by_hand, 300, placeholder='…'))
    return
  cached = root / 'downloads' / builder.name
  missing = _not_downloaded(builder, cached)
  why = _unreachable(builder) if missing else ''
  if why:
    raise _not_preparable(name, root, f'there is no network: {why}; {missing}')


def _not_downloaded(builder, folder):
  """What a folder of downloads misses, in words; '' if nothing, or who knows.

  TFDS leaves what it did not end in folders that are called `….tmp.…`.
  """
  paths = [path for path in folder.rglob('*') if path.is_file()]
  whole = {path.name for path in paths if not _in_part(path, folder)}
  wanted = _download_names(builder)
  if wanted and whole >= wanted:
    return ''
  # Of another version, or put there by hand; a configuration may need a part.
  part = bool(whole & wanted) and len(builder.builder_configs) <= 1
  if len(whole) == len(paths) > 0 and not part:
    return ''
  cut = ', a download was interrupted' if len(whole) < len(paths) else ''
  return (f'{len(whole & wanted)} of {len(wanted) or "its"} files are in '
          f'{str(folder)!r}{cut}')


def _in_part(path, folder):
  return any('.tmp.' in part for part in path.relative_to(folder).parts[:-1])


def _download_names(builder):
  """How TFDS names the files that a set is made of; none if it does not say."""
  try:
    from tensorflow_datasets.core.download import resource
    return {resource.get_dl_fname(url, info.checksum)
            for url, info in dict(builder.url_infos or {}).items()}
  except Exception:  # Undocumented: where it is not there, just try.
    return set()


def _check_by_hand(name, root, instructions):
  manual = root / 'downloads' / 'manual'
  if not _has_files(manual):
    raise _not_preparable(name, root, 'its files must be put by hand into '
                          f'{str(manual)!r}: {instructions}')
  if not _has_tensorflow():
    raise _not_preparable(name, root,
                          'that needs TensorFlow, once: pip install '
                          'tensorflow')


def _has_files(path):
  return any(entry.is_file() for entry in path.rglob('*'))


def _has_tensorflow():
  return importlib.util.find_spec('tensorflow') is not None


def prepare(name, builder, data_dir=None):
  """Downloads and writes a set as array_record; `UserError` if that fails."""
  check_possible(name, builder, data_dir)
  root = data_root(data_dir)
  what = f'TFDS, which downloads {name} to {root} and prepares it there, once'
  try:
    with (_without_tensorflow(builder), waiting.say_if_long(what),
          contextlib.redirect_stdout(io.StringIO())):
      builder.download_and_prepare()
  except Exception as error:  # Network, disk, archives, the builder itself.
    raise _not_preparable(name, root, brief(error)) from error


@contextlib.contextmanager
def preparation_lock(data_dir=None):
  """Keeps other processes from preparing sets in the same directory.

  Raises `UserError` where nothing can be written.
  """
  root = data_root(data_dir)
  try:
    root.mkdir(parents=True, exist_ok=True)
    file = open(root / '.dasm_jax.lock', 'w')
  except OSError as error:
    raise UserError(f'cannot write to data directory {str(root)!r}: '
                    f'{error.strerror}; set data_dir or TFDS_DATA_DIR to one '
                    'that you may write to') from error
  with file:
    with waiting.say_if_long(
        f'another process that prepares a data set in {root}'):
      fcntl.flock(file, fcntl.LOCK_EX)  # the system lets go of it in the end
    yield


def _not_preparable(name, root, reason):
  return UserError(
      f'data set {name!r} is not prepared in {str(root)!r} and cannot be '
      f'prepared there ({reason}); where there is network, run: python -c '
      f'"from dasm_jax.data import load; load({name!r}, data_dir=\'DIR\')" and '
      'set data_dir or TFDS_DATA_DIR to that DIR')


def _unreachable(builder):
  """Why the host of the first download cannot be reached, '' if it can.

  TFDS itself tries for minutes before it gives up.
  """
  if urllib.request.getproxies():
    return ''
  try:
    urls = list(builder.url_infos or ())
  except Exception:  # Undocumented: where it is not there, just try.
    return ''
  url = urllib.parse.urlparse(urls[0] if urls else '')
  if not url.hostname:
    return ''
  port = url.port or {'http': 80, 'ftp': 21}.get(url.scheme, 443)
  try:
    with (waiting.say_if_long(url.hostname),
          socket.create_connection((url.hostname, port), CONNECT)):
      return ''
  except socket.gaierror:
    return f'no address for {url.hostname}'
  except OSError:
    return f'no answer from {url.hostname}'


def _encode_image(encoder, image):
  """Stands in for TFDS's encoder of arrays, which needs TensorFlow."""
  from PIL import Image
  buffer = io.BytesIO()
  gray = image.shape[-1] == 1
  Image.fromarray(image[..., 0] if gray else image).save(
      buffer, format=encoder.encoding_format)
  return buffer.getvalue()


@contextlib.contextmanager
def _without_tensorflow(builder):
  """Lets the builders of small sets run where TensorFlow is not installed.

  MNIST, CIFAR and SVHN ask TensorFlow for little: to open a local file, and
  to encode an array as PNG. A gigabyte of it is much for that.
  """
  if _has_tensorflow():
    yield
    return
  from tensorflow_datasets.core.download import extractor
  from tensorflow_datasets.core.features import image_feature
  stub = types.SimpleNamespace(
      io=types.SimpleNamespace(gfile=types.SimpleNamespace(GFile=open)),
      compat=types.SimpleNamespace(as_text=os.fspath))
  modules = [sys.modules[base.__module__] for base in type(builder).__mro__
             if '.core.' not in base.__module__]
  modules = [*(module for module in modules if hasattr(module, 'tf')),
             extractor]
  saved = [module.tf for module in modules]
  encoder = image_feature._ImageEncoder
  encode = encoder._encode_image
  try:
    for module in modules:
      module.tf = stub
    encoder._encode_image = _encode_image
    yield
  finally:
    encoder._encode_image = encode
    for module, old in zip(modules, saved, strict=True):
      module.tf = old

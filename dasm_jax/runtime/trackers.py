"""Where the numbers of a run go beside metrics.jsonl: TensorBoard, CSV, W&B.

Each tracker is opened at the first numbers of a call, and has `add(values,
step)`, `picture(name, path, step)` and `close()`; `TRACKERS` has them by name.
All of them raise `UserError` on a full disk.
"""

import contextlib
import csv
import importlib.util
import io
import os
import pathlib
import time
from collections.abc import Callable
from typing import NamedTuple

from dasm_jax.errors import UserError, unknown
from dasm_jax.runtime import records

FLUSH_SECONDS = 10  # between two times that TensorBoard's file is written
CSV_FILE = 'metrics.csv'


class Opening(NamedTuple):
  """What a tracker is opened with.

  workdir: its path. start: the step that this call goes on from. run: the name
  of the run. settings: of its configuration, a nested dict. rows: `() ->
  [dict]`, all that is in metrics.jsonl. clock: seconds.
  """
  workdir: pathlib.Path
  start: int
  run: str
  settings: dict
  rows: Callable
  clock: Callable


class TensorBoard:
  """A file in events/.

  Each call writes: TensorBoard's own writer has a thread, which fails for
  itself and is not heard of.
  """

  def __init__(self, opening):
    # What a killed run wrote beyond the step is hidden from then on.
    from tensorboardX.proto import event_pb2
    from tensorboardX.record_writer import RecordWriter
    self._event, self._clock = event_pb2, opening.clock
    self._flushed, folder = opening.clock(), opening.workdir / 'events'
    name = f'events.out.tfevents.{int(time.time())}.{os.getpid()}'
    self._path = folder / name
    with records.writing(self._path):
      folder.mkdir(exist_ok=True)
      self._file = RecordWriter(str(self._path))
    self._write(0, file_version='brain.Event:2')
    log = event_pb2.SessionLog(status=event_pb2.SessionLog.START)
    self._write(opening.start, session_log=log)

  def add(self, values, step):
    """Adds scalars, a dict, at a step."""
    from tensorboardX import summary
    for name, value in values.items():
      self._write(step, summary=summary.scalar(name, value))
    if not 0 <= self._clock() - self._flushed < FLUSH_SECONDS:
      self._flushed = self._clock()
      with self._closing():
        self._file.flush()

  def picture(self, name, path, step):
    """Adds a PNG file at a step."""
    from PIL import Image
    from tensorboardX.proto import summary_pb2
    with Image.open(path) as image:
      width, height = image.size
    # The file as it is, which is smaller than what would be made of its pixels.
    shown = summary_pb2.Summary.Image(
        height=height, width=width, colorspace=3,
        encoded_image_string=path.read_bytes())
    self._write(step, summary=summary_pb2.Summary(
        value=[summary_pb2.Summary.Value(tag=name, image=shown)]))

  def close(self):
    """Writes what is left."""
    with self._closing():
      self._file.close()

  def _write(self, step, **what):
    event = self._event.Event(wall_time=time.time(), step=step, **what)
    with self._closing():
      self._file.write(event.SerializeToString())

  @contextlib.contextmanager
  def _closing(self):
    """Around what writes: after a failure the file is closed for good."""
    try:
      with records.writing(self._path):
        yield
    except UserError:
      # A file that is left open tries once more when it is collected, and
      # Python prints what comes of it.
      with contextlib.suppress(OSError):
        self._file.close()
      raise


class Csv:
  """metrics.csv: a line for each of metrics.jsonl, a column for each name.

  It is written when a call ends, whole, as only then all columns are known.
  """

  def __init__(self, opening):
    self._path, self._rows = opening.workdir / CSV_FILE, opening.rows

  def add(self, values, step):
    """Adds nothing yet."""

  def picture(self, name, path, step):
    """Has none."""

  def close(self):
    """Writes the table."""
    rows = self._rows()
    names = list(dict.fromkeys(name for row in rows for name in row))
    text = io.StringIO()
    table = csv.DictWriter(text, names, lineterminator='\n')
    table.writeheader()
    table.writerows(rows)
    records.write_text(self._path, text.getvalue())


class Wandb:
  """Weights & Biases, of the project that WANDB_PROJECT names, else dasm_jax.

  A run that goes on is the same one there, by its name.
  """

  def __init__(self, opening):
    import wandb
    self._image = wandb.Image
    self._run = wandb.init(
        project=os.environ.get('WANDB_PROJECT', 'dasm_jax'), id=opening.run,
        name=opening.workdir.name, dir=str(opening.workdir),
        config=opening.settings, resume='allow')
    # Steps of its own count calls, and may not go back as a resumed run does.
    self._run.define_metric('*', step_metric='sweep')

  def add(self, values, step):
    """Adds scalars, a dict, at a step."""
    self._run.log({**values, 'sweep': step})

  def picture(self, name, path, step):
    """Adds a PNG file at a step."""
    self._run.log({name: self._image(str(path)), 'sweep': step})

  def close(self):
    """Sends what is left."""
    self._run.finish()


TRACKERS = {'csv': Csv, 'tensorboard': TensorBoard, 'wandb': Wandb}


def names_of(text):
  """The trackers that a comma-separated text names; '' names none."""
  return [name for name in text.split(',') if name]


def check(entry, text):
  """The range of the entry that names trackers.

  Raises:
    UserError: one is unknown, or its package is not installed.
  """
  for name in names_of(text):
    if name not in TRACKERS:
      raise unknown(f'tracker of --config.{entry}', name, TRACKERS)
    if name == 'wandb' and importlib.util.find_spec(name) is None:
      raise UserError(f'--config.{entry}={text}: the package wandb is not '
                      'installed; pip install wandb, or leave it out')

"""The log of a process that leaves talking and writing to the first one."""

from dasm_jax import hosts, report


class Mute(report.Log):
  """A `report.Log` that keeps the time and nothing else."""

  def say(self, text):
    """Says nothing."""

  def show(self, text):
    """Shows nothing."""

  def note(self, text):
    """Keeps nothing."""

  def mark(self):
    """Writes nothing."""

  def progress(self, *_, **__):
    """Shows nothing."""

  def scalars(self, *_):
    """Adds nothing."""

  def rewind(self, *_):
    """Forgets nothing."""

  def result(self, values):
    """Writes nothing."""


def log(workdir):
  """The log of this process: a `report.Log` in the first one, else `Mute`."""
  return (report.Log if hosts.leads() else Mute)(workdir)

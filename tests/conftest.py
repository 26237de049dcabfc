"""Eight virtual CPU devices for every test; see toy for what they share."""

import gc
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile

# Tracing makes millions of objects that stay; looking through them every time
# that there are 700 more takes a sixth of all.
gc.set_threshold(100_000)

# A lost collective must fail the suite, not hang it. The older emitters, on one
# thread, compile these many small programs twice as fast, and for fewer kinds
# of vectors faster still.
_FLAGS = ('--xla_cpu_max_isa=AVX2', '--xla_cpu_use_fusion_emitters=false',
          '--xla_cpu_parallel_codegen_split_count=1',
          '--xla_cpu_collective_call_warn_stuck_timeout_seconds=20',
          '--xla_cpu_collective_call_terminate_timeout_seconds=60')


def _exist(flags):
  """Whether this XLA has all of some flags; one that it lacks aborts it."""
  environment = {**os.environ, 'JAX_PLATFORMS': 'cpu',
                 'XLA_FLAGS': ' '.join(flags)}
  return not subprocess.run(
      [sys.executable, '-c', 'import jax; jax.devices()'], env=environment,
      stderr=subprocess.DEVNULL, check=False).returncode


# Workers of pytest-xdist have what the first process found.
if 'DASM_JAX_TEST_FLAGS' not in os.environ:
  os.environ['DASM_JAX_TEST_FLAGS'] = ' '.join(
      _FLAGS if _exist(_FLAGS) else [x for x in _FLAGS if _exist([x])])
  os.environ['XLA_FLAGS'] = ' '.join([
      os.environ.get('XLA_FLAGS', ''),
      os.environ['DASM_JAX_TEST_FLAGS']]).strip()

# Files compile the same small programs: what one has compiled the next reads.
# A folder for each worker, as others may read what is half written.
_CACHE = tempfile.mkdtemp(prefix='dasm_jax-xla-')
os.environ['JAX_COMPILATION_CACHE_DIR'] = _CACHE
os.environ['JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS'] = '0'

import jax  # noqa: E402  (reads the flags)
import pytest  # noqa: E402

jax.config.update('jax_platforms', 'cpu')
jax.config.update('jax_num_cpu_devices', 8)


# Of these directories all is slow: whole runs, launchers, published programs.
SLOW = ('system', 'launch', 'golden')
# But what says that a check can fail, and the quickest files of each kind.
QUICK = re.compile(r'_(fails|passes)$|\[(' + '|'.join((
    'selection_herding', 'zca', 'dc_match_loss', 'idc_dist',
    'dm_step_bn', 'dsa_dc_siamese_all_M', 'losses_soft_labels')) + r')\S*-64\]')


# What takes long, and has a twin that shows most of it: launch/test.sh --all.
LONG = re.compile('|'.join((
    # Of published numbers those of large networks, and of 32 bits where 64 are.
    r'golden\[(tesla_hard_dsa|datm_tesla_soft|datm_unrolled_soft)-64\]',
    r'golden\[models_(idc_densenet_cifar|dc_resnet18_(bn|in|ap_bn|ap_in))-64\]',
    r'golden\[(models_idc_resnetap_imagenet_w0125_small_bn|tesla_soft)-64\]',
    r'golden\[(models|mtt|ftd|datm|tesla|sdc|cafe|idc_match|ds?a?c?_step)_\S*-32\]',
    # Of methods those that are others with another augmentation or label.
    r'test_(compiled_is_as_written|loss_falls|many_devices_do_as_one|compiles_once'
    r'|classes_at_once_are_as_in_turn|killed_is_as_straight)'
    r'\[(dsac?|tesla|ftd|datm)\]',
    r'test_any_penalty_moves\S*\[(dc-influence|(idc|dsac|cafe|tesla)-)',
    r'test_some_images_move_and_the_others_stay\[(dsac?|tesla|ftd|datm|cafe)\]',
    r'test_a_step_looks_at_what_it_says\[cafe\]',
    r'test_draw_tells_windows_replay_and_averages\[(dc|dm)-',
    # Of shapes and recipes all but one or two.
    r'test_gradients_of_odd_formats\[vit-shape1\]',
    r'test_odd_formats\[resnet18_ap-',
    r'test_old_keys_draw_what_new_ones_do\[train_(on_set|on_all|choosers)\]',
    r'test_as_alone_however_it_is_cut\[(dc|adamw)\]',
    r'test_maps.*dm-under_vmap',
    r'test_as_a_network_alone\[(100-900|719-1)', r'test_runs_are_the_same\[dm',
    r'test_labels_are_the_experts\[2\]',
    r'test_several_teachers_give_their_mean',
    r'test_stopped_in_training_they_go_on_from_there\[instance',
    # Whole runs whose parts have tests of their own.
    r'test_a_run_lives_in_a_bucket', r'test_a_lost_machine_goes_on\S*\[1-8',
    r'test_stopped_and_killed_together', r'test_as_many_as_a_run_reads',
    r'test_real_steps_of_idc_with_union',
    r'test_every_window\[(ccfs|drop_easy|slide|reversed|hardest)\]',
    r'test_a_folder_is_trained_on\[1000', r'test_a_teacher_learns_nothing',
    r'test_cache.py::test_a_run_is_the_same', r'test_phases_distil_the_same',
    r'test_search.py::test_(architectures_are_trained|command)')))


def pytest_collection_modifyitems(items):
  """Marks what lies in slow directories, and what is long."""
  root = pathlib.Path(__file__).parent
  for item in items:
    if LONG.search(item.nodeid):
      item.add_marker(pytest.mark.long)
    folder = item.path.relative_to(root).parts[0]
    if folder in SLOW and not (
        folder == 'golden' and QUICK.search(item.name)):
      item.add_marker(pytest.mark.slow)


def pytest_unconfigure():
  """Leaves nothing behind."""
  shutil.rmtree(_CACHE, True)


@pytest.fixture(scope='module', autouse=True)
def forget_programs():
  """A process that keeps thousands of compiled programs dies in the next."""
  yield
  jax.clear_caches()


@pytest.fixture(scope='module')
def quick_compiler():
  """For modules that wait for the compiler, not for what it made."""
  jax.config.update('jax_disable_most_optimizations', True)
  yield
  jax.config.update('jax_disable_most_optimizations', False)

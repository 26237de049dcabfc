"""Which check belongs to which fixture, by the prefix of its name."""

import golden_augment
import golden_distribution
import golden_files
import golden_host
import golden_idc
import golden_matching
import golden_models
import golden_scores
import golden_sharpness
import golden_training
import golden_trajectories
import jax

GROUPS = {
    'cafe_step': golden_distribution.check_cafe,
    'datm_': golden_trajectories.check,
    'dc_match_loss': golden_matching.check_distance,
    'dc_step': golden_matching.check_step,
    'ddranking_scores': golden_host.check_ranking,
    'dm_step': golden_distribution.check_dm,
    'dsa_dc': golden_augment.check,
    'dsa_idc': golden_augment.check,
    'dsa_mtt': golden_augment.check,
    'dsa_step': golden_matching.check_step,
    'eval_evaluate_synset': golden_training.check_evaluation,
    'eval_sgd_steps': golden_training.check_steps,
    'ftd_': golden_sharpness.check_step,
    'ftd_ema': golden_sharpness.check_average,
    'idc_cutmix': golden_idc.check_cutmix,
    'idc_decode': golden_idc.check_decode,
    'idc_dist': golden_idc.check_dist,
    'idc_match': golden_idc.check_match,
    'idc_mix_init': golden_idc.check_mix_init,
    'losses_soft_labels': golden_scores.check_losses,
    'models_dc_': golden_models.check_dc,
    'models_dc_convnet': golden_models.check,
    'models_idc_convnet': golden_models.check,
    'models_idc_densenet': golden_models.check_densenet,
    'models_idc_resnet': golden_models.check_resnet,
    'mtt_': golden_trajectories.check,
    'sdc_': golden_scores.check_sdc,
    'selection_forgetting': golden_host.check_forgetting,
    'selection_herding': golden_scores.check_selection,
    'tesla_': golden_trajectories.check,
    'zca_': golden_host.check_zca,
}


def check(path, bits):
  """Runs the check of one fixture; the deviations, relative, by key.

  Raises:
    GoldenError: an unknown prefix, setting or key, or a deviation.
  """
  run = golden_files.group(path, GROUPS)
  # In float32 an activation next to its kink may flip, depending on how sums
  # are rounded (README 3, exception c). Another rounding tells a flip, which
  # goes away, from an error, which stays.
  roundings = golden_files.ROUNDINGS[:None if bits == 32 else 1]
  for rounding in roundings[:-1]:
    try:
      return _check(run, path, bits, rounding)
    except golden_files.DeviationError:
      continue
  return _check(run, path, bits, roundings[-1])


def _check(run, path, bits, rounding):
  # True float32 on accelerators: no TF32, no bfloat16.
  with jax.enable_x64(bits == 64), jax.default_matmul_precision('highest'):
    golden = golden_files.Golden(path, bits, rounding)
    run(golden)
    golden.finish()
  return golden.worst

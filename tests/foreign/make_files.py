"""Writes the files of this folder's tests: by PyTorch, which the tests lack.

  python tests/foreign/make_files.py    (torch 2.13.0, numpy 2.4.6)

Published layouts in tiny shapes, and in expected.npz what must be read of them:
images with channels last, in the order of the file. All together stay below
150 kB.
"""

import collections
import pathlib

import numpy as np
import torch

FILES = pathlib.Path(__file__).parent / 'files'
EXPECTED = {}


def save(path, tree, **how):
  path = FILES / path
  path.parent.mkdir(parents=True, exist_ok=True)
  torch.save(tree, path, **how)


def images(seed, n=10, side=8, channels=1, low=None):
  """Smooth noise: of std 1, or on [low, 1]."""
  noise = torch.randn(n, channels, side, side,
                      generator=torch.Generator().manual_seed(seed))
  smooth = torch.nn.functional.avg_pool2d(noise, 3, 1, 1)
  smooth = smooth / smooth.std()
  if low is None:
    return smooth - smooth.mean()
  return (smooth - smooth.min()) / (smooth.max() - smooth.min()) * (
      1 - low) + low


def expect(name, x, y=None):
  EXPECTED[f'{name}/images'] = x.permute(0, 2, 3, 1).float().numpy()
  if y is not None:
    EXPECTED[f'{name}/labels'] = y.numpy()


def layouts():
  y = torch.arange(10)

  # DC, DSA, DM: several experiments, and NumPy's numbers. In torch's two ways.
  sets = [[images(0), y], [images(1), y.flip(0)]]
  tree = {'data': sets, 'accs_all_exps': {
      'ConvNet': [np.float64(.5), np.float32(.25)]}}
  save('dc/res_DSA_digits_ConvNet_1ipc.pt', tree)
  save('old/res_DSA_digits_ConvNet_1ipc.pt', tree,
       _use_new_zipfile_serialization=False)
  expect('dc1', *sets[0])
  expect('dc2', *sets[1])

  # IDC: pixels that are not quite cut off at 0, as it saves them.
  x = images(2, low=-.05)
  save('idc/digits_factor2_mix_ipc1/data.pt', [x, y])
  expect('idc', x, y)
  for phase in (0, 1):
    part = images(3 + phase, 5, low=0)
    save(f'idc/digits_factor1_ipc1_5_phase{phase}/data.pt',
         [part, torch.arange(5)])
    expect(f'phase{phase}', part)

  # MTT: bare tensors, which its program keeps as they are on a device.
  x = images(5)
  save('mtt/digits/images_best.pt', x.clone())
  save('mtt/digits/labels_best.pt', y)
  save('mtt/digits/images_5000.pt', x + 1)
  save('mtt/digits/labels_5000.pt', y)
  expect('mtt', x, y)
  for k in range(3):
    save(f'mtt/parts/images_best_{k}.pt', x[4 * k:4 * k + 4].clone())
    save(f'mtt/parts/labels_best_{k}.pt', y[4 * k:4 * k + 4])

  # DATM: logits, and the rate that was learned.
  logits = 6 * torch.eye(10) + torch.arange(100.).view(10, 10) / 50
  save('datm/images_best.pt', x)
  save('datm/labels_best.pt', torch.nn.Parameter(logits))
  save('datm/lr_best.pt', torch.tensor(.03125))
  expect('datm', x, logits)

  # NCFM.
  x = images(6, low=0)
  save('ncfm/digits/distilled_data/data_20000.pt', [x, y])
  expect('ncfm', x, y)

  # DC-BENCH's random subsets, which no class order helps.
  x, order = images(7, side=4, channels=3), torch.tensor(
      [3, 1, 4, 0, 5, 9, 2, 6, 8, 7])
  folder = 'distilled_results/random/CIFAR10/IPC1/CIFAR10_IPC1_normalize'
  save(f'{folder}_images.pt', x)
  save(f'{folder}_labels.pt', order)
  expect('dcb', x, order)

  # Of the JAX programs: channels last.
  x, rows = images(8), torch.eye(10) - .1
  np.savez(FILES / 'kip_digits_ConvNet3_ssize10_nol_noaug_ckpt1000.npz',
           images=x.permute(0, 2, 3, 1).numpy(), labels=rows.numpy())
  np.savez(FILES / 'step000000.npz', image=x.permute(0, 2, 3, 1).numpy(),
           label=(rows * 1.5).numpy())
  expect('jax', x, rows)

  # DD-Ranking's arguments, in a dict.
  soft = torch.softmax(logits, 1)
  save('dd_ranking.pt', {'image_tensor': images(9), 'soft_labels': soft,
                         'syn_lr': .02})
  expect('ranking', images(9), soft)
  save('alone.pt', images(9))


def types():
  x = torch.arange(24.).view(2, 3, 4) - 7
  tree = collections.OrderedDict(
      plain=x, turned=x.transpose(0, 2), part=x[:, 1:, ::2], wide=x[:1, :1],
      spread=torch.ones(1).expand(5), scalar=torch.tensor(2.5),
      empty=torch.zeros(0, 3), parameter=torch.nn.Parameter(x[0]),
      truth=x > 0, double=x.double(), half=x.half(), brain=x.bfloat16(),
      int8=x.to(torch.int8), uint8=x.abs().to(torch.uint8),
      int16=x.to(torch.int16), int32=x.int(), int64=x.long(),
      uint16=x.abs().to(torch.uint16))
  tree['tagged'] = x[0].clone()
  tree['tagged'].made_by = 'somebody'
  for name, value in tree.items():
    wide = value.float() if value.dtype == torch.bfloat16 else value
    EXPECTED[f'types/{name}'] = wide.detach().numpy()
  more = {'tensors': tree, 'shared': [x, x[1]], 'array': np.arange(6.).reshape(
      2, 3), 'columns': np.asfortranarray(np.arange(6).reshape(2, 3)),
      'size': x.shape, 'numbers': (1, -2.5, None, True, 'text', 2 ** 70),
      'numpy': np.float64(.1)}
  save('types.pt', more)
  save('types_old.pt', more, _use_new_zipfile_serialization=False)
  save('types_protocol4.pt', more, pickle_protocol=4)
  save('weights.pt', torch.nn.Linear(2, 3).state_dict())
  save('module.pt', torch.nn.Linear(2, 3))
  whitening = images(10)
  save('mtt/digits_zca/images_best.pt', whitening / 4)
  save('mtt/digits_zca/labels_best.pt', torch.arange(10))
  expect('zca', whitening / 4)


if __name__ == '__main__':
  layouts()
  types()
  np.savez_compressed(FILES / 'expected.npz', **EXPECTED)
  print(sum(x.stat().st_size for x in FILES.rglob('*') if x.is_file()), 'bytes')

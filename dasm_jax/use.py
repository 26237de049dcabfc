"""What the card of a set tells who reads it without this package."""

USE = ' '.join('''
images [classes, ipc, height, width, channels]. storage.space pixels: on [0,
1], subtract mean and divide by std before training; normalised: use as they
are. Where there is a zca_matrix, (x - zca_mean) @ zca_matrix of each flattened
image takes the place of mean and std, for real images too. factor f > 1: cut
each image into f x f cells, row by row, and enlarge each bilinearly
(half-pixel centres) to the whole size first. labels [classes, ipc] are class
numbers, or label_kind soft: [classes, ipc, classes], probabilities. label_kind
told: array told [epochs, decoded images, classes], a teacher's logits for the
images as each epoch shows them to who draws order, augmentation and CutMix as
dasm_jax.train.fit does by the seed of lessons; the loss is KL of both sides'
logits over the temperature of lessons. Real images enter as value / 255, minus
mean, divided by std (digits: 0 to 16 is first brought to 0 to 255). recipe:
SGD with momentum and weight_decay (on all parameters), or AdamW (first
average: momentum), on cross-entropy, a new order each epoch, epochs + extra in
all; the rate lr is multiplied by decay after each epoch of drops (restart:
momentum is zeroed there); cosine: it falls to 0 besides. Augmentation
(strategy, on normalised images, one draw an image; strengths as in DSA,
2102.08259): mode single, one operation drawn for each batch; idc, flip and
color always, then one of crop, scale and rotate; before it, where named: rrc,
rrc08, torchvision's RandomResizedCrop from 0.5, 0.08 of the area; on pixels
(image * std + mean) jitter3, brightness, contrast and saturation by 0.4 in any
order, and lighting, AlexNet's, of strength 0.1; then CutMix (1905.04899) with
probability cutmix for each batch. network: convnet is depth blocks of 3x3
convolution (width channels, bias, padding 1; 3 in the first for 28x28x1), norm
with scale and bias, activation, 2x2 pooling; then one linear layer; PyTorch
default initialisation. accuracy: fresh networks after the last epoch on split,
mean and population std.
'''.split())

"""`--help` of the commands whose options are those of their classes: a page of what people use, at once. No torch.

`--help-all` is everything, from the classes themselves. The tests hold every option and default of a page against it.
"""

from __future__ import annotations

from collections.abc import Sequence

RESTORE = """usage: reddiff restore PHOTOS --task TASK --to DIR [options]
       reddiff restore --config FILE [--config FILE ...] --out OUT [options]

Restore damaged images. PHOTOS: a folder, a picture (NAME.mask.png, NAME.kernel.npy, NAME.x.png and NAME.json beside
NAME.jpg belong to it), or tars. The same command again goes on where it stopped.

  reddiff restore photos/ --task jpeg --to restored/
  reddiff restore photos/ --task inpainting_given --data.invert_mask true --to restored/
  reddiff restore 'shards/*.tar' --task superresolution_4x --out out/

what is done (reddiff configs lists the names):
  --task NAME               what was done to the images: denoising, jpeg, superresolution_4x, ...
  --sampler NAME            how it is undone (default: reddiff)
  --prior NAME|FOLDER       the diffusion model (default: bundled)
  --evaluations N           forward passes of the network an image: more is slower and better (default: 20)
  --perception P            0 is faithful, of least error; up to 1 is sharp, 60 evaluations (default: 0)
  --config FILE             options in YAML, a file or a name that ships; a later one wins

what comes in:
  --data.shards TARS        tars: paths, URLs, braces, wildcards; the same as without the option's name
  --data.measured FOLDER    damaged photos; the same as without the option's name
  --data.images FOLDER      clean photos, to be damaged by the task and restored: for tests of a method
  --data.params.NAME PATH   masks or kernels apart from the photos: a folder of them, or one file for all
  --data.invert_mask BOOL   masks are white where pixels are missing (default: false)
  --data.sigma_y LEVEL      noise on the [0, 1] scale, or estimate; default: as the task says
  --data.fit crop|whole     clean photos are cropped to the prior's size, or kept whole (default: crop)

what comes out:
  --to DIR                  restored images as plain files, under their own names
  --out OUT                 the run: shards, accounts, logs (with --to DIR: DIR.run)
  --model.output KIND       png, png16, tiff or npy; default: as what came in
  --model.num_samples N     restorations of each image: their mean and its deviation (default: 1)
  --limit N                 only the first N samples, for a preview
  --overwrite BOOL          delete what is in OUT, start anew (default: false)
  --retry-failed BOOL       try failed samples again (default: false)
  --max-failed SHARE        stop above this share of failed samples (default: 1.0)

how it runs:
  --data.batch_size N       images at once, or auto (default: 8)
  --trainer.accelerator A   cpu, gpu (default: auto)
  --trainer.devices N       so many GPUs of this host, a process each (default: 1)
  --seed N                  of all noise (default: 0)
  --rank N, --world N       one of several tasks; default: as SLURM, torchrun or Kubernetes say

  --help-all                every option of every class
  --model.sampler.help CLASS, --model.prior.help CLASS, --model.physics.help CLASS: one class's options
"""

DEGRADE = """usage: reddiff degrade PHOTOS --task TASK --out OUT [options]

Write the measurements of clean images as shards, with their operator beside them, to restore them elsewhere or later:

  reddiff degrade photos/ --task inpainting_freeform --out measured/
  reddiff restore 'measured/shards/*.tar' --task inpainting_freeform --out out/

what is done (reddiff configs lists the names):
  --task NAME               what is done to the images: denoising, jpeg, superresolution_4x, ...
  --config FILE             options in YAML, a file or a name that ships; a later one wins
  --model.physics CLASS     the operator; its options are --model.physics.init_args.NAME
  --model.noise CLASS       the noise; its options are --model.noise.init_args.NAME

what comes in and out:
  --data.shards TARS        tars: paths, URLs, braces, wildcards; the same as without the option's name
  --data.images FOLDER      clean photos; the same as without the option's name
  --data.size N             cropped and reduced to so many pixels; default: the prior's size
  --data.fit crop|whole     or kept whole (default: crop)
  --out OUT                 the run: shards, physics.yaml, accounts, logs
  --limit N                 only the first N samples, for a preview
  --overwrite BOOL          delete what is in OUT, start anew (default: false)
  --retry-failed BOOL       try failed samples again (default: false)
  --seed N                  of masks, kernels and noise (default: 0)
  --rank N, --world N       one of several tasks; default: as SLURM, torchrun or Kubernetes say

  --help-all                every option of every class
  --model.physics.help CLASS, --model.noise.help CLASS: one class's options
"""

FIT = """usage: reddiff fit --config fit/photos64.yaml --data.shards TARS --out OUT [options]

Train a prior on photos; OUT/prior is a folder that --prior takes. The same command again goes on where it stopped.
The network and every other option stand in a file: `reddiff configs show fit/photos64.yaml` explains them.

what it is:
  --config FILE             options in YAML, a file or a name that ships; a later one wins
  --model.init_from FOLDER  a prior to train on from; default: random weights
  --model.objective WHAT    epsilon, for priors.UNet, or flow, for priors.Flow (default: epsilon)

what it sees:
  --data.shards TARS        tars of photos: paths, URLs, braces, wildcards
  --data.images FOLDER      photos instead
  --data.batch_size N       crops a step and device (default: 512)
  --data.color_jitter X     crops in other colours (default: 0.0)
  --data.turn_share X       share of the crops that are turned (default: 0.0)

how long, how fast:
  --model.max_minutes N     budget in minutes; none by default
  --model.max_steps N       budget in steps; none by default
  --model.lr X              largest step size (default: 0.0004)
  --model.validate_every N  steps between two validations (default: 1000)
  --trainer.accelerator A   cpu, gpu (default: auto)
  --trainer.devices N       GPUs of this host (default: 1)
  --seed N                  (default: 0)
  --out OUT                 the training: prior, log.jsonl, pictures of samples

  --help-all                every option of every class
"""

PAGES = {"restore": RESTORE, "degrade": DEGRADE, "fit": FIT}


def page(command: str, options: Sequence[str]) -> str | None:
    """The page of a command, if it has one and the options ask for it."""
    return PAGES.get(command) if {"-h", "--help"} & set(options) else None

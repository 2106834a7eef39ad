"""Restoring from Python, and as a model of deepinv's: the numbers of the command."""

from __future__ import annotations

import io
import subprocess
import sys

import deepinv
import numpy as np
import pytest
import torch
from helpers import CONFIGS, png, read_tar
from PIL import Image

import reddiff_pl
from reddiff_pl import Restorer
from reddiff_pl.errors import ConfigError, SampleError
from reddiff_pl.integrations.deepinv import REDDiff
from reddiff_pl.physics import UnitRange
from reddiff_pl.priors import Gaussian
from reddiff_pl.samplers import SeededNoise, run

GAUSSIAN = {"prior": "gaussian", "options": {"model.prior.init_args.shape": [3, 32, 32]}, "device": "cpu"}


def _photo(height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def _mask(height: int, width: int) -> np.ndarray:
    mask = np.ones((height, width), bool)
    mask[height // 3 : height // 2, width // 4 : width // 2] = False
    return mask


def test_the_numbers_of_the_command(tmp_path, reddiff):
    photos = {"a": _photo(40, 48), "b": _photo(32, 32, 1)}
    folder = tmp_path / "photos"
    folder.mkdir()
    for name, photo in photos.items():
        (folder / f"{name}.png").write_bytes(png(photo))
        (folder / f"{name}.mask.png").write_bytes(png(_mask(*photo.shape[:2]).astype(np.uint8) * 255))
    options = [f"--config={CONFIGS}/priors/gaussian.yaml", f"--config={CONFIGS}/tasks/inpainting_given.yaml"]
    options += ["--model.prior.init_args.shape=[3,32,32]", "--evaluations=6", "--trainer.accelerator=cpu"]
    code, printed = reddiff("restore", *options, "--data.measured", folder, "--out", tmp_path / "out")
    assert code == 0, printed
    [tar] = (tmp_path / "out" / "shards").glob("*.tar")
    members = read_tar(tar)
    restorer = Restorer("inpainting_given", evaluations=6, **GAUSSIAN)
    restored = restorer(
        list(photos.values()), keys=list(photos), mask=[_mask(*p.shape[:2]) for p in photos.values()]
    )
    for name, image in zip(photos, restored, strict=True):
        (tmp_path / "one.png").write_bytes(members[f"{name}.png"])
        assert np.array_equal(np.asarray(Image.open(tmp_path / "one.png")), image)


@pytest.mark.parametrize("task", ["denoising", "jpeg", "superresolution_4x"])
def test_every_kind_comes_back_as_it_came(task):
    restorer = Restorer(task, evaluations=2, **GAUSSIAN)
    scale = 4 if task == "superresolution_4x" else 1
    photo = _photo(20, 24)
    size = (20 * scale, 24 * scale)
    assert restorer(photo).shape == (*size, 3) and restorer(photo).dtype == np.uint8
    assert restorer(Image.fromarray(photo)).size == size[::-1]
    grey = restorer(photo[..., 0])
    assert grey.shape == size
    floats = torch.from_numpy(photo).permute(2, 0, 1).float() / 255
    one, batch = restorer(floats), restorer(floats[None].repeat(2, 1, 1, 1))
    assert one.shape == (3, *size) and one.dtype == torch.float32 and batch.shape == (2, 3, *size)
    deep = restorer(photo.astype(np.uint16) * 257)
    assert deep.dtype == np.uint16 and deep.shape == (*size, 3)


def test_a_file_brings_its_own_tables(tmp_path):
    path = tmp_path / "photo.jpg"
    Image.fromarray(_photo(33, 47)).save(path, quality=20, subsampling="4:2:0")
    assert reddiff_pl.restore(path, task="jpeg", evaluations=2, **GAUSSIAN).size == (47, 33)


def test_what_does_not_fit_is_one_line():
    with pytest.raises(ConfigError, match="no_such_task"):
        Restorer("no_such_task")
    with pytest.raises(ConfigError, match="lam"):
        Restorer("denoising", options={"model.sampler.init_args.lam": "much"})
    restorer = Restorer("inpainting_given", evaluations=2, **GAUSSIAN)
    with pytest.raises(SampleError, match=r"picture 0: no .*mask"):
        restorer(_photo(16, 16))
    with pytest.raises(SampleError, match="picture 0: mask"):
        restorer(_photo(16, 16), mask=_mask(8, 8))


def test_several_restorations_tell_how_far_they_lie_apart():
    restorer = Restorer("denoising", sampler="reddiff_samples", evaluations=4, num_samples=3, **GAUSSIAN)
    [result] = restorer.results([_photo(16, 16)])
    assert result.std.shape == (3, 16, 16) and (result.std > 0).any() and result.metrics["misfit"] >= 0


def test_a_model_of_deepinv():
    prior = Gaussian((1, 32, 32))
    physics = deepinv.physics.Denoising(noise_model=deepinv.physics.GaussianNoise(0.1))
    torch.manual_seed(0)
    x = (prior.sample(torch.randn(6, 1, 32, 32)).float() + 1) / 2
    y = physics(x)
    model = REDDiff(prior, evaluations=100)
    restored = model(y, physics)
    assert restored.shape == x.shape and not restored.requires_grad
    # the posterior mean is known: on [-1, 1] the noise is twice what deepinv's images have
    mean, _ = prior.posterior(2 * y - 1, deepinv.physics.Denoising(), 0.2)
    gap = (2 * restored - 1 - mean).square().mean()
    assert gap < 0.05 * (2 * y - 1 - mean).square().mean()
    torch.testing.assert_close(restored[2:3], model(y[2:3], physics, keys=["2"]), atol=1e-3, rtol=0)
    with pytest.raises(ConfigError, match="channels"):
        model(torch.zeros(1, 3, 32, 32), physics)


def test_deepinvs_own_test_loop_takes_it(tmp_path):
    prior = Gaussian((1, 16, 16))
    physics = deepinv.physics.Inpainting(
        (1, 16, 16), mask=0.5, noise_model=deepinv.physics.GaussianNoise(0.05)
    )
    torch.manual_seed(0)
    x = (prior.sample(torch.randn(4, 1, 16, 16)).float() + 1) / 2
    pairs = torch.utils.data.TensorDataset(x, physics(x))
    results = deepinv.test(
        REDDiff(prior, evaluations=20),
        torch.utils.data.DataLoader(pairs, batch_size=2),
        physics,
        metrics=[deepinv.metric.PSNR()],
        device="cpu",
        verbose=False,
    )
    assert results["PSNR"] > results["PSNR no learning"]


class _Refined(deepinv.models.Reconstructor):
    """RED-diff, and a layer behind it that is trained."""

    def __init__(self, model: REDDiff) -> None:
        super().__init__()
        self.model = model
        self.layer = torch.nn.Conv2d(1, 1, 3, padding=1)

    def forward(self, y, physics, **kwargs):
        x = self.model(y, physics)
        return x + self.layer(x)


def test_deepinvs_trainer_takes_it():
    """As a fixed part of what is trained, on operators drawn anew for each batch."""
    prior = Gaussian((1, 16, 16))
    generator = deepinv.physics.generator.GaussianBlurGenerator((5, 5))
    physics = deepinv.physics.BlurFFT((1, 16, 16), noise_model=deepinv.physics.GaussianNoise(0.05))
    torch.manual_seed(0)
    x = (prior.sample(torch.randn(8, 1, 16, 16)).float() + 1) / 2
    model = _Refined(REDDiff(prior, evaluations=4))
    layer = model.layer.weight.clone()
    before = {name: value.clone() for name, value in model.model.state_dict().items()}
    seen = []
    trainer = deepinv.Trainer(
        model,
        physics,
        torch.optim.Adam(model.layer.parameters(), 0.01),
        torch.utils.data.DataLoader(list(x), batch_size=4),
        epochs=4,
        losses=deepinv.loss.SupLoss(torch.nn.MSELoss()),
        online_measurements=True,
        physics_generator=generator,
        metrics=deepinv.metric.PSNR(),
        save_path=None,
        device="cpu",
        verbose=False,
        show_progress_bar=False,
    )
    hook = model.register_forward_pre_hook(lambda _, given: seen.append(given[1].filter.clone()))
    trainer.train()
    hook.remove()
    assert len(seen) == 8 and not torch.equal(seen[0], seen[1]), "other filters for each batch"
    [losses] = trainer.loss_history.values()
    assert len(losses) == 4 and losses[-1] < losses[0]
    assert not torch.equal(model.layer.weight, layer)
    assert all(torch.equal(value, before[name]) for name, value in model.model.state_dict().items())


def test_it_begins_where_the_command_does():
    """Not at A_dagger(y), which is noise a thousand times the image's range for a blur."""
    prior = Gaussian((1, 32, 32))
    physics = deepinv.physics.BlurFFT(
        (1, 32, 32),
        filter=deepinv.physics.functional.blur.gaussian_blur(sigma=2.0),
        noise_model=deepinv.physics.GaussianNoise(0.02),
    )
    torch.manual_seed(0)
    x = (prior.sample(torch.randn(2, 1, 32, 32)).float() + 1) / 2
    y = physics(x)
    model = REDDiff(prior, evaluations=4)
    restored = model(y, physics)
    assert (restored - x).square().mean() < (y - x).square().mean()
    operator, noise = UnitRange(physics), SeededNoise(0, ["0", "1"])
    own = run(model.sampler, y, operator, model.prior, noise, noise_std=torch.full((2,), 0.02))
    torch.testing.assert_close(2 * restored - 1, own, atol=1e-6, rtol=0)


@pytest.mark.parametrize("module", ["reddiff_pl.restorer", "reddiff_pl.integrations.deepinv"])
def test_the_docstrings_examples_run(module):
    """In a process of its own: what other tests made of the log would stand among what the examples print."""
    code = (
        f"import doctest, {module} as m; done = doctest.testmod(m); assert done.attempted and not done.failed"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


def test_grey_noise_is_taken_out_as_far_as_that_of_colours(photos):
    """A grey picture is one measurement of three channels, not three: its noise is not to be believed three times."""
    noise = np.random.default_rng(0).standard_normal((48, 48, 3))
    restorer = Restorer("denoising", evaluations=10, sigma_y=0.1, device="cpu")
    photo = np.asarray(Image.open(io.BytesIO(next(iter(photos.values())))).convert("RGB").resize((48, 48)))
    grey = np.repeat(photo[..., 1:2], 3, 2)
    noisy = [(x + 25.5 * noise).clip(0, 255).round().astype(np.uint8) for x in (photo, grey)]
    [colours, one] = restorer.results([noisy[0], noisy[1][..., 0]])
    assert one.picture.shape == (48, 48)
    assert 0.08 < colours.metrics["misfit"] < 0.11 and 0.08 < one.metrics["misfit"] < 0.11

    def error(picture: np.ndarray, x: np.ndarray) -> float:
        return float(np.square(picture / 255 - x / 255).mean())

    assert error(one.picture, grey[..., 0]) < 0.3 * error(noisy[1][..., 0], grey[..., 0])

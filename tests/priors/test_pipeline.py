"""Text-to-image pipelines as priors, from folders that diffusers wrote."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import diffusers
import pytest
import torch
from diffusers import AutoencoderTiny
from helpers import CONFIGS, png, read_json, restored_keys, write_shard
from networks import noise, tiny_unet
from pipelines import pipeline

from reddiff_pl.errors import ConfigError
from reddiff_pl.physics import SuperResolution
from reddiff_pl.priors import Flow, Guidance, Latent, Pipeline, UNet
from reddiff_pl.samplers.reddiff import data_gradient

FAMILIES = ("sd", "lcm", "sdxl", "sd3", "flux")
TEXTS = [("a cat", "dark"), ("dogs", "blur")]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("pipelines")
    return {family: pipeline(folder / family, family) for family in FAMILIES}


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
@pytest.mark.parametrize("family", ["sd", "sdxl"])
def test_a_step_is_that_of_the_pipeline(tmp_path: Path, family: str, prediction: str) -> None:
    """Texts, guidance, scheduler and all: diffusers' DDIM step against the same from our eps."""
    options = {
        "prediction_type": prediction,
        "clip_sample": False,
        "set_alpha_to_one": True,
        "steps_offset": 1,
    }
    folder = pipeline(tmp_path, family, **options)
    prior = Pipeline(str(folder), guidance_scale=3.0, size=16)
    z = noise(2, 4, 8, 8)
    pipe = diffusers.DiffusionPipeline.from_pretrained(str(folder), local_files_only=True)
    pipe.set_progress_bar_config(disable=True)
    with torch.no_grad():
        out = pipe(
            [p for p, _ in TEXTS], negative_prompt=[n for _, n in TEXTS], height=16, width=16, latents=z,
            num_inference_steps=1, guidance_scale=3.0, output_type="latent", original_size=(16, 16),
        ).images if family == "sdxl" else pipe(
            [p for p, _ in TEXTS], negative_prompt=[n for _, n in TEXTS], height=16, width=16, latents=z,
            num_inference_steps=1, guidance_scale=3.0, output_type="latent",
        ).images  # fmt: skip
    t = int(pipe.scheduler.timesteps[0])
    eps = prior.eps(z, torch.full((2,), t), prior.condition(TEXTS))
    a = prior.abar[t]
    x0 = (z - (1 - a).sqrt() * eps) / a.sqrt()
    torch.testing.assert_close(x0.float(), out, rtol=1e-5, atol=1e-5 * float(1 / a.sqrt()))


@pytest.mark.parametrize("family", ["sd3", "flux"])
def test_a_step_of_a_flow_is_that_of_the_pipeline(folders: dict[str, Path], family: str) -> None:
    """One Euler step from sigma .6 to 0: the network's own guess."""
    scale = 3.0 if family == "sd3" else 1.0
    prior = Pipeline(str(folders[family]), guidance_scale=scale, size=16)
    pipe = diffusers.DiffusionPipeline.from_pretrained(str(folders[family]), local_files_only=True)
    pipe.set_progress_bar_config(disable=True)
    # the scheduler would move what it is given; here the step begins where it is told to
    pipe.scheduler = diffusers.FlowMatchEulerDiscreteScheduler(shift=1.0)
    # at one of the prior's levels
    i = 600
    t = ((1 - prior.abar[i]) / prior.abar[i]).sqrt()
    t = float(t / (1 + t))
    z = noise(2, 4, 8, 8)
    options: dict[str, Any] = {"negative_prompt": [n for _, n in TEXTS], "guidance_scale": scale}
    if family == "flux":
        options = {"guidance_scale": 3.5}
    latents = pipe._pack_latents(z, 2, 4, 8, 8) if family == "flux" else z
    with torch.no_grad():
        out = pipe(
            [p for p, _ in TEXTS], height=16, width=16, latents=latents, sigmas=[t], output_type="latent", **options,
            **({"num_inference_steps": 1} if family == "flux" else {}),
        ).images  # fmt: skip
    if family == "flux":
        out = pipe._unpack_latents(out, 16, 16, 2)
    eps = prior.eps(z / ((1 - t) ** 2 + t**2) ** 0.5, torch.full((2,), i), prior.condition(TEXTS))
    x0 = (z - t * eps) / (1 - t)
    torch.testing.assert_close(x0, out, rtol=1e-5, atol=2e-5)


def test_lcm_is_the_pipelines_denoiser(folders: dict[str, Path]) -> None:
    prior = Pipeline(str(folders["lcm"]), size=16)
    pipe = diffusers.DiffusionPipeline.from_pretrained(str(folders["lcm"]), local_files_only=True)
    pipe.set_progress_bar_config(disable=True)
    z = noise(2, 4, 8, 8)
    with torch.no_grad():
        out = pipe(
            [p for p, _ in TEXTS], height=16, width=16, latents=z, num_inference_steps=1, guidance_scale=8.5,
            output_type="latent",
        ).images  # fmt: skip
    t = int(pipe.scheduler.timesteps[0])
    eps = prior.eps(z, torch.full((2,), t), prior.condition(TEXTS))
    a = prior.abar[t]
    x0 = ((z - (1 - a).sqrt() * eps) / a.sqrt()).float()
    torch.testing.assert_close(x0, out, rtol=1e-5, atol=1e-5 * float(1 / a.sqrt()))


@pytest.mark.parametrize("family", FAMILIES)
def test_from_yaml_with_prompts_in_metadata(
    reddiff, tmp_path: Path, folders: dict[str, Path], family: str
) -> None:
    """A text of its own changes an image, whatever its companions; one that is no text fails alone."""
    picture = png((noise(16, 16, 3) * 40 + 128).clamp(0, 255).byte().numpy())
    metas = {"a": {}, "b": {"prompt": "a cat"}, "c": {"prompt": 7}, "d": {"prompt": "a cat"}}
    samples = [(key, {"png": picture, "json": json.dumps(meta).encode()}) for key, meta in metas.items()]
    code, printed = reddiff(
        *("restore", "--config", CONFIGS / "tasks" / "superresolution_2x.yaml"),
        *("--config", CONFIGS / "priors" / "pipeline.yaml", "--data.batch_size=2"),
        *("--data.shards", write_shard(tmp_path / "in.tar", samples), "--trainer.accelerator=cpu"),
        *("--model.prior.init_args.path", folders[family], "--model.prior.init_args.size=16"),
        *("--model.sampler.init_args.steps=2", "--out", tmp_path / "out"),
    )
    assert code == 3 and "prompt in KEY.json must be a text" in printed, printed
    output = tmp_path / "out" / "shards" / "in.tar"
    assert restored_keys(output) == ["a", "b", "d"]


def test_texts_are_encoded_once_and_the_encoders_let_go(folders: dict[str, Path]) -> None:
    prior = Pipeline(str(folders["sd"]), size=16, prompt="a cat")
    z, t = noise(2, 4, 8, 8), torch.tensor([300, 700])
    default = prior.eps(z, t)
    labels = prior.condition([(None, None), ("dogs", None), ("a cat", None), ("dogs", None)])
    assert labels.tolist() == [0, 1, 0, 1]
    eps = prior.eps(z, t, labels[:2])
    assert torch.equal(eps[0], default[0]) and (eps[1] - default[1]).abs().max() > 1e-4
    assert not any("CLIP" in type(module).__name__ for module in prior.modules())
    words = prior.text_to_image.text
    words._pipeline = None  # type: ignore[method-assign,assignment] # nothing is loaded for known texts
    prior.condition([("dogs", None)])
    assert prior.fingerprint() != Pipeline(str(folders["sd"]), size=16, prompt="dogs").fingerprint()


def test_guidance_batches_both_halves(tmp_path: Path, folders: dict[str, Path]) -> None:
    z, t = noise(2, 4, 8, 8), torch.tensor([300, 700])
    plain = Pipeline(str(folders["sd"]), size=16, prompt="a cat", negative_prompt="dark")
    guided = Pipeline(str(folders["sd"]), size=16, prompt="a cat", negative_prompt="dark", guidance_scale=4.0)
    without = Pipeline(str(folders["sd"]), size=16, prompt="dark").eps(z, t)
    torch.testing.assert_close(
        guided.eps(z, t), without + 4 * (plain.eps(z, t) - without), rtol=1e-4, atol=1e-5
    )
    tiny_unet(tmp_path, num_class_embeds=5)
    unet, x = UNet(str(tmp_path), precision="32", label=1), noise(2, 3, 16, 16)
    with pytest.raises(ConfigError, match="null_label"):
        Guidance(unet, 2.0)
    both = Guidance(unet, 2.0, null_label=4).eps(x, t, torch.tensor([1, 2]))
    null = unet.eps(x, t, torch.tensor([4, 4]))
    torch.testing.assert_close(
        both, null + 2 * (unet.eps(x, t, torch.tensor([1, 2])) - null), rtol=1e-4, atol=1e-5
    )
    tiny_unet(tmp_path / "plain")
    with pytest.raises(ConfigError, match="classes or words"):
        Guidance(UNet(str(tmp_path / "plain")), 2.0)


def test_any_size_and_a_tiny_autoencoder(tmp_path: Path, folders: dict[str, Path]) -> None:
    torch.manual_seed(0)
    channels = {"encoder_block_out_channels": (4, 4), "decoder_block_out_channels": (4, 4)}
    tiny = AutoencoderTiny(
        **channels, num_encoder_blocks=(1, 1), num_decoder_blocks=(1, 1), latent_channels=4
    )
    tiny.save_pretrained(tmp_path, safe_serialization=True)
    for autoencoder in (None, str(tmp_path)):
        prior = Pipeline(str(folders["sd"]), size=16, autoencoder=autoencoder)
        image = noise(1, 3, 21, 26).clamp(-1, 1)
        physics = prior.observed(SuperResolution(1))
        z = physics.A_dagger(image)
        assert z.shape == (1, 4, 11, 13)
        assert physics.A(z).shape == image.shape
        assert prior.eps(z, torch.tensor([400])).shape == z.shape, "seen in windows"
        whole = Pipeline(str(folders["sd"]), size=16, autoencoder=autoencoder, fully_convolutional=True)
        assert whole.eps(z, torch.tensor([400])).shape == z.shape
    torch.testing.assert_close(prior.encode(image[..., :20, :]), tiny.encode(image[..., :20, :]).latents)


def test_checkpointing_changes_no_gradient(folders: dict[str, Path]) -> None:
    gradients = []
    for checkpoint in (True, False):
        prior = Pipeline(str(folders["sd"]), size=16, checkpoint=checkpoint)
        _, gradient = data_gradient(noise(1, 4, 8, 8), noise(1, 3, 8, 8), prior.observed(SuperResolution(2)))
        gradients.append(gradient)
    torch.testing.assert_close(*gradients)
    assert gradients[0].abs().max() > 0


@pytest.mark.parametrize(
    "how",
    ["unknown", "custom class", "custom network", "pickled", "no index", "size", "another scheduler", "flow"],
)
def test_what_is_not_known_is_refused(tmp_path: Path, folders: dict[str, Path], how: str) -> None:
    """In one line; no code of the folder runs."""
    import shutil

    folder = tmp_path / "copy"
    shutil.copytree(folders["sd"], folder)
    (folder / "evil.py").write_text(f"open({str(tmp_path / 'run')!r}, 'w')\nclass Evil: pass\n")
    index = read_json(folder / "model_index.json")
    changes = {
        "unknown": {"_class_name": "KandinskyPipeline"},
        "custom class": {"_class_name": ["evil", "Evil"]},
        "custom network": {"unet": ["evil", "Evil"]},
    }
    (folder / "model_index.json").write_text(json.dumps(index | changes.get(how, {})))
    options: dict[str, Any] = {"size": 15} if how == "size" else {}
    if how == "pickled":
        for path in (folder / "text_encoder").glob("*.safetensors"):
            path.rename(path.with_name("pytorch_model.bin"))
    if how == "no index":
        (folder / "model_index.json").unlink()
    if how == "another scheduler":
        (folder / "scheduler" / "scheduler_config.json").write_text(
            '{"_class_name": "FlowMatchEulerDiscreteScheduler"}'
        )
    with pytest.raises(ConfigError, match=r"^model\.prior[^\n]*$") as raised:
        Flow(str(folder)) if how == "flow" else Pipeline(str(folder), **options)
    if how == "unknown":
        assert "StableDiffusionXLPipeline" in str(raised.value)
    if how == "flow":
        assert "priors.Pipeline" in str(raised.value) or "scheduler" in str(raised.value)
    assert not (tmp_path / "run").exists()


def test_latent_takes_guidance_inside(folders: dict[str, Path]) -> None:
    prior = Pipeline(str(folders["sd"]), size=16)
    assert isinstance(prior, Latent)
    with pytest.raises(ConfigError, match="inside Latent"):
        Guidance(prior, 2.0)

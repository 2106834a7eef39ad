"""Checkpoints of the ADM family, imported: the same numbers as the networks they came from."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import pytest
import torch
from adm_reference import ADM
from helpers import CONFIGS, account, png, read_json, restored_keys, write_shard
from networks import WEIGHTS, noise

from reddiff_pl.errors import ConfigError
from reddiff_pl.priors import ADMClassifier, ClassifierGuidance, Gaussian, UNet
from reddiff_pl.priors.adm import unet_config
from reddiff_pl.priors.adm_weights import check_shapes, convert
from reddiff_pl.priors.importing import import_checkpoint
from reddiff_pl.priors.loading import wide_unet
from reddiff_pl.priors.schedule import abar_from

FAMILIES: dict[str, dict[str, Any]] = {
    "unconditional": {},
    "class-conditional": {"classes": 5},
    "one block a level, as ffhq_10m": {"mults": (1, 1, 2), "attention": (2,)},
    "several blocks, attention in the middle": {"mults": (1, 2, 2), "blocks": 2, "attention": (1,)},
    "half a width at first, as 512x512": {"width": 64, "mults": (0.5, 1), "classes": 3},
    "fixed variance": {"outputs": 3},
    "convolutions between levels": {"updown": False},
    "convolutions, attention everywhere": {"updown": False, "attention": (0, 1), "blocks": 2},
    "embedding added": {"scale_shift": False},
    "one level": {"mults": (1,), "attention": (0,)},
}


def checkpoint(path: Path, seed: int = 0, **options: Any) -> ADM:
    """A random network and its file."""
    torch.manual_seed(seed)
    network = ADM(**options).eval().requires_grad_(False)
    torch.save(network.state_dict(), path)
    return network


def imported(file: Path, **options: Any) -> Path:
    folder = file.with_suffix("")
    import_checkpoint(str(file), str(folder), **{"head_channels": 16, "image_size": 16, **options})
    return folder


@torch.no_grad()
@pytest.mark.parametrize("order", ["legacy", "new"])
@pytest.mark.parametrize("family", FAMILIES)
def test_the_same_numbers(tmp_path: Path, family: str, order: str) -> None:
    options = FAMILIES[family]
    network = checkpoint(tmp_path / "a.pt", legacy=order == "legacy", **options)
    prior = UNet(str(imported(tmp_path / "a.pt", attention_order=order)), precision="32")
    assert prior.shape == (3, 16, 16) and prior.classes == options.get("classes", 0)
    x_t, t = noise(3, 3, 16, 16), torch.tensor([0, 437, 999])
    label = torch.tensor([0, 2, 1]) if prior.classes else None
    expected = network(x_t, t, label)
    assert expected.shape[1] == options.get("outputs", 6) and expected.std() > 0.05
    torch.testing.assert_close(prior.eps(x_t, t, label), expected[:, :3], rtol=0, atol=1e-5)


@torch.no_grad()
def test_the_order_of_qkv_counts(tmp_path: Path) -> None:
    network = checkpoint(tmp_path / "a.pt", attention=(0, 1))
    prior = UNet(str(imported(tmp_path / "a.pt", attention_order="new")))
    x_t, t = noise(1, 3, 16, 16), torch.tensor([500])
    assert not torch.allclose(prior.eps(x_t, t), network(x_t, t)[:, :3], atol=1e-4)


@torch.no_grad()
@pytest.mark.parametrize("options", [{}, {"mults": (1, 1, 2), "blocks": 2}, {"updown": False}], ids=str)
def test_classifiers(tmp_path: Path, options: dict[str, Any]) -> None:
    network = checkpoint(tmp_path / "c.pt", classes=7, classify=16, **options)
    folder = imported(tmp_path / "c.pt")
    classifier = ADMClassifier(str(folder))
    x_t, t = noise(3, 3, 16, 16), torch.tensor([0, 437, 999])
    expected = network(x_t, t)
    assert classifier.classes == 7 and expected.std() > 0.05
    torch.testing.assert_close(classifier(x_t, t), expected, rtol=0, atol=1e-5)
    with pytest.raises(ConfigError, match="ADMClassifier, expected UNet2DModel"):
        UNet(str(folder))


@pytest.mark.parametrize("conditional", [False, True])
def test_guidance(tmp_path: Path, conditional: bool) -> None:
    """eps - sigma_t scale grad log p, the gradient taken by the reference itself."""
    network = checkpoint(tmp_path / "c.pt", classes=7, classify=16)
    classifier = ADMClassifier(str(imported(tmp_path / "c.pt")))
    if conditional:
        checkpoint(tmp_path / "p.pt", classes=7)
        prior: Any = UNet(str(imported(tmp_path / "p.pt")))
    else:
        prior = Gaussian((3, 16, 16))
    guided = ClassifierGuidance(prior, classifier, scale=3.0)
    x_t, t, label = noise(2, 3, 16, 16), torch.tensor([20, 600]), torch.tensor([6, 1])
    x = x_t.clone().requires_grad_()
    log_p = network(x, t).softmax(1).log()
    [gradient] = torch.autograd.grad(log_p[0, 6] + log_p[1, 1], x)
    sigma = (1 - prior.abar[t]).sqrt().float()[:, None, None, None]
    expected = prior.eps(x_t, t, label) - 3 * sigma * gradient
    with torch.no_grad():  # as samplers call it
        eps = guided.eps(x_t, t, label)
    torch.testing.assert_close(eps, expected, rtol=0, atol=1e-5)
    assert (eps - prior.eps(x_t, t, label)).abs().max() > 1e-3
    # differentiable, for samplers that go through the network
    x = x_t.clone().requires_grad_()
    assert torch.autograd.grad(guided.eps(x, t, label).square().sum(), x)[0].isfinite().all()
    with pytest.raises(ConfigError, match="no label"):
        guided.eps(x_t, t)
    assert guided.classes == 7 and guided.abar is prior.abar
    prints = {ClassifierGuidance(prior, classifier, scale).fingerprint() for scale in (1.0, 2.0)}
    assert len(prints | {prior.fingerprint()}) == 3


@pytest.mark.parametrize(
    ("name", "options", "schedule", "size"),
    [
        ("64x64_diffusion", {"mults": (1, 2, 3, 4), "classes": 4, "legacy": False}, "squaredcos_cap_v2", 64),
        ("mine", {"mults": (1, 1, 2, 3, 4)}, "linear", 128),
        ("ffhq_10m", {"mults": (1, 1, 2, 2, 4, 4)}, "linear", 256),
        ("512x512_diffusion", {"width": 64, "mults": (0.5, 1, 1, 2, 2, 4, 4)}, "linear", 512),
        ("tiny32x32", {}, "linear", 32),
    ],
)
def test_what_the_name_and_the_widths_tell(
    tmp_path: Path, name: str, options: dict[str, Any], schedule: str, size: int
) -> None:
    network = checkpoint(tmp_path / f"{name}.pt", **options)
    lines = import_checkpoint(str(tmp_path / f"{name}.pt"), str(tmp_path / "out"), head_channels=16)
    prior = UNet(str(tmp_path / "out"), precision="32")
    assert prior.shape == (3, size, size) and f"{size}x{size}" in lines[0]
    assert torch.equal(prior.abar, abar_from({"beta_schedule": schedule}))
    assert read_json(tmp_path / "out" / "scheduler_config.json")["variance_type"] == "learned_range"
    assert ("assumed" in lines[2]) == (name in ("mine", "tiny32x32"))
    if name == "64x64_diffusion":  # the one with the new order
        x_t, t, label = noise(1, 3, 64, 64), torch.tensor([437]), torch.tensor([2])
        with torch.no_grad():
            torch.testing.assert_close(
                prior.eps(x_t, t, label), network(x_t, t, label)[:, :3], rtol=0, atol=1e-5
            )


PUBLISHED: dict[str, tuple[dict[str, Any], float]] = {
    "64x64_diffusion": ({"width": 192, "mults": (1, 2, 3, 4), "blocks": 3, "attention": (1, 2, 3)}, 296),
    "256x256_diffusion": ({"mults": (1, 1, 2, 2, 4, 4), "attention": (3, 4, 5)}, 554),
    "512x512_diffusion": ({"mults": (0.5, 1, 1, 2, 2, 4, 4), "attention": (4, 5, 6)}, 559),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_architectures(name: str) -> None:
    """At full width, by shapes alone; parameters in millions as the paper's table has them."""
    options, millions = PUBLISHED[name]
    with torch.device("meta"):
        network = ADM(**{"width": 256, "blocks": 2, "head": 64, "classes": 1000, **options})
        tensors = network.state_dict()
        config = unet_config(tensors, None, 64)
        check_shapes(convert(tensors, 64, legacy=True), wide_unet(config))
    assert f"{config['sample_size']}x" in name
    assert sum(value.numel() for value in tensors.values()) / 1e6 == pytest.approx(millions, abs=0.6)


@torch.no_grad()
def test_half_precision_folder(tmp_path: Path) -> None:
    network = checkpoint(tmp_path / "a.pt")
    folder = imported(tmp_path / "a.pt", dtype="float16")
    assert (folder / WEIGHTS).stat().st_size < 0.6 * (tmp_path / "a.pt").stat().st_size
    x_t, t = noise(1, 3, 16, 16), torch.tensor([437])
    eps, expected = UNet(str(folder), precision="32").eps(x_t, t), network(x_t, t)[:, :3]
    assert 1e-6 < (eps - expected).norm() / expected.norm() < 5e-3


class Harmful:
    """Unpickled, it leaves a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return Path.touch, (self.path,)


def damaged(path: Path, how: str) -> None:
    network = checkpoint(path)
    tensors = network.state_dict()
    if how == "code":
        torch.save({**tensors, "extra": Harmful(path.with_name("harm"))}, path)
    elif how == "a bare pickle":
        path.write_bytes(pickle.dumps(Harmful(path.with_name("harm")), protocol=2))
    elif how == "truncated":
        path.write_bytes(path.read_bytes()[:-2000])
    elif how == "empty":
        path.write_bytes(b"")
    elif how == "an image":
        path.write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(100))
    elif how == "not tensors":
        torch.save({"epoch": 3}, path)
    elif how == "another network":
        torch.save(torch.nn.Conv2d(3, 3, 3).state_dict(), path)
    elif how == "a tensor missing":
        del tensors["output_blocks.1.0.out_layers.3.bias"]
        torch.save(tensors, path)
    elif how.endswith("missing"):
        block = "output_blocks.3." if how == "a block missing" else "output_blocks.1."
        torch.save({k: v for k, v in tensors.items() if not k.startswith(block)}, path)
    elif how == "a tensor more":
        torch.save({**tensors, "mystery.weight": torch.zeros(1)}, path)
    elif how == "another shape":
        tensors["middle_block.0.in_layers.2.weight"] = torch.zeros(64, 32, 3, 3)
        torch.save(tensors, path)
    elif how == "an upsampler":
        tensors["input_blocks.0.0.weight"] = torch.zeros(32, 6, 3, 3)
        tensors["out.2.weight"] = tensors["out.2.weight"][:3].clone()
        torch.save(tensors, path)


@pytest.mark.parametrize(
    ("how", "says"),
    [
        ("code", "refused"),
        ("a bare pickle", "refused"),
        ("truncated", "truncated"),
        ("empty", "truncated"),
        ("an image", "no checkpoint"),
        ("not tensors", "tensors by name"),
        ("another network", "not a checkpoint of the ADM family"),
        ("a tensor missing", "output_blocks.1.0.out_layers.3.bias"),
        ("a block missing", "no tensor output_blocks.3.0.in_layers.0.weight"),
        ("a step missing", "make no levels"),
        ("a tensor more", "mystery.weight"),
        ("another shape", "mid_block.resnets.0.conv1.weight"),
        ("an upsampler", "upsampler"),
    ],
)
def test_files_that_are_none(reddiff, tmp_path: Path, how: str, says: str) -> None:
    """Exit code 2 and one line; nothing was run, and no folder made."""
    path = tmp_path / "16x16.pt"
    damaged(path, how)
    code, printed = reddiff("prior", "import", path, "--out", tmp_path / "out", "--head-channels=16")
    assert code == 2 and says in printed and str(path) in printed
    assert printed.count("\n") == 1 and "Traceback" not in printed
    assert not (tmp_path / "out").exists() and not (tmp_path / "harm").exists()


@pytest.mark.parametrize(
    ("name", "options", "says"),
    [
        ("x", ["--head-channels=16"], "--image-size"),
        ("x", ["--head-channels=16", "--image-size=17"], "--image-size"),
        ("16x16", ["--head-channels=24"], "--head-channels"),
        ("16x16", ["--head-channels=0"], "--head-channels"),
        ("128x128_diffusion", [], "four heads"),
        ("16x16", ["--head-channels=16", "--out=/proc/nothing"], "--out"),
    ],
)
def test_options_that_do_not_fit(reddiff, tmp_path: Path, name: str, options: list[str], says: str) -> None:
    checkpoint(tmp_path / f"{name}.pt")
    code, printed = reddiff("prior", "import", tmp_path / f"{name}.pt", "--out", tmp_path / "out", *options)
    assert code == 2 and says in printed and printed.count("\n") == 1


def test_missing_files_and_folders_in_use(reddiff, tmp_path: Path) -> None:
    code, printed = reddiff("prior", "import", "256x256_diffusion_uncond.pt", "--out", tmp_path / "out")
    assert code == 2 and "https://openaipublic.blob.core.windows.net" in printed
    checkpoint(tmp_path / "16x16.pt")
    (tmp_path / "mine").write_text("mine")
    code, printed = reddiff("prior", "import", tmp_path / "16x16.pt", "--out", tmp_path, "--head-channels=16")
    assert code == 2 and "--out" in printed and (tmp_path / "mine").read_text() == "mine"
    assert reddiff("prior")[0] == 2


@pytest.mark.parametrize("kind", ["unconditional", "class-conditional", "guided"])
def test_from_checkpoint_to_images(reddiff, tmp_path: Path, kind: str) -> None:
    """Imported by the command, used from YAML, classes from KEY.json."""
    checkpoint(tmp_path / "16x16_p.pt", classes=7 if kind == "class-conditional" else 0)
    checkpoint(tmp_path / "16x16_c.pt", classes=7, classify=16)
    for name in "pc":
        code, printed = reddiff(
            *("prior", "import", tmp_path / f"16x16_{name}.pt", "--out", tmp_path / name),
            "--head-channels=16",
        )
        assert code == 0 and "16x16" in printed, printed
    prior: dict[str, Any] = {
        "class_path": "reddiff_pl.priors.UNet",
        "init_args": {"path": str(tmp_path / "p")},
    }
    if kind == "guided":
        classifier = {
            "class_path": "reddiff_pl.priors.ADMClassifier",
            "init_args": {"path": str(tmp_path / "c")},
        }
        arguments = {"prior": prior, "classifier": classifier, "scale": 5.0}
        prior = {"class_path": "reddiff_pl.priors.ClassifierGuidance", "init_args": arguments}
    (tmp_path / "prior.yaml").write_text(json.dumps({"model": {"prior": prior}}))
    picture = png((noise(16, 16, 3) * 40 + 128).clamp(0, 255).byte().numpy())
    metas = {"a": {"label": 1}, "b": {}, "c": {"label": 6}}
    samples = [(key, {"png": picture, "json": json.dumps(meta).encode()}) for key, meta in metas.items()]
    code, printed = reddiff(
        *("restore", "--config", CONFIGS / "tasks" / "superresolution_2x.yaml"),
        *("--config", tmp_path / "prior.yaml", "--trainer.accelerator=cpu"),
        *("--data.shards", write_shard(tmp_path / "in.tar", samples), "--data.batch_size=2"),
        *("--model.sampler.init_args.steps=4", "--out", tmp_path / "out"),
    )
    output = tmp_path / "out" / "shards" / "in.tar"
    if kind == "unconditional":
        assert code == 0, printed
        assert restored_keys(output) == ["a", "b", "c"]
    else:
        assert code == 3, printed
        assert restored_keys(output) == ["a", "c"]
        assert "no label" in read_json(account(output))["failed"][0]["reason"]

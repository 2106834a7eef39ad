"""Pipelines on a CUDA device: what they choose by themselves there gives the numbers of diffusers' own forward pass."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

if not torch.cuda.is_available():
    pytest.skip("needs a CUDA device", allow_module_level=True)
pytest.importorskip("transformers")

from networks import noise
from pipelines import pipeline

from reddiff_pl.priors import Pipeline
from reddiff_pl.priors.fused.graphs import Graphs

TEXTS = [("a cat", "dark"), ("dogs", "blur")]


@pytest.mark.parametrize("family", ["sd", "lcm", "sdxl", "sd3", "flux"])
def test_the_fast_way_is_the_network(tmp_path: Path, family: str) -> None:
    """With guidance, texts of their own, and shapes that come again."""
    folder = str(pipeline(tmp_path, family))
    z, t = noise(2, 4, 8, 8).cuda(), torch.tensor([300, 700], device="cuda")
    found = {}
    for name, options in {
        "exact": {"precision": "32", "fused": False, "graph": False},
        "eager": {"precision": "bf16", "fused": False, "graph": False},
        "chosen": {},
    }.items():
        prior = Pipeline(folder, guidance_scale=2.0, size=16, **options).cuda()  # type: ignore[arg-type]
        with torch.no_grad():
            label = prior.condition(TEXTS).cuda()
            one = prior.eps(z, t, label)
            other = prior.eps(z, t, label.flip(0))
            assert torch.equal(prior.eps(z, t, label), one), f"{name}: a captured graph took old inputs"
        found[name] = torch.stack([one, other])
        assert (one - other).abs().max() > 1e-4, "texts count"
    assert isinstance(prior.text_to_image.evaluate._fast, Graphs)
    error = {k: float((v - found["exact"]).norm() / found["exact"].norm()) for k, v in found.items()}
    assert error["chosen"] < max(1.5 * error["eager"], 1e-2), error
    # a gradient goes through diffusers' own forward pass, over the same weights
    x = z.clone().requires_grad_()
    prior.eps(x, t, label).square().sum().backward()
    assert x.grad is not None and x.grad.isfinite().all() and x.grad.abs().max() > 0
    prior.release()
    assert not prior.text_to_image.evaluate._fast.graphs

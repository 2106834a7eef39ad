"""Networks from local files: where they are looked for, what they compute, what is said without them."""

from __future__ import annotations

import inspect
import io
from pathlib import Path

import pytest
import torch
import torchmetrics.functional.image.lpips as theirs
import torchvision
from helpers import CONFIGS, QUICK, read_json, write_shard
from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

from reddiff_pl.evaluation.networks import (
    ALEXNET,
    INCEPTION,
    LPIPS,
    EfficientNetLite0,
    Inception,
    Torchvision,
)
from reddiff_pl.evaluation.pairs import Results
from reddiff_pl.evaluation.weights import Missing, Weights, fingerprint, is_published


@pytest.fixture(autouse=True)
def empty_torch_home(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "home"))
    return tmp_path / "home" / "hub" / "checkpoints"


@pytest.fixture(scope="module")
def alexnet():
    torch.manual_seed(0)
    return torchvision.models.alexnet(weights=None).features.eval()


def images(seed=0, side=64):
    return torch.randint(0, 256, (3, 3, side, side), generator=torch.Generator().manual_seed(seed)).byte()


def save_alexnet(folder, features):
    folder.mkdir(parents=True, exist_ok=True)
    torch.save({f"features.{key}": value for key, value in features.state_dict().items()}, folder / ALEXNET)


def test_lpips_is_the_formula_of_its_paper(tmp_path, alexnet):
    """|w * (f/|f| - g/|g|)|^2, averaged over places and summed over the five layers after a ReLU."""
    save_alexnet(tmp_path / "weights", alexnet)
    lpips = LPIPS(Weights(str(tmp_path / "weights")))
    assert lpips.name == "lpips-other-weights", "only the published file is called LPIPS"
    a, b = images(0), images(1)
    heads = torch.load(
        Path(inspect.getfile(theirs)).parent / "lpips_models" / "alex.pth", "cpu", weights_only=True
    )
    shift, scale = (torch.tensor(v)[:, None, None] for v in ([-0.030, -0.088, -0.188], [0.458, 0.448, 0.450]))
    x, y = (((v.float() / 127.5 - 1) - shift) / scale for v in (a, b))
    expected = torch.zeros(3)
    with torch.no_grad():
        for i, layer in enumerate(alexnet):
            x, y = layer(x), layer(y)
            if (level := {1: 0, 4: 1, 7: 2, 9: 3, 11: 4}.get(i)) is not None:
                f, g = (v / v.norm(dim=1, keepdim=True).clamp(min=1e-4) for v in (x, y))
                weight = heads[f"lin{level}.model.1.weight"]
                expected += ((f - g).square() * weight).sum(1).mean((1, 2))
        found = lpips(a, b)
        assert found.tolist() == pytest.approx(expected.tolist(), rel=1e-3)
        assert lpips(a, a).tolist() == [0, 0, 0] and (found > 0).all()


def test_weights_are_found_in_the_directory_and_in_torch_home(tmp_path, alexnet, empty_torch_home):
    with pytest.raises(Missing, match=r"fetch https://download\.pytorch\.org/.* there, or add --download"):
        LPIPS(Weights())
    save_alexnet(empty_torch_home, alexnet)
    one = LPIPS(Weights())
    save_alexnet(tmp_path / "given" / "hub" / "checkpoints", alexnet)
    (empty_torch_home / ALEXNET).unlink()
    assert fingerprint(LPIPS(Weights(str(tmp_path / "given")))) == fingerprint(one)


def test_a_file_of_something_else_is_missing_weights(tmp_path):
    (tmp_path / ALEXNET).write_bytes(b"no weights")
    with pytest.raises(Missing, match="holds no weights"):
        LPIPS(Weights(str(tmp_path)))
    torch.save({"features.0.weight": torch.zeros(1)}, tmp_path / ALEXNET)
    with pytest.raises(Missing, match="is not AlexNet"):
        LPIPS(Weights(str(tmp_path)))


class _Unloaded(FeatureExtractorInceptionV3):
    """Inception as it is initialised."""

    def load_state_dict(self, *args, **kwargs):
        return None


@pytest.fixture(scope="module")
def random():
    nothing = io.BytesIO()
    torch.save({}, nothing)
    nothing.seek(0)
    torch.manual_seed(0)
    return _Unloaded("inception-v3-compat", ["2048"], nothing)


def test_inception_from_a_local_file(tmp_path, random):
    with pytest.raises(Missing, match="weights-inception-2015-12-05"):
        Inception(Weights(str(tmp_path)))
    torch.save(random.state_dict(), tmp_path / INCEPTION)
    found = Inception(Weights(str(tmp_path)))
    assert found.name == "inception-other-weights", "with these weights its distances are not FID"
    with torch.no_grad():
        assert torch.equal(found(images()), random(images())[0]) and found(images()).shape == (3, 2048)


def test_a_published_file_is_known_by_its_hash(tmp_path):
    import hashlib

    content = b"weights"
    path = tmp_path / f"net-{hashlib.sha256(content).hexdigest()[:8]}.pth"
    path.write_bytes(content)
    assert is_published(path)
    path.write_bytes(b"others")
    assert not is_published(path)


def test_efficientnet_classifies_and_its_features_give_its_logits():
    network = EfficientNetLite0().eval()
    with torch.no_grad():
        found = network(images())
        whole = network.network(
            torch.nn.functional.interpolate(
                images().float() / 255, (224, 224), mode="bicubic", antialias=True
            ).clamp(0, 1)
            * 2
            - 1
        )
        assert found.shape == (3, 1280)
        torch.testing.assert_close(network.logits(found), whole, rtol=1e-4, atol=1e-4)


def test_a_classifier_of_torchvision(empty_torch_home):
    with pytest.raises(Missing, match="resnet18-"):
        Torchvision("resnet18")
    with pytest.raises(Missing, match="no model resnet19"):
        Torchvision("resnet19")
    torch.manual_seed(0)
    model = torchvision.models.resnet18(weights=None).eval()
    empty_torch_home.mkdir(parents=True)
    url = torchvision.models.ResNet18_Weights.DEFAULT.url
    torch.save(model.state_dict(), empty_torch_home / url.rpartition("/")[2])
    network = Torchvision("resnet18").eval()
    with torch.no_grad():
        found = network(images())
        assert found.shape == (3, 512) and network.name == "resnet18-other-weights"
        transformed = torchvision.models.ResNet18_Weights.DEFAULT.transforms()(images())
        torch.testing.assert_close(network.logits(found), model(transformed))


def test_evaluate_takes_them_from_a_directory(reddiff, photos, tmp_path, alexnet, random):
    """Numbers in summary and table under names that say whose weights these are."""
    samples = [(key, {"jpg": photo}) for key, photo in list(photos.items())[:2]]
    shard = write_shard(tmp_path / "a.tar", samples)
    task = ["--config", CONFIGS / "tasks" / "superresolution_4x.yaml"]
    assert reddiff("restore", *QUICK, *task, "--data.shards", shard, "--out", tmp_path / "out")[0] == 0
    save_alexnet(tmp_path / "weights", alexnet)
    torch.save(random.state_dict(), tmp_path / "weights" / INCEPTION)
    command = ["evaluate", tmp_path / "out", "--metrics", "lpips,fid,kid", "--weights", tmp_path / "weights"]
    code, printed = reddiff(*command)
    assert code == 0, printed
    metrics = read_json(tmp_path / "out" / "summary.json")["metrics"]
    assert set(metrics) == {f"{kind}-other-weights" for kind in ("lpips", "fd-inception", "kd-inception")}
    assert (
        "LPIPS (other weights)" in printed
        and "FD-inception-other-weights" in printed
        and "FID" not in printed
    )
    pairs = list(Results(tmp_path / "out").pairs("a"))
    with torch.no_grad():
        lpips = LPIPS(Weights(str(tmp_path / "weights")))
        expected = lpips(
            *(torch.stack([getattr(p, which) for p in pairs]) for which in ("image", "reference"))
        )
    assert metrics["lpips-other-weights"]["mean"] == pytest.approx(expected.mean().item(), rel=1e-5)
    assert metrics["fd-inception-other-weights"]["value"] > 0

"""What a start imports: told by the modules that are there, and that what waits is as it would have been."""

from __future__ import annotations

import subprocess
import sys

from helpers import QUICK, VAL_SHARD

UNNEEDED = (
    *("torch._dynamo.utils", "torch._inductor", "sympy", "torchvision.models", "torchmetrics.functional"),
    *(
        "matplotlib.axes",
        "deepinv.training",
        "deepinv.sampling",
        "scipy.signal",
        "diffusers.loaders",
        "pandas",
        "transformers",
        "triton",
        "h5py",
    ),
)


def _run(code: str) -> None:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_start_imports_what_it_uses(tmp_path):
    """The bundled prior by a network of diffusers, the default sampler and RED-diff by Adam."""
    shipped = [option for option in QUICK if "sampler" not in option][2:]
    options = ["--task", "denoising", *shipped, "--data.shards", str(VAL_SHARD), "--limit", "1"]
    _run(f"""
import sys
from reddiff_pl.__main__ import main
def there():
    return [name for name in {UNNEEDED} if name in sys.modules]
for sampler in ("reddiff", "reddiff_adam"):
    out = {str(tmp_path)!r} + "/" + sampler
    assert main(["restore", "--sampler", sampler, "--evaluations", "2", "--out", out, *{options}]) == 0
    assert not there(), (sampler, there())
assert "diffusers.models.unets.unet_2d" in sys.modules
""")


def test_a_prior_without_a_network_needs_no_diffusers(tmp_path):
    options = [*QUICK, "--task", "denoising", "--data.shards", str(VAL_SHARD), "--limit", "1"]
    _run(f"""
import sys
from reddiff_pl.__main__ import main
assert main(["restore", "--out", {str(tmp_path / "out")!r}, *{options}]) == 0
assert not [name for name in sys.modules if name.startswith(("diffusers.models.", "transformers."))]
""")


def test_what_waits_comes_when_it_is_asked_for():
    _run("""
import sys
from reddiff_pl import lazy_packages
lazy_packages.wait()
import torch, torchmetrics, torchvision, deepinv
from torch._dynamo import OptimizedModule, allow_in_graph, disable
from torchmetrics import Metric, MetricCollection

@disable
def double(x):
    return 2 * x

@allow_in_graph
def triple(x):
    return 3 * x

assert double(2) == 4 and triple(2) == 6
assert not isinstance(torch.nn.ReLU(), OptimizedModule)
assert torchmetrics.__version__ and torchvision.__version__ and deepinv.__version__
assert deepinv.physics.Denoising and "torch._dynamo.utils" not in sys.modules
try:
    torchvision.nothing_of_the_kind
except AttributeError as error:
    assert "nothing_of_the_kind" in str(error)
compiled = torch.compile(lambda x: double(x) + 1, backend="eager")
assert "torch._dynamo.utils" in sys.modules
assert torch.equal(compiled(torch.ones(2)), torch.full((2,), 3.0))
module = torch.compile(torch.nn.ReLU(), backend="eager")
assert isinstance(module, OptimizedModule) and isinstance(module, torch._dynamo.OptimizedModule)
assert issubclass(torchmetrics.MeanMetric, Metric) and issubclass(MetricCollection, torch.nn.Module)
from torchmetrics.functional import structural_similarity_index_measure
from torch.utils.flop_counter import FlopCounterMode
with FlopCounterMode(display=False) as counter:
    torch.ones(2, 3) @ torch.ones(3, 4)
assert counter.get_total_flops() == 48 and isinstance(counter, torch.utils.flop_counter.FlopCounterMode)
from deepinv.loss.metric import PSNR
from diffusers.hooks import apply_layerwise_casting
from diffusers.quantizers import PipelineQuantizationConfig
assert deepinv.loss.metric.SSIM and deepinv.loss.SupLoss and deepinv.datasets.DIV2K and deepinv.utils.TensorList
assert deepinv.Trainer and deepinv.test
""")


def test_the_compilers_parts_bring_the_whole():
    _run("""
from reddiff_pl import lazy_packages
lazy_packages.wait()
import sys, torch._dynamo.utils, torch._dynamo.config
assert torch._dynamo.utils.is_compile_supported and torch._dynamo.utils is sys.modules["torch._dynamo.utils"]
assert torch._dynamo.optimize
import torchvision.ops, torchvision.transforms
""")

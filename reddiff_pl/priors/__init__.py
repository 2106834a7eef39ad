"""Priors: what natural images look like, as a noise predictor."""

from reddiff_pl.priors.base import Prior, linear_abar
from reddiff_pl.priors.classifier import ADMClassifier, Classifier, ClassifierGuidance
from reddiff_pl.priors.denoiser import Denoiser, FFDNet
from reddiff_pl.priors.edm import EDM
from reddiff_pl.priors.flow import Flow
from reddiff_pl.priors.gaussian import Gaussian
from reddiff_pl.priors.gaussian_mixture import GaussianMixture
from reddiff_pl.priors.guidance import Guidance
from reddiff_pl.priors.latent import Latent
from reddiff_pl.priors.pipeline import Pipeline
from reddiff_pl.priors.tiled import Tiled
from reddiff_pl.priors.unet import UNet

__all__ = [
    "EDM",
    "ADMClassifier",
    "Classifier",
    "ClassifierGuidance",
    "Denoiser",
    "FFDNet",
    "Flow",
    "Gaussian",
    "GaussianMixture",
    "Guidance",
    "Latent",
    "Pipeline",
    "Prior",
    "Tiled",
    "UNet",
    "linear_abar",
]

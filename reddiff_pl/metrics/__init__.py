"""Metrics of restored images."""

from reddiff_pl.metrics.image import misfit, psnr, ssim

__all__ = ["misfit", "psnr", "ssim"]

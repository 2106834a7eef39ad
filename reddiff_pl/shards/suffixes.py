"""Which files are pictures, by their suffixes in lower case: those that are read, and those that no decoder reads."""

from __future__ import annotations

IMAGE_SUFFIXES = (
    *(".jpg", ".jpeg", ".jfif", ".jpe", ".png", ".webp", ".bmp", ".tif", ".tiff"),
    *(".gif", ".ppm", ".pgm", ".pbm", ".pnm", ".avif", ".jp2", ".j2k", ".tga"),
)
ARRAY_SUFFIX = ".npy"
READABLE = frozenset([*IMAGE_SUFFIXES, ARRAY_SUFFIX])

_WEB = [".heic", ".heif", ".hif", ".bpg", ".flif", ".qoi", ".apng", ".mng", ".svg"]
_JPEGS = [".jxl", ".jxr", ".wdp", ".jpx", ".jpf", ".j2c", ".jpc", ".jph", ".insp"]
_PAINTED = [".psd", ".psb", ".xcf", ".ai", ".eps", ".wmf", ".emf", ".pict", ".exr", ".hdr", ".pfm", ".djvu"]
_SYSTEM = [".ico", ".cur", ".icns", ".pcx", ".sgi", ".ras", ".xbm", ".xpm", ".fli", ".dds", ".ktx", ".vtf"]
_CAMERA = [
    *(".raw", ".dng", ".cr2", ".cr3", ".crw", ".nef", ".nrw", ".arw", ".orf", ".rw2", ".rwl", ".raf", ".pef"),
    *(".srw", ".3fr", ".iiq", ".x3f", ".mrw", ".kdc", ".dcr", ".erf", ".mef", ".gpr"),
]
_SCIENCE = [".dcm", ".fits", ".fit", ".nii", ".czi", ".nd2", ".lif"]
# each is a failure, never a file that is passed over
UNREADABLE = frozenset([*_WEB, *_JPEGS, *_PAINTED, *_SYSTEM, *_CAMERA, *_SCIENCE])


def unreadable(suffix: str) -> str:
    """Why pictures of a kind are not restored."""
    return f"{suffix} pictures cannot be read; convert it to png, tiff or jpg"

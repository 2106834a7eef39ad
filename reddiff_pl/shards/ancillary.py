"""PNG and JPEG without what is beside the picture, for files whose metadata are damaged or too large."""

from __future__ import annotations

import struct
import zlib

from reddiff_pl.shards.colour import MAX_PROFILE_BYTES

PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"
NEEDED = (b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND", b"acTL")  # the last tells an animation
JPEG_START = b"\xff\xd8"


def stripped(content: bytes) -> tuple[bytes, bytes | None] | None:
    """The picture alone, and its ICC profile where that can still be had.

    Args:
        content: a PNG or JPEG file.

    Returns:
        (file, profile); None for other kinds, and where nothing can be left out.
    """
    if content.startswith(PNG_SIGNATURE):
        return _png(content)
    if content.startswith(JPEG_START):
        return _jpeg(content)
    return None


def _png(content: bytes) -> tuple[bytes, bytes | None] | None:
    kept, profile, place = [PNG_SIGNATURE], None, len(PNG_SIGNATURE)
    while place + 12 <= len(content):
        length, kind = struct.unpack_from(">I4s", content, place)
        end = place + 12 + length
        if kind in NEEDED:
            kept.append(content[place:end])  # the last one may be cut: the decoder tells
        elif kind == b"iCCP":
            profile = _inflated(content[place + 8 : end - 4])
        place = end
    file = b"".join(kept)
    return None if file == content else (file, profile)


def _inflated(chunk: bytes) -> bytes | None:
    _, _, rest = chunk.partition(b"\0")
    try:
        engine = zlib.decompressobj()
        profile = engine.decompress(rest[1:], MAX_PROFILE_BYTES)
        return profile if engine.eof else None
    except zlib.error:
        return None


def _jpeg(content: bytes) -> tuple[bytes, bytes | None] | None:
    kept, place = [JPEG_START], 2
    while place + 4 <= len(content) and content[place] == 0xFF and content[place + 1] != 0xDA:
        marker, length = content[place + 1], struct.unpack_from(">H", content, place + 2)[0]
        end = place + 2 + length
        # of the application's segments JFIF and Adobe's tell the colours
        if not 0xE0 <= marker <= 0xEF or marker in (0xE0, 0xEE):
            kept.append(content[place:end])
        place = end
    file = b"".join([*kept, content[place:]])
    return None if file == content else (file, None)

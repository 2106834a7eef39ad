"""What decoding threads make of a sample as it lies in a shard: decoded, degraded, with its label; or a failure."""

from __future__ import annotations

import logging
from dataclasses import dataclass

from reddiff_pl.errors import ConfigError, SampleError
from reddiff_pl.physics.degrade import Degradation
from reddiff_pl.restoring.batch import Entry
from reddiff_pl.restoring.inputs import Inputs
from reddiff_pl.shards.headers import decoding_bytes
from reddiff_pl.shards.metadata import label_of, texts_of
from reddiff_pl.shards.reader import Failure, RawSample
from reddiff_pl.shards.room import Room
from reddiff_pl.shards.samples import prepare

log = logging.getLogger(__name__)


@dataclass
class Preparation:
    """How samples are prepared.

    Attributes:
        inputs: what the run reads.
        degradation: the operator and what it needs.
        room: the memory that decoding takes.
        max_pixels, invert_mask, rounding: as `prepare` takes them.
        classes, default_label, words: what the prior takes, as ShardDataModule does.
    """

    inputs: Inputs
    degradation: Degradation
    room: Room
    max_pixels: int
    invert_mask: bool
    rounding: bool
    classes: int
    default_label: int | None
    words: bool

    def __call__(self, raw: RawSample | Failure, kept: bool) -> Entry:
        """The sample, or its failure; what is kept of an earlier run as it is. Runs in a decoding thread."""
        if isinstance(raw, Failure) or kept:
            return raw
        try:
            self.inputs.given.add_to(raw)
            with self.room.taken(decoding_bytes(raw)):
                sample = prepare(raw, self.degradation, self.max_pixels, self.invert_mask, self.rounding)
            notes = sample.source.notes if sample.source is not None else ()
            for note in (*notes, *(note for note in sample.notes if note not in self.inputs.said)):
                log.warning("key %s: %s", raw.key, note)
            if self.classes:
                sample.label = label_of(sample.meta, self.classes, self.default_label)
            if self.words:
                texts_of(sample.meta)  # fails here, for this sample alone
            return sample
        except (SampleError, ConfigError) as error:  # an option may fit images of other sizes
            return Failure(raw.index, raw.key, " ".join(str(error).split()))
        except Exception as error:  # whatever decoders and operators make of it is this sample's failure
            log.debug("key %s", raw.key, exc_info=True)
            what = " ".join(str(error).split())[:300]
            return Failure(raw.index, raw.key, f"cannot be used ({type(error).__name__}: {what})")
        finally:
            raw.members = {}  # files may be large, and the batch is kept

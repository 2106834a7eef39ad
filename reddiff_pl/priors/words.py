"""Texts as a network of a pipeline takes them: its text encoders run once for each distinct text, and are let go."""

from __future__ import annotations

import hashlib
import logging
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from reddiff_pl.errors import ConfigError
from reddiff_pl.priors.families import CLIP, CLIP_PROJECTED, Family

log = logging.getLogger(__name__)

AT_ONCE = 16  # texts encoded together
KEPT_BYTES = 1 << 30  # of embeddings that are kept for later batches


class Embedding(NamedTuple):
    """A text, on the CPU.

    Attributes:
        words: (L, D).
        pooled: (P,), where the family has one.
    """

    words: Tensor
    pooled: Tensor | None


class Words:
    """The embeddings of texts, by a pipeline's own encoders.

    Args:
        folder: the pipeline's.
        family: which it is.
        index: its model_index.json.
        network: its network, whose configuration some families ask for.
        dtype: what encoders compute in.
        option: the option that named the folder, for errors.

    Raises:
        ConfigError: transformers is not installed, or an encoder is missing.
    """

    def __init__(
        self,
        folder: Path,
        family: Family,
        index: dict[str, Any],
        network: Any,
        dtype: torch.dtype,
        option: str,
    ) -> None:
        try:
            import transformers  # noqa: F401
        except ImportError as error:
            raise ConfigError(
                f"{option}: a prior with words needs transformers; pip install 'reddiff_pl[text]'"
            ) from error
        self.folder, self.family, self.index, self.network = folder, family, index, network
        self.dtype, self.option = dtype, option
        self.encoders = {
            place: kind
            for place, kind in family.encoders.items()
            if index.get(place) not in (None, [None, None])
        }
        for place in self.encoders:
            if not list((folder / place).glob("*.safetensors")):
                raise ConfigError(f"{option}: no safetensors in {folder / place}")
        self._kept: OrderedDict[str | None, Embedding] = OrderedDict()

    def digest(self) -> str:
        """What the embeddings depend on: names, sizes and ends of the encoders' files; whole they may be 10 GB."""
        digest = hashlib.sha256(str(self.dtype).encode())
        for place in self.encoders:
            for path in sorted((self.folder / place).glob("*.safetensors")):
                size = path.stat().st_size
                digest.update(f"{place} {path.name} {size} ".encode())
                with open(path, "rb") as file:
                    digest.update(file.read(1 << 20))
                    file.seek(max(size - (1 << 20), 0))
                    digest.update(file.read())
        return digest.hexdigest()

    def embeddings(self, texts: Sequence[str | None], device: torch.device) -> list[Embedding]:
        """Of each text; of None what the family takes for no text.

        Args:
            texts: any number; equal ones are encoded once.
            device: where the encoders run.
        """
        missing = [text for text in dict.fromkeys(texts) if text not in self._kept]
        if missing:
            self._encode(missing, device)
        for text in texts:
            self._kept.move_to_end(text)
        found = [self._kept[text] for text in texts]
        used = sum(_bytes(kept) for kept in self._kept.values())
        while used > KEPT_BYTES and len(self._kept) > len(set(texts)):
            used -= _bytes(self._kept.popitem(last=False)[1])
        return found

    def _encode(self, texts: list[str | None], device: torch.device) -> None:
        pipeline = self._pipeline(device)
        # what SDXL was trained with instead of no words
        zeros = None in texts and bool(self.index.get("force_zeros_for_empty_prompt", False))
        for start in range(0, len(texts), AT_ONCE):
            some = texts[start : start + AT_ONCE]
            words, pooled = self._ask(pipeline, [text or "" for text in some], device)
            for i, text in enumerate(some):
                own = None if pooled is None else pooled[i].cpu()
                embedding = Embedding(words[i].cpu(), own)
                if text is None and zeros:
                    embedding = Embedding(*(None if e is None else torch.zeros_like(e) for e in embedding))  # type: ignore[arg-type]
                self._kept[text] = embedding
        del pipeline
        if device.type == "cuda":
            torch.cuda.empty_cache()
        log.info("%d texts encoded; the text encoders are let go", len(texts))

    def _ask(self, pipeline: Any, texts: list[str], device: torch.device) -> tuple[Tensor, Tensor | None]:
        """The families' own ways, as diffusers has them."""
        tokens = {} if self.family.tokens is None else {"max_sequence_length": self._tokens()}
        with torch.no_grad():
            if self.family.pipeline == "StableDiffusionPipeline":
                return pipeline.encode_prompt(texts, device, 1, False)[0], None
            if self.family.pipeline == "FluxPipeline":
                return pipeline.encode_prompt(texts, texts, device=device, **tokens)[:2]
            more = [texts] if self.family.pipeline == "StableDiffusionXLPipeline" else [texts, texts]
            encoded = pipeline.encode_prompt(
                texts, *more, device=device, do_classifier_free_guidance=False, **tokens
            )
            return encoded[0], encoded[2]

    def _tokens(self) -> int:
        """FLUX.1 schnell, which is told no guidance, takes half as many as dev."""
        half = self.family.pipeline == "FluxPipeline" and not self.network.config.guidance_embeds
        assert self.family.tokens is not None
        return self.family.tokens // 2 if half else self.family.tokens

    def _pipeline(self, device: torch.device) -> Any:
        """diffusers' pipeline with its text encoders, for as long as texts are encoded."""
        import diffusers
        import transformers

        transformers.utils.logging.disable_progress_bar()
        parts: dict[str, Any] = {"scheduler": None, "vae": None, self.family.part: self.network}
        for place, kind in self.family.encoders.items():
            words = place.replace("text_encoder", "tokenizer")
            if place not in self.encoders:
                parts[place] = parts[words] = None
                continue
            tokenizer = "CLIPTokenizer" if kind in (CLIP, CLIP_PROJECTED) else "T5TokenizerFast"
            try:
                encoder = getattr(transformers, kind).from_pretrained(
                    str(self.folder / place), local_files_only=True, use_safetensors=True, dtype=self.dtype
                )
                parts[words] = getattr(transformers, tokenizer).from_pretrained(
                    str(self.folder / words), local_files_only=True
                )
            except Exception as error:  # whatever a damaged file raises
                reason = " ".join(str(error).split())[:300] or type(error).__name__
                raise ConfigError(f"{self.option}: cannot load {self.folder / place}: {reason}") from error
            parts[place] = encoder.to(device).eval()
        if self.family.pipeline == "StableDiffusionPipeline":
            parts |= {"safety_checker": None, "feature_extractor": None, "requires_safety_checker": False}
        return getattr(diffusers, self.family.pipeline)(**parts)


def _bytes(embedding: Embedding) -> int:
    return sum(part.nbytes for part in embedding if part is not None)

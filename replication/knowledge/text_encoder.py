"""Text encoders: any Hugging Face model, from the hub or from a folder, behind one small interface."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn

from replication.errors import CheckpointError, ConfigError

Pooling = Literal["cls", "mean", "max"]


class Tokens(NamedTuple):
    """A padded batch of texts: ``input_ids`` and ``attention_mask`` (1 token, 0 pad), both [B, L] int64."""

    input_ids: Tensor
    attention_mask: Tensor

    def to(self, device: torch.device | str) -> Tokens:
        """The same batch on another device."""
        return Tokens(self.input_ids.to(device), self.attention_mask.to(device))


def cls_pool(hidden: Tensor) -> Tensor:
    """First token of each text: [B, L, D] -> [B, D]."""
    return hidden[:, 0]


def mean_pool(hidden: Tensor, mask: Tensor) -> Tensor:
    """Mean over the tokens with a non-zero mask: [B, L, D], [B, L] -> [B, D]; zeros where there is none."""
    weight = mask.to(hidden.dtype).unsqueeze(-1)
    return (hidden * weight).sum(1) / weight.sum(1).clamp_min(1)


def max_pool(hidden: Tensor, mask: Tensor) -> Tensor:
    """Maximum over tokens with a non-zero mask: [B, L, D], [B, L] -> [B, D]; zeros where there is none."""
    keep = mask.bool().unsqueeze(-1)
    highest = hidden.masked_fill(~keep, torch.finfo(hidden.dtype).min).amax(1)
    return torch.where(keep.any(1), highest, torch.zeros_like(highest))


class TextEncoder(nn.Module):
    """A Hugging Face encoder and its tokeniser.

    Attributes:
        width: number of features D of a token.
        name: hub id or folder it came from.
    """

    def __init__(self, model: nn.Module, tokenizer: Any, name: str) -> None:
        super().__init__()
        self.model = model
        self.tokenizer = tokenizer
        self.name = name
        config: Any = model.config
        self.width = int(config.hidden_size)
        # RoBERTa counts positions from padding_idx + 1, so its table is longer than the longest text.
        reserved = int(config.pad_token_id or 0) + 1 if "roberta" in config.model_type else 0
        self.longest = int(getattr(config, "max_position_embeddings", 2**31)) - reserved
        self._start = _first_id(tokenizer.cls_token_id, tokenizer.bos_token_id, name, "[CLS]")
        self._end = _first_id(tokenizer.sep_token_id, tokenizer.eos_token_id, name, "[SEP]")
        self._pad = _first_id(tokenizer.pad_token_id, tokenizer.eos_token_id, name, "padding")

    @classmethod
    def from_pretrained(
        cls, name_or_path: str | Path, *, local_files_only: bool = False, safetensors_only: bool = True
    ) -> TextEncoder:
        """Load weights and tokeniser; nothing in the folder is executed.

        Args:
            name_or_path: hub id such as ``emilyalsentzer/Bio_ClinicalBERT``, or a folder.
            local_files_only: never ask the hub; take what the local cache has.
            safetensors_only: refuse weights in the older format, ``pytorch_model.bin``, of which torch reads
                tensors alone.

        Raises:
            ConfigError: nothing loadable is there.
            CheckpointError: weights of the encoder are missing from the file.
        """
        from transformers import AutoModel, AutoTokenizer

        name = str(name_or_path)
        try:
            # A missing pooler is initialised at random; that must not move the caller's random state.
            with torch.random.fork_rng(devices=[]), _quiet():
                model, info = AutoModel.from_pretrained(
                    name,
                    local_files_only=local_files_only,
                    use_safetensors=True if safetensors_only else None,
                    output_loading_info=True,
                )
            tokenizer = AutoTokenizer.from_pretrained(name, local_files_only=local_files_only, use_fast=True)
        except (OSError, ValueError) as error:
            raise ConfigError(
                "the text encoder cannot be loaded",
                where=name,
                found=str(error).splitlines()[0],
                allowed="a Hugging Face id, or a folder with config.json, model.safetensors and a tokeniser",
                remedy="run `replicate text-encoder` for the tier where there is a network; it also converts "
                "weights that exist only as pytorch_model.bin",
            ) from error
        missing = sorted(key for key in info["missing_keys"] if not key.startswith("pooler."))
        if missing:
            raise CheckpointError(
                f"{len(missing)} weights of the text encoder are not in its file and would stay random",
                where=name,
                found=", ".join(missing[:5]),
                remedy="use a checkpoint of the architecture that its config.json names",
            )
        if hasattr(model, "pooler"):
            # Nobody uses the pooled output; without it the fingerprint depends on loaded weights only.
            model.pooler = None
        return cls(model.eval(), tokenizer, name)

    def tokenize(
        self,
        texts: Sequence[str],
        max_length: int,
        *,
        add_sep: bool = True,
        lowercase: bool = False,
        padding: Literal["longest", "max_length"] | int = "longest",
    ) -> Tokens:
        """Texts -> ``[CLS] pieces [SEP]``, cut to ``max_length`` tokens and padded on the right.

        Args:
            padding: to the longest of the texts, to ``max_length``, or to a number of tokens, and to the
                longest text if that is longer.
            add_sep: ``False`` leaves ``[SEP]`` out, as the tokeniser of the released code does (audit P18).
            lowercase: lower-case before the tokeniser, whatever its own setting (audit P18).
        """
        if not 3 <= max_length <= self.longest:
            raise ConfigError(
                "max_length does not suit the text encoder",
                where=self.name,
                found=max_length,
                allowed=f"3 to {self.longest}",
            )
        room = max_length - (2 if add_sep else 1)
        prepared = [text.lower() for text in texts] if lowercase else list(texts)
        pieces: list[list[int]] = (
            self.tokenizer(prepared, add_special_tokens=False, truncation=True, max_length=room)["input_ids"]
            if prepared
            else []
        )
        end = [self._end] if add_sep else []
        rows = [[self._start, *ids[:room], *end] for ids in pieces]
        least = padding if isinstance(padding, int) else max_length if padding == "max_length" else 1
        length = max(least, max(map(len, rows), default=1))
        ids = torch.full((len(rows), length), self._pad, dtype=torch.int64)
        mask = torch.zeros((len(rows), length), dtype=torch.int64)
        for index, row in enumerate(rows):
            ids[index, : len(row)] = torch.tensor(row, dtype=torch.int64)
            mask[index, : len(row)] = 1
        return Tokens(ids, mask)

    def forward(self, tokens: Tokens) -> Tensor:
        """Last hidden state [B, L, D] of a batch of tokens [B, L]."""
        output = self.model(input_ids=tokens.input_ids, attention_mask=tokens.attention_mask)
        hidden: Tensor = output.last_hidden_state
        return hidden

    def content_mask(self, tokens: Tokens) -> Tensor:
        """Boolean [B, L]: the word pieces, without start, end and padding."""
        mask = tokens.attention_mask.bool().clone()
        mask[:, 0] = False
        return mask & (tokens.input_ids != self._end)

    def pool(self, hidden: Tensor, tokens: Tokens, pooling: Pooling) -> Tensor:
        """One vector per text: [B, L, D] -> [B, D].

        ``cls`` is the first token, ``mean`` averages every token that is not padding, ``max`` takes the
        maximum over the word pieces only (LoVT's port of ConVIRT leaves ``[CLS]`` and ``[SEP]`` out).
        """
        if pooling == "cls":
            return cls_pool(hidden)
        if pooling == "mean":
            return mean_pool(hidden, tokens.attention_mask)
        if pooling == "max":
            return max_pool(hidden, self.content_mask(tokens))
        raise ConfigError("unknown pooling", found=pooling, allowed="cls, mean, max")

    @torch.no_grad()
    def embed(
        self,
        texts: Sequence[str],
        *,
        pooling: Pooling,
        max_length: int,
        add_sep: bool = True,
        lowercase: bool = False,
        batch_size: int = 64,
    ) -> Tensor:
        """Features of texts [N, D] on the encoder's device, in evaluation mode and without gradient."""
        device = next(self.model.parameters()).device
        was_training = self.training
        self.eval()
        try:
            parts = [
                self.pool(self(tokens), tokens, pooling)
                for start in range(0, len(texts), batch_size)
                for tokens in [
                    self.tokenize(
                        texts[start : start + batch_size], max_length, add_sep=add_sep, lowercase=lowercase
                    ).to(device)
                ]
            ]
        finally:
            self.train(was_training)
        return torch.cat(parts) if parts else torch.empty((0, self.width), device=device)

    @property
    def fingerprint(self) -> str:
        """SHA-256 over every weight and the tokeniser: equal only if the encoder gives the same features."""
        digest = hashlib.sha256()
        for key, value in sorted(self.model.state_dict().items()):
            array = value.detach().cpu().contiguous()
            digest.update(f"{key} {array.dtype} {tuple(array.shape)}\n".encode())
            digest.update(array.view(-1).view(torch.uint8).numpy().tobytes())
        digest.update(json.dumps(self.tokenizer.get_vocab(), sort_keys=True).encode())
        backend = getattr(self.tokenizer, "backend_tokenizer", None)
        normalizer = repr(getattr(backend, "normalizer", None))
        digest.update(normalizer.encode())
        return digest.hexdigest()

    def save(self, folder: Path) -> None:
        """Write the encoder as a Hugging Face folder that ``from_pretrained`` reads."""
        model: Any = self.model
        with _quiet():
            model.save_pretrained(folder)
        self.tokenizer.save_pretrained(folder)


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence the loading bar and the report of unused weights; what is missing is checked by us."""
    import transformers

    logging: Any = transformers.utils.logging
    verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()


def _first_id(preferred: int | None, fallback: int | None, name: str, role: str) -> int:
    for token in (preferred, fallback):
        if token is not None:
            return int(token)
    raise ConfigError(f"the tokeniser has no {role} token", where=name, remedy="use a BERT-like text encoder")

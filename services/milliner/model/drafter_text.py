"""Text for drafter training: files to token ids, windows of them, and the part that is kept apart."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Sequence
from pathlib import Path

import torch
import transformers

from milliner.core import errors

HELD_OUT_SHARE = 0.03  # of the text's end, where no held-out files are given (arbitrary)


@dataclasses.dataclass(frozen=True, slots=True)
class TrainingText:
    """Token ids, int32 [N]; `digest` is the SHA-256 of the files that are trained on."""

    train: torch.Tensor
    held_out: torch.Tensor
    digest: str

    def batch(self, *, count: int, length: int, seed: int, step: int) -> torch.Tensor:
        """`count` random windows [count, length], int64, decided by seed and step alone."""
        generator = torch.Generator().manual_seed(seed * 7_368_787 + step)
        starts = torch.randint(0, len(self.train) - length + 1, (count,), generator=generator).tolist()
        return torch.stack([self.train[start : start + length] for start in starts]).long()

    def held_out_batches(self, *, length: int, max_tokens: int, count: int = 4) -> list[torch.Tensor]:
        """Windows [≤ count, length] of held-out text spread evenly over all of it, up to `max_tokens` tokens.

        In an order drawn at random, always the same, so that the first of them are spread over the text as well.
        """
        length = min(length, len(self.held_out))
        available = len(self.held_out) // length
        wanted = min(available, max(1, max_tokens // length))
        order = torch.randperm(wanted, generator=torch.Generator().manual_seed(0)).tolist()
        starts = [index * available // wanted * length for index in order]
        windows = [self.held_out[start : start + length] for start in starts]
        return [torch.stack(windows[first : first + count]).long() for first in range(0, wanted, count)]


def load(model: Path, files: Sequence[Path], *, held_out: Sequence[Path] = (), window_tokens: int) -> TrainingText:
    """Tokenizes the files with the model's own tokenizer, an end-of-text token between them.

    Raises `ConfigError` for unreadable files, a folder without tokenizer, and text shorter than two windows.
    """
    try:
        tokenizer = transformers.AutoTokenizer.from_pretrained(model, local_files_only=True)
    except (OSError, ValueError) as error:
        raise errors.ConfigError(f"{model} has no tokenizer that can be read: {error}", field="--model") from error
    digest = hashlib.sha256()
    train = _ids(files, tokenizer, option="--text", digest=digest)
    if held_out:
        apart = _ids(held_out, tokenizer, option="--held-out", digest=None)
    else:
        kept = max(window_tokens, int(len(train) * HELD_OUT_SHARE))
        train, apart = train[:-kept], train[-kept:]
    for option, ids in (("--text", train), ("--held-out", apart)):
        if len(ids) < window_tokens:
            raise errors.ConfigError(
                f"holds {len(ids)} tokens and a window takes {window_tokens}: give more text, or smaller windows "
                "with --window-tokens",
                field=option,
            )
    return TrainingText(train=train, held_out=apart, digest=f"sha256:{digest.hexdigest()}")


def _ids(files: Sequence[Path], tokenizer: object, *, option: str, digest: object) -> torch.Tensor:
    if not files:
        raise errors.ConfigError("names no file", field=option)
    parts = []
    for path in files:
        try:
            content = path.read_bytes()
            text = content.decode("utf-8")
        except OSError as error:
            raise errors.ConfigError(f"{path} cannot be read: {error.strerror}", field=option) from error
        except UnicodeDecodeError as error:
            raise errors.ConfigError(f"{path} is not UTF-8 text: {error}", field=option) from error
        if digest is not None:
            digest.update(content)  # type: ignore[attr-defined]
        ids = tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]  # type: ignore[operator]
        end = tokenizer.eos_token_id  # type: ignore[attr-defined]
        parts.append(torch.tensor(ids if end is None else [end, *ids], dtype=torch.int32))
    return torch.cat(parts)

"""KV caches of ended sessions, kept while nobody needs their pages, so that a prompt that begins alike starts later.

A shared system prompt, or the next turn of a chat, is found by its tokens in blocks of `BLOCK_TOKENS`, each block's
name being a digest of everything up to its end and of the session's **salt**: sessions of different salts never share,
so nobody learns from a fast answer what another tenant has asked. The new session gets a copy; where the pages are
short it takes the old one's pages over instead. The least recently used ones go first.

Bookkeeping on the event loop, torch-free: the copy is made by the backend, on the executor's thread (`work.Adoption`).
"""

from __future__ import annotations

import array
import dataclasses
import hashlib
from collections.abc import Sequence

from milliner.engine import work

BLOCK_TOKENS = 32  # arbitrary: shorter prefixes take less than a batch's fixed cost to compute


@dataclasses.dataclass(slots=True)
class Kept:
    """An ended session's cache. `pins` sessions are about to copy from it."""

    kv: work.KVHandle
    blocks: tuple[bytes, ...]
    pages: int
    pins: int = 0


@dataclasses.dataclass(frozen=True, slots=True)
class Hit:
    """The first `num_tokens` positions of a prompt are in `kept`."""

    kept: Kept
    num_tokens: int


class PrefixCache:
    """See the module. The owner keeps `pages` and what it has promised within the KV cache's pages."""

    def __init__(self) -> None:
        self._kept: dict[int, Kept] = {}  # by the handle's identity, least recently used first
        self._by_block: dict[bytes, Kept] = {}

    @property
    def pages(self) -> int:
        """Pages that kept caches hold."""
        return sum(kept.pages for kept in self._kept.values())

    @property
    def pinned_pages(self) -> int:
        """Those of them that somebody is about to copy."""
        return sum(kept.pages for kept in self._kept.values() if kept.pins)

    def find(self, token_ids: Sequence[int], *, salt: str) -> Hit | None:
        """The longest kept beginning of a prompt, never all of it: its last token's outcome has to be computed."""
        names = block_names(token_ids[:-1], salt=salt)
        found = None
        for count, name in enumerate(names, start=1):
            if (kept := self._by_block.get(name)) is None:
                break
            found = Hit(kept, count * BLOCK_TOKENS)
        if found is not None:
            self._kept[id(found.kept.kv)] = self._kept.pop(id(found.kept.kv))  # the most recently used
        return found

    def keep(self, kv: work.KVHandle, token_ids: Sequence[int], *, salt: str, pages: int) -> list[work.KVHandle]:
        """Keeps the cache of an ended session that holds `token_ids` in `pages`; returns handles to be freed.

        That is the cache itself where it is too short or holds nothing new, or what it makes superfluous.
        """
        blocks = block_names(token_ids, salt=salt)
        if not blocks or blocks[-1] in self._by_block:
            return [kv]
        superfluous = [
            kept for kept in self._kept.values() if kept.pins == 0 and kept.blocks == blocks[: len(kept.blocks)]
        ]
        for kept in superfluous:
            self._forget(kept)
        kept = Kept(kv=kv, blocks=blocks, pages=pages)
        self._kept[id(kv)] = kept
        for name in blocks:
            self._by_block[name] = kept
        return [each.kv for each in superfluous]

    def shrink_to(self, pages: int) -> list[work.KVHandle]:
        """Forgets the least recently used until at most `pages` are held; returns handles to be freed.

        One that is about to be copied stays, unless `take_over` is called for it.
        """
        freed, held = [], self.pages
        for kept in list(self._kept.values()):
            if held <= pages:
                break
            if kept.pins == 0:
                self._forget(kept)
                held -= kept.pages
                freed.append(kept.kv)
        return freed

    def take_over(self, kept: Kept) -> None:
        """Its pages belong to a session from now on."""
        self._forget(kept)

    def _forget(self, kept: Kept) -> None:
        """What it shares with others is found in the most recently used of them from now on."""
        del self._kept[id(kept.kv)]
        lost = {name for name in kept.blocks if self._by_block.get(name) is kept}
        for name in lost:
            del self._by_block[name]
        for other in self._kept.values():
            for name, own in zip(kept.blocks, other.blocks, strict=False):
                if name != own:
                    break  # a block's name holds all before it: behind the first that differs they share nothing
                if name in lost:
                    self._by_block[name] = other


def block_names(token_ids: Sequence[int], *, salt: str) -> tuple[bytes, ...]:
    """One name for each whole block: a digest of the salt and all tokens up to the block's end."""
    state = hashlib.blake2b(f"{len(salt)}:{salt}".encode(), digest_size=16)
    names = []
    for end in range(BLOCK_TOKENS, len(token_ids) + 1, BLOCK_TOKENS):
        state.update(array.array("q", token_ids[end - BLOCK_TOKENS : end]).tobytes())
        names.append(state.copy().digest())
    return tuple(names)

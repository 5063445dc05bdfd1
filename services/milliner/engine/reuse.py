"""Sessions that begin behind what ended ones have computed: which cache a session adopts, and what happens to caches.

Keeps the account: what is kept and what is promised to resident sessions never exceed the KV cache's pages together, so
a session finds its pages whatever is kept. Event loop only; `engine` frees the returned handles.
"""

from __future__ import annotations

from milliner.engine import prefix_cache, residency, session, work


class Reuse:
    """See the module. One per engine."""

    def __init__(self, places: residency.Residency) -> None:
        self._places = places
        self._cache = prefix_cache.PrefixCache()

    def admitted(self, owner: session.Session, prompt: work.KnownTokens | None) -> list[work.KVHandle]:
        """A session was admitted: it may begin behind what is kept of its prompt; the rest makes room for it.

        One that is not resident begins anew: where it found no room, nothing is kept for long.
        """
        hit = self._cache.find(prompt.token_ids, salt=prompt.salt) if prompt is not None and owner.resident else None
        if hit is not None:
            self._adopt(owner, hit)
        return self.make_room()

    def make_room(self) -> list[work.KVHandle]:
        """Forgets what lies where resident sessions were promised pages; returns handles to be freed."""
        return self._cache.shrink_to(self._places.free_pages)

    @property
    def pinned_pages(self) -> int:
        """Pages that cannot be freed before the next batch, because a session is about to copy from them."""
        return self._cache.pinned_pages

    def computed(self, owner: session.Session) -> None:
        """A batch with the session is done: what it began with has been copied."""
        if owner.pinned is not None:
            owner.pinned.pins -= 1
            owner.pinned = None

    def ended(self, owner: session.Session, held: work.KnownTokens | None) -> list[work.KVHandle]:
        """The session's promise was taken back; `held` are the tokens that it was fed, if they are worth keeping."""
        self.computed(owner)
        adoption, owner.kv.adoption = owner.kv.adoption, None
        if adoption is not None:  # it was never computed
            return [adoption.source] if adoption.move else []
        if not owner.computed:
            return []  # there is nothing, and opening and closing alone must not grow the list of handles for ever
        if held is None or owner.failed or not owner.resident:
            return [owner.kv]
        num_tokens = owner.queue[0].work.start_pos if owner.queue else owner.planned_len
        pages = -(-owner.planned_len // self._places.page_tokens)  # with those of a frame that is being computed
        freed = self._cache.keep(owner.kv, held.token_ids[:num_tokens], salt=held.salt, pages=pages)
        return freed + self.make_room()

    def _adopt(self, owner: session.Session, hit: prefix_cache.Hit) -> None:
        """A copy where there is room for both; else the pages themselves, if nobody is about to copy them and the
        session was promised as many."""
        kept = hit.kept
        move = self._cache.pages > self._places.free_pages
        if move and (kept.pins or kept.pages > owner.pages):
            return
        if move:
            self._cache.take_over(kept)
        else:
            kept.pins += 1
            owner.pinned = kept
        owner.kv.adoption = work.Adoption(source=kept.kv, num_tokens=hit.num_tokens, move=move)
        owner.planned_len = hit.num_tokens

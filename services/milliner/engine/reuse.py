"""Sessions that begin behind what ended ones have computed: which cache a session adopts, and what happens to caches.

Keeps the account: what is kept and what sessions hold never exceed the KV cache's pages together, so what is kept goes
as sessions grow. An adoption is carried out with the next batch, whether or not the session has a part in it; until
then what it copies from stays. Event loop only; `engine` frees the returned handles.
"""

from __future__ import annotations

from collections.abc import Iterable

from milliner.engine import admission, prefix_cache, residency, session, work


class Reuse:
    """See the module. One per engine."""

    def __init__(self, accounts: admission.Admission, places: residency.Residency) -> None:
        self._accounts = accounts
        self._places = places
        self._cache = prefix_cache.PrefixCache()
        self._adopters: dict[str, session.Session] = {}  # their adoptions are not carried out yet
        self._forgotten: list[work.KVHandle] = []  # that `make_room` has not returned yet

    @property
    def pinned_pages(self) -> int:
        """Pages that cannot be freed before the next batch, because a session is about to copy from them."""
        return self._cache.pinned_pages

    def admitted(self, owner: session.Session, prompt: work.KnownTokens | None) -> list[work.KVHandle]:
        """A session was admitted: it may begin behind what is kept of its prompt; the rest makes room for it."""
        hit = self._cache.find(prompt.token_ids, salt=prompt.salt) if prompt is not None else None
        if hit is not None:
            self._adopt(owner, hit)
        return self.make_room()

    def give_way(self) -> None:
        """Forgets what lies on pages that sessions hold by now; `make_room` returns it."""
        self._forgotten += self._cache.shrink_to(self._places.free_pages)

    def make_room(self) -> list[work.KVHandle]:
        """As `give_way`; returns handles to be freed."""
        self.give_way()
        freed, self._forgotten = self._forgotten, []
        return freed

    def take_adopters(self) -> tuple[session.Session, ...]:
        """Sessions whose adoptions the next batch carries out; to be given to `adopted` after it."""
        found, self._adopters = tuple(self._adopters.values()), {}
        for owner in found:
            owner.computed = True  # it has pages from then on
        return found

    def adopted(self, owners: Iterable[session.Session]) -> None:
        """A batch is done: what sessions began with has been copied."""
        for owner in owners:
            if owner.pinned is not None:
                owner.pinned.pins -= 1
                owner.pinned = None

    def ended(self, owner: session.Session, held: work.KnownTokens | None) -> list[work.KVHandle]:
        """The session holds nothing more; `held` are the tokens that it was fed, if they are worth keeping."""
        if self._adopters.pop(owner.id, None) is not None:
            self.adopted([owner])
            adoption, owner.kv.adoption = owner.kv.adoption, None
            return [adoption.source] if adoption is not None and adoption.move else []
        if not owner.computed:
            return []  # there is nothing, and opening and closing alone must not grow the list of handles for ever
        if held is None or owner.failed or owner.away:
            return [owner.kv]
        num_tokens = owner.queue[0].work.start_pos if owner.queue else owner.planned_len
        known = held.token_ids[:num_tokens]
        freed = self._cache.keep(owner.kv, known, salt=held.salt, pages=owner.held_pages)
        return freed + self.make_room()

    def _adopt(self, owner: session.Session, hit: prefix_cache.Hit) -> None:
        """A copy where there is room for both, whatever sessions come to need; else the pages themselves, if nobody is
        about to copy them and the session was promised as many."""
        kept = hit.kept
        move = self._cache.pages > self._accounts.num_pages - self._accounts.promised_pages
        if move and (kept.pins or kept.pages > owner.pages):
            return
        if move:
            self._cache.take_over(kept)
        else:
            kept.pins += 1
            owner.pinned = kept
        self._places.hold(owner, kept.pages if move else self._places.pages(hit.num_tokens))
        owner.kv.adoption = work.Adoption(source=kept.kv, num_tokens=hit.num_tokens, move=move)
        owner.planned_len = hit.num_tokens
        self._adopters[owner.id] = owner

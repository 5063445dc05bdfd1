"""Whose prompts may share what was computed of them: the salt of a request. Pure.

A beginning that is computed already answers faster, and so tells whoever tries it that somebody has asked it before.
So requests share only within a salt: that of their API key, or the one that they name, which is whoever's who knows it.
Without keys a device has one tenant. Salts of the two kinds never meet, and neither key nor name can be read from one.
"""

from __future__ import annotations

import hashlib


def of_key(key: str) -> str:
    """The tenant that an API key stands for; the same on every device."""
    return _digest("key", key)


def of_request(named: str | None, *, tenant: str) -> str:
    """The salt of a request that names one, or that of its tenant ("" without keys)."""
    return tenant if named is None else _digest("salt", named)


def _digest(kind: str, text: str) -> str:
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16, person=kind.encode()).hexdigest()

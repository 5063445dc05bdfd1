"""What engines that speak token ids have in common, whatever they call it: a request, and pieces of its answer.

A dialect says where to ask and with which JSON, and reads the JSON of each event. `openai`, `sglang` and `llama_cpp`
hold those that are known; `discovery` finds out which one a server speaks. Pure.
"""

from __future__ import annotations

import dataclasses
import enum
import math
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from milliner.core import errors, generation
from milliner.wire.external import failures


@dataclasses.dataclass(frozen=True, slots=True)
class Asked:
    """One request to a server: the tokens that follow `token_ids`, at most `max_tokens` of them. With `goes_on` the
    server has computed all but the last few of `token_ids` for the same answer."""

    model: str
    token_ids: tuple[int, ...]
    max_tokens: int
    sampler: generation.Sampler
    stop_token_ids: frozenset[int] = frozenset()
    salt: str = ""
    goes_on: bool = False

    @property
    def ignores_end(self) -> bool:
        """Whether the server shall go on past the end of text: nothing is a stop token, so that is none either."""
        return not self.stop_token_ids

    @property
    def sampling(self) -> dict[str, Any]:
        """How tokens are chosen, in the words that vLLM and SGLang share; what could change them besides is off."""
        params = self.sampler.params
        return {
            "temperature": 0.0 if params.greedy else params.temperature,
            "top_p": params.top_p,
            "top_k": params.top_k or -1,
            "min_p": 0.0,
            "repetition_penalty": 1.0,
            "presence_penalty": 0.0,
            "frequency_penalty": 0.0,
            "ignore_eos": self.ignores_end,
            "stop_token_ids": sorted(self.stop_token_ids),
            "skip_special_tokens": True,
        }


class Finish(enum.StrEnum):
    """Why a server's answer ended."""

    STOP = "stop"
    LENGTH = "length"


@dataclasses.dataclass(frozen=True, slots=True)
class Likelihood:
    """Log-probability of a token, and of the likeliest in its place."""

    logprob: float
    top: tuple[tuple[int, float], ...] = ()


@dataclasses.dataclass(frozen=True, slots=True)
class Piece:
    """What one event brings: new tokens in order, their likelihoods where these were asked for, the text that the
    server makes of them, and why it has ended, if it has. With `missing`, the server keeps the ids of
    tokens to itself that came before `token_ids`, which are not the next ones."""

    token_ids: tuple[int, ...] = ()
    likelihoods: tuple[Likelihood, ...] = ()
    text: str = ""
    finish: Finish | None = None
    missing: bool = False


class Reader(Protocol):
    """Reads the events of one answer, in order."""

    def read(self, event: Mapping[str, Any]) -> Piece:
        """Raises `ProtocolError` for what the dialect does not have."""
        ...


class Dialect(Protocol):
    """One way of asking. `below_root`: the path begins at the server's root, not at the base URL. `keeps_apart`: what
    the server has cached is found by requests of the same salt only."""

    @property
    def name(self) -> str: ...

    @property
    def path(self) -> str: ...

    @property
    def below_root(self) -> bool: ...

    @property
    def keeps_apart(self) -> bool: ...

    def body(self, asked: Asked, *, stream: bool) -> dict[str, Any]: ...

    def reader(self) -> Reader: ...


def token_ids(found: object, *, name: str) -> tuple[int, ...]:
    """A list of token ids in a server's JSON; absent or null is none. Raises `ProtocolError`."""
    if found is None:
        return ()
    if not isinstance(found, list) or any(type(each) is not int or each < 0 for each in found):
        raise errors.ProtocolError(f"the server's {name} is no list of token ids", field=failures.FIELD)
    return tuple(found)


def one_choice(event: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """The choice that an OpenAI event is about; None where it has none (usage). Raises `ProtocolError`."""
    choices = event.get("choices")
    if choices == [] or (choices is None and "usage" in event):
        return None
    if not isinstance(choices, list) or not isinstance(choices[0], dict) or choices[0].get("index", 0) != 0:
        raise errors.ProtocolError("the server's event has no choice of index 0", field=failures.FIELD)
    return choices[0]


def finish_of(reason: object) -> Finish | None:
    """OpenAI's finish reasons. Raises `UnavailableError` where the server gave up, `ProtocolError` for what nobody
    asked for (a filter, a tool) or knows."""
    match reason:
        case None | "":
            return None
        case "stop":
            return Finish.STOP
        case "length":
            return Finish.LENGTH
        case "abort" | "error":  # vLLM: an engine that is being ended, a step that failed
            raise errors.UnavailableError(f"the server gave the answer up: {reason}", field=failures.FIELD)
    raise errors.ProtocolError(f"the server ended its answer with finish_reason {reason!r}", field=failures.FIELD)


def number(found: object, *, name: str) -> float:
    """A finite number in a server's JSON. Raises `ProtocolError`."""
    if isinstance(found, bool) or not isinstance(found, int | float) or not math.isfinite(found):
        raise errors.ProtocolError(f"the server's {name} is no number", field=failures.FIELD)
    return float(found)


def count(found: object, *, name: str) -> int:
    """A number of tokens in a server's JSON. Raises `ProtocolError`."""
    if type(found) is not int or found < 0:
        raise errors.ProtocolError(f"the server's {name} is no number of tokens", field=failures.FIELD)
    return found


def text_of(found: object, *, name: str) -> str:
    """Text in a server's JSON; absent or null is none. Raises `ProtocolError`."""
    if found is None:
        return ""
    if not isinstance(found, str):
        raise errors.ProtocolError(f"the server's {name} is no text", field=failures.FIELD)
    return found


def listed(found: object, *, name: str) -> Sequence[Any]:
    """A list in a server's JSON; absent or null is none. Raises `ProtocolError`."""
    if found is None:
        return ()
    if not isinstance(found, list):
        raise errors.ProtocolError(f"the server's {name} is no list", field=failures.FIELD)
    return found

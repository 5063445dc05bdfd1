"""Request bodies of the OpenAI-compatible endpoints: what is understood, what is tolerated, what is refused.

A field is understood (it is in a model below), tolerated (it changes no token: `IGNORED`), tolerated at the value that
switches it off (`NEUTRAL`), or refused with its name. `null` means that a field was not given.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Any, Literal, TypeVar

import pydantic

from milliner.core import errors

MAX_STOP_STRINGS = 4  # OpenAI's limit
MAX_STOP_CHARACTERS = 256  # arbitrary: bounds the text held back while a stop string may be forming
MAX_STOP_TOKENS = 1024  # arbitrary; well within what the wire carries (`token_messages`)
MAX_CHOICES = 16  # arbitrary: answers of one request, prompts times n
MAX_TOP_LOGPROBS = 20  # OpenAI's limit
MAX_SALT_CHARACTERS = 1024  # arbitrary: many times what is unguessable
MAX_NESTING = 64  # arbitrary: many times what any field has, and far from the interpreter's own limit

IGNORED = frozenset(
    {"user", "metadata", "store", "service_tier", "safety_identifier", "prompt_cache_key", "prompt_cache_retention"}
    | {"parallel_tool_calls", "prediction", "reasoning_effort", "verbosity", "request_id"}
)
NEUTRAL: dict[str, tuple[object, ...]] = {
    "frequency_penalty": (0,),
    "presence_penalty": (0,),
    "repetition_penalty": (1,),
    "length_penalty": (1,),
    "logit_bias": ({},),
    "min_p": (0,),
    "tools": ([],),
    "tool_choice": ("none", "auto"),
    "functions": ([],),
    "function_call": ("none", "auto"),
    "response_format": ({"type": "text"},),
    "modalities": (["text"],),
    "best_of": (1,),
    "suffix": ("",),
    "use_beam_search": (False,),
    "early_stopping": (False,),
    "skip_special_tokens": (True,),
    "spaces_between_special_tokens": (True, False),  # special tokens are never shown
    "add_generation_prompt": (True,),
    "continue_final_message": (False,),
    "include_stop_str_in_output": (False,),
    "detokenize": (True,),
    "prompt_logprobs": (0,),
    "priority": (0,),
}


class _Body(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)


class StreamOptions(_Body):
    include_usage: bool = False
    continuous_usage_stats: bool = False
    include_obfuscation: bool = False  # OpenAI's padding against traffic analysis; never added here


class MillinerOptions(_Body):
    explain: bool = False


StopString = Annotated[str, pydantic.Field(min_length=1, max_length=MAX_STOP_CHARACTERS)]
TokenId = Annotated[int, pydantic.Field(ge=0)]


class _Generation(_Body):
    """Fields that chat and completions share."""

    model: str
    max_tokens: int | None = pydantic.Field(default=None, ge=1)
    temperature: float = pydantic.Field(default=1.0, ge=0.0, le=2.0)
    top_p: float = pydantic.Field(default=1.0, gt=0.0, le=1.0)
    top_k: int = pydantic.Field(default=0, ge=-1)  # 0 and -1: off
    seed: int | None = pydantic.Field(default=None, ge=-(2**63), le=2**63 - 1)
    stop: StopString | Annotated[list[StopString], pydantic.Field(max_length=MAX_STOP_STRINGS)] = []
    stop_token_ids: Annotated[list[TokenId], pydantic.Field(max_length=MAX_STOP_TOKENS)] = []
    n: int = pydantic.Field(default=1, ge=1, le=MAX_CHOICES)
    stream: bool = False
    stream_options: StreamOptions = StreamOptions()
    ignore_eos: bool = False
    min_tokens: int = pydantic.Field(default=0, ge=0)
    return_token_ids: bool = False
    cache_salt: str | None = pydantic.Field(default=None, min_length=1, max_length=MAX_SALT_CHARACTERS)
    milliner: MillinerOptions = MillinerOptions()

    @property
    def stop_strings(self) -> tuple[str, ...]:
        return (self.stop,) if isinstance(self.stop, str) else tuple(self.stop)


class TextPart(_Body):
    type: Literal["text"]
    text: str


class Message(_Body):
    role: Literal["system", "developer", "user", "assistant"]
    content: str | list[TextPart]
    name: str | None = None
    refusal: None = None
    tool_calls: Annotated[list[Any], pydantic.Field(max_length=0)] = []  # none, as some servers write it

    def for_template(self) -> dict[str, str]:
        """As chat templates expect it; `developer` is OpenAI's newer word for `system`."""
        content = self.content if isinstance(self.content, str) else "".join(part.text for part in self.content)
        return {"role": "system" if self.role == "developer" else self.role, "content": content}


class ChatRequest(_Generation):
    messages: Annotated[list[Message], pydantic.Field(min_length=1)]
    max_completion_tokens: int | None = pydantic.Field(default=None, ge=1)
    logprobs: bool = False
    top_logprobs: int = pydantic.Field(default=0, ge=0, le=MAX_TOP_LOGPROBS)
    chat_template_kwargs: dict[str, Any] = {}


class CompletionRequest(_Generation):
    prompt: str | list[str] | list[TokenId] | list[list[TokenId]]
    max_tokens: int | None = pydantic.Field(default=16, ge=1)  # OpenAI's default for completions
    logprobs: int | None = pydantic.Field(default=None, ge=0, le=MAX_TOP_LOGPROBS)
    echo: bool = False
    add_special_tokens: bool = True

    @property
    def prompts(self) -> list[str | list[int]]:
        """One entry per prompt: text or token ids."""
        prompt: Any = self.prompt
        return [prompt] if isinstance(prompt, str) or (prompt and isinstance(prompt[0], int)) else prompt


RequestT = TypeVar("RequestT", ChatRequest, CompletionRequest)


def _without_nulls(value: Any, *, field: str, depth: int = 0) -> Any:
    """`null` means "not given" at every depth: clients send back messages as they got them, with all their fields."""
    if depth > MAX_NESTING:
        raise errors.InputError(f"is nested deeper than {MAX_NESTING} levels", field=field)
    if isinstance(value, dict):
        kept = {name: item for name, item in value.items() if item is not None}
        return {name: _without_nulls(item, field=field, depth=depth + 1) for name, item in kept.items()}
    return [_without_nulls(item, field=field, depth=depth + 1) for item in value] if isinstance(value, list) else value


def parse(schema: type[RequestT], body: Mapping[str, Any]) -> RequestT:
    """A validated request. Raises `InputError` naming the first field that is wrong, and why."""
    understood = {name: value for name, value in body.items() if value is not None and name not in IGNORED}
    given = {name: _without_nulls(value, field=name) for name, value in understood.items()}
    for name, neutral in NEUTRAL.items():
        if name in given and given.pop(name) not in neutral:
            raise errors.InputError(f"not supported here: leave it out or set it to {neutral[0]!r}", field=name)
    try:
        request = schema.model_validate(given)
    except pydantic.ValidationError as error:
        raise _input_error(error, known=tuple(_names(schema))) from error
    _check(request)
    return request


def _check(request: ChatRequest | CompletionRequest) -> None:
    if request.stream_options != StreamOptions() and not request.stream:
        raise errors.InputError("only allowed when stream is true", field="stream_options")
    if request.min_tokens and not request.ignore_eos:
        raise errors.InputError("only supported together with ignore_eos: true", field="min_tokens")
    if isinstance(request, ChatRequest):
        if request.top_logprobs and not request.logprobs:
            raise errors.InputError("needs logprobs: true", field="top_logprobs")
        limits = {request.max_tokens, request.max_completion_tokens} - {None}
        if len(limits) > 1:
            raise errors.InputError("differs from max_completion_tokens, its newer name: give one", field="max_tokens")
        return
    if not request.prompts:
        raise errors.InputError("is empty: give text or token ids", field="prompt")
    if len(request.prompts) * request.n > MAX_CHOICES:
        raise errors.InputError(f"prompts times n is above {MAX_CHOICES}: send several requests", field="n")
    if request.echo and request.logprobs is not None:
        raise errors.InputError("log-probabilities of the prompt are not computed: drop echo or logprobs", field="echo")


def _relevance(details: Mapping[str, Any]) -> tuple[int, int]:
    """For a union each member reports. The one that got deepest into the value was meant; of its complaints, one about
    a value says more than one about a field, and that more than one about a type."""
    kind: str = details["type"]
    return len(details["loc"]), 0 if kind.endswith("_type") else 1 if kind in ("extra_forbidden", "missing") else 2


def _names(schema: type[pydantic.BaseModel], prefix: str = "") -> Iterator[str]:
    """Its fields and theirs, as errors name them."""
    for name, info in schema.model_fields.items():
        yield prefix + name
        if isinstance(info.annotation, type) and issubclass(info.annotation, pydantic.BaseModel):
            yield from _names(info.annotation, f"{prefix}{name}.")


def _input_error(error: pydantic.ValidationError, *, known: Sequence[str]) -> errors.InputError:
    """The most telling of its complaints; `known` are the request's fields."""
    details = max(error.errors(include_url=False), key=_relevance)
    field = ""
    for part in details["loc"]:
        if isinstance(part, int):
            field += f"[{part}]"
        elif part.isidentifier() and part != "str":  # pydantic's other names for members of a union are none
            field += f".{part}" if field else part
    message = {"extra_forbidden": "unknown field", "missing": "is required"}.get(details["type"], details["msg"])
    if details["type"] == "extra_forbidden" and (near := difflib.get_close_matches(field, known, n=1)):
        message = f"unknown field, did you mean {near[0]}?"
    return errors.InputError(message[0].lower() + message[1:], field=field)

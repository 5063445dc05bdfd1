"""The target's side of a request on the device: tail layers, final norm, lm_head and the acceptance rule.

Everything here runs on the device's executor thread, in inference mode.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import torch

from milliner.core import compute, errors, types
from milliner.engine.device import draft_tree, history, submodels, tree_cache
from milliner.model import sampling


@dataclasses.dataclass(frozen=True, slots=True)
class Decision:
    """Tokens that became final, the last of them the next root."""

    num_accepted: int
    emitted: tuple[types.EmittedToken, ...]

    @property
    def next_token_id(self) -> int:
        return self.emitted[-1].token_id

    def verdict(self, seconds: float, *, decode_s: float) -> compute.Verdict:
        """`seconds` is the whole call's duration, of which `decode_s` went into reading the reply."""
        return compute.Verdict(
            num_accepted=self.num_accepted,
            emitted=self.emitted,
            decode_s=decode_s,
            head_s=max(0.0, seconds - decode_s),
        )


class Verification:
    """One request's tail cache and acceptance. `tail_cache` is None where no layers follow the cloud's."""

    def __init__(
        self,
        modules: submodels.Submodels,
        *,
        tail_cache: tree_cache.TreeCache | None,
        history: history.History,
        request: types.GenerationRequest,
        picker: sampling.Picker,
    ) -> None:
        self._modules = modules
        self._tail_cache = tail_cache
        self._history = history
        self._request = request
        self._picker = picker
        self._last_prompt_state: torch.Tensor | None = None

    def absorb_now(self, deep: torch.Tensor, *, start: int) -> None:
        """Cloud states [T, D] of prompt positions from `start` go through the tail layers; later ones are forgotten."""
        self._last_prompt_state = self._tail_now(deep, start=start)[-1:].clone()  # a view would keep the whole chunk

    def first_now(self, deep: torch.Tensor | None) -> Decision:
        """The first token, from the prompt's last deep state [1, D]; None: the one that `absorb_now` has seen."""
        state = self._last_prompt_state if deep is None else deep
        if state is None or state.shape[0] != 1:
            raise errors.ShapeMismatch("the reply to the last chunk holds one position's state", field="payload")
        self._history.append_deep(state)
        logits = self._modules.shallow.logits(state)  # [1, V]
        choice = self._accept(logits, [], root_position=self._prompt_tokens - 1)
        return Decision(0, (self._token(logits[0], choice.token_id, types.TokenOrigin.PREFILL),))

    def verify_now(self, path: Sequence[draft_tree.Node], deep: torch.Tensor) -> Decision:
        """Deep states [K + 1, D] of root and drafts -> the drafts that stand and the token after them."""
        if deep.shape[0] != len(path):
            raise errors.ShapeMismatch(
                f"the reply holds {deep.shape[0]} positions, {len(path)} were sent", field="payload.num_tokens"
            )
        root, *drafts = path
        states = self._tail_now(deep, start=root.position)
        logits = self._modules.shallow.logits(states)  # [K + 1, V]
        choice = self._accept(logits, path, root_position=root.position)
        self._history.append_deep(states[: choice.num_accepted + 1])
        self._picker.forget(root.position + choice.num_accepted + 2)  # behind the next root
        tokens = [
            self._token(logits[row], draft.token_id, types.TokenOrigin.DRAFT)
            for row, draft in enumerate(drafts[: choice.num_accepted])
        ]
        last = self._token(logits[choice.num_accepted], choice.token_id, types.TokenOrigin.VERIFIED)
        return Decision(choice.num_accepted, (*tokens, last))

    def close_now(self) -> None:
        """Frees the tail layers' cache."""
        if self._tail_cache is not None:
            self._tail_cache.close()

    @property
    def _prompt_tokens(self) -> int:
        return len(self._request.prompt_ids)

    def _tail_now(self, deep: torch.Tensor, *, start: int) -> torch.Tensor:
        """[T, D] through the tail layers at positions from `start` (what lies there is forgotten first), if any."""
        if self._modules.tail is None or self._tail_cache is None:
            return deep
        self._tail_cache.rewind(start)
        return self._modules.tail.forward(deep, self._tail_cache.history_batch(deep.shape[0]))

    def _accept(
        self, logits: torch.Tensor, path: Sequence[draft_tree.Node], *, root_position: int
    ) -> sampling.Acceptance:
        following = range(root_position + 1, root_position + 1 + logits.shape[0])
        return sampling.accept(self._picker.scores(logits, following), [node.token_id for node in path[1:]])

    def _token(self, logits: torch.Tensor, token_id: int, origin: types.TokenOrigin) -> types.EmittedToken:
        count = self._request.num_logprobs
        if count is None:
            return types.EmittedToken(token_id, origin)
        logprob, top = sampling.logprobs(logits, token_id, count)
        return types.EmittedToken(token_id, origin, logprob, top)

"""Adapters: serving with a paged cache equals one pass over the text, and training's passes equal serving's rounds."""

from __future__ import annotations

import pytest
import torch

from milliner.model import adapter as adapters
from milliner.model import drafter_unroll, kv_cache, medusa, ragged

CPU = torch.device("cpu")
LENGTH = 12


def make_adapter(form: adapters.AdapterForm) -> adapters.Adapter:
    torch.manual_seed(3)
    made = adapters.Adapter(
        adapters.AdapterConfig(
            form=form,
            hidden_size=16,
            num_attention_heads=4,
            num_key_value_heads=2,
            head_dim=8,
            intermediate_size=24,
            rope_theta=10_000.0,
            rms_norm_eps=1e-5,
        )
    )
    for parameter in made.parameters():
        torch.nn.init.normal_(parameter, std=0.4)
    return made.eval().requires_grad_(False)


def open_session(made: adapters.Adapter) -> kv_cache.SequenceKV:
    cache = kv_cache.PagedKVCache(made.kv_spec, num_pages=16, page_tokens=4, dtype=torch.float32, torch_device=CPU)
    return cache.open()


def step(
    made: adapters.Adapter, session: kv_cache.SequenceKV, hidden: torch.Tensor, **deep: torch.Tensor
) -> torch.Tensor:
    session.reserve(len(hidden))
    batch = ragged.RaggedBatch.build([ragged.Segment(session, session.kv_len, len(hidden))], torch_device=CPU)
    drafted: adapters.Drafted = made(hidden, batch, **deep)
    return drafted.states


@pytest.mark.parametrize("form", list(adapters.AdapterForm))
def test_token_by_token_equals_one_pass(form: adapters.AdapterForm) -> None:
    made, hidden, deep = make_adapter(form), torch.randn(LENGTH, 16), torch.randn(LENGTH, 16)
    known = torch.arange(LENGTH) >= 5
    whole = step(made, open_session(made), hidden, deep=deep, deep_known=known)
    session = open_session(made)
    parts = [
        step(made, session, hidden[i : i + 1], deep=deep[i : i + 1], deep_known=known[i : i + 1]) for i in range(LENGTH)
    ]
    torch.testing.assert_close(torch.cat(parts), whole, rtol=1e-4, atol=1e-5)
    assert session.kv_len == LENGTH


@pytest.mark.parametrize("form", list(adapters.AdapterForm))
def test_rollback_forgets_what_was_drafted(form: adapters.AdapterForm) -> None:
    made, hidden, deep = make_adapter(form), torch.randn(LENGTH, 16), torch.randn(LENGTH, 16)
    whole = step(made, open_session(made), hidden, deep=deep)
    session = open_session(made)
    step(made, session, hidden[:6], deep=deep[:6])
    step(made, session, torch.randn(3, 16), deep=torch.randn(3, 16))
    session.truncate(6)
    torch.testing.assert_close(step(made, session, hidden[6:], deep=deep[6:]), whole[6:], rtol=1e-4, atol=1e-5)


def test_training_passes_equal_the_rounds_that_serving_would_run() -> None:
    """Pass k at position t is the k-th draft of the round whose root lies at t - k + 1."""
    made = make_adapter(adapters.AdapterForm.LAYER_WITH_DEEP_STATE)
    hidden, deep = torch.randn(LENGTH, 16), torch.randn(LENGTH, 16)
    first = 3  # positions below are prompt
    passes = drafter_unroll.unroll(made, hidden[None], deep[None], first_known=torch.tensor([first]), num_passes=3)
    for root in range(first, LENGTH - 2):
        session = open_session(made)
        before = torch.cat([deep[:1], deep[:-1]])
        step(made, session, hidden[:root], deep=before[:root], deep_known=torch.arange(root) >= first)
        states = before[root : root + 1]
        for k in range(3):
            states = step(made, session, hidden[root + k : root + k + 1], deep=states)
            torch.testing.assert_close(states[0], passes[k][0, root + k], rtol=1e-4, atol=1e-5)


def test_deep_states_matter_only_where_they_are_known() -> None:
    made, hidden = make_adapter(adapters.AdapterForm.LAYER_WITH_DEEP_STATE), torch.randn(4, 16)
    known = torch.tensor([False, False, True, True])
    one, other = (step(made, open_session(made), hidden, deep=torch.randn(4, 16), deep_known=known) for _ in range(2))
    absent = step(made, open_session(made), hidden)
    torch.testing.assert_close(one[:2], other[:2])
    torch.testing.assert_close(one[:2], absent[:2])
    assert not torch.allclose(one[2:], other[2:])


def test_plain_forms_ignore_deep_states() -> None:
    made, hidden = make_adapter(adapters.AdapterForm.LAYER), torch.randn(4, 16)
    torch.testing.assert_close(
        step(made, open_session(made), hidden, deep=torch.randn(4, 16)), step(made, open_session(made), hidden)
    )


def test_medusa_heads_start_from_the_targets_own_guess() -> None:
    heads = medusa.MedusaHeads(medusa.MedusaConfig(hidden_size=16, num_heads=3))
    normed = torch.randn(5, 16)
    states = heads(normed)
    assert states.shape == (3, 5, 16)
    torch.testing.assert_close(states, normed.expand(3, 5, 16))
    torch.nn.init.normal_(heads.blocks[1].weight)  # type: ignore[arg-type]
    changed = heads(normed)
    torch.testing.assert_close(changed[0], normed)
    assert not torch.allclose(changed[1], normed)

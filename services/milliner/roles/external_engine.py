"""The way from a device to an engine of somebody else's that runs the cloud's model. Wiring only."""

from __future__ import annotations

import logging

from milliner.api import tokenizer
from milliner.contract import role_config
from milliner.engine import executor
from milliner.roles import links, runtime
from milliner.wire.external import discovery, transport

_log = logging.getLogger(__name__)


async def connect(
    wanted: role_config.ExternalServer,
    config: role_config.WholeDeviceRoleConfig,
    *,
    codec: tokenizer.HuggingFaceTokenizer,
    running: runtime.Runtime,
) -> transport.ExternalTransport:
    """A transport that is closed with the role; nobody has been asked yet. Raises `ConfigError` for an address or a
    key that cannot be used."""
    found = transport.ExternalTransport(
        wanted, tokenizer=await _tokenizer(codec, running.worker), route=await links.route(config, running.stack)
    )
    running.stack.push_async_callback(found.close)
    _log.info("whole model behind %s: prompts are not refined, its weights cannot be compared with ours", wanted.url)
    return found


async def _tokenizer(codec: tokenizer.HuggingFaceTokenizer, worker: executor.ComputeExecutor) -> discovery.Tokenizer:
    ids, _ = await worker.run(lambda: tuple(codec.encode(discovery.REFERENCE_TEXT, add_special_tokens=False)))
    return discovery.Tokenizer(reference_ids=ids, vocab_size=codec.vocab_size, decode=codec.decode)

"""Looks at a role's own certificate and tells when new connections stop or begin to be possible with it."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from typing import NoReturn

from milliner.core import ports
from milliner.wire import tls

_EVERY_S = 5.0  # arbitrary: as often as kubelets ask for readiness

_log = logging.getLogger(__name__)


async def keep(identity: tls.Identity, *, clock: ports.Clock, on_change: Callable[[str], Awaitable[None]]) -> NoReturn:
    """Calls `on_change` with what is wrong with the certificate, or "", whenever that changes; until cancelled."""
    before = ""
    while True:
        trouble = identity.trouble()
        if trouble != before:
            before = trouble
            if trouble:
                _log.error("%s", trouble)
            else:
                _log.info("the certificate is good again")
            await on_change(trouble)
        await clock.sleep(_EVERY_S)

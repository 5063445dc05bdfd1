"""The phases of a request: what each one is, in the order in which a reader expects them."""

from __future__ import annotations

import enum


class Phase(enum.StrEnum):
    """A share of a request's time. Values are span names and metric labels, so they are part of the interface."""

    TOKENIZE = "tokenize"  # text to token ids, chat template included (device)
    DEVICE_FORWARD = "device_forward"  # shallow layers, tail layers of a verification (device)
    DRAFT = "draft"  # draft steps: shallow layers, adapter, lm_head (device)
    PACK = "pack"  # hidden states to bytes and back, either tier
    NETWORK = "network"  # round trip minus the durations that the cloud reports
    QUEUE = "queue"  # waiting for a batch in the cloud
    CLOUD_FORWARD = "cloud_forward"  # the cloud's layers
    VERIFY = "verify"  # norm, lm_head and comparison of drafts with the target's choice (device)
    SAMPLE = "sample"  # picking a token where nothing was drafted (device)
    ROLLBACK = "rollback"  # truncating and re-rooting KV caches (device)
    PACE = "pace"  # a known token waits for its turn to be shown
    TAKEOVER = "takeover"  # hand-over from cloud to device, or replay on another replica

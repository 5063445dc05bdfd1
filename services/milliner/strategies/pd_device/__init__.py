"""P/D-Device: the cloud answers first, the device takes over (arXiv 2508.09035 as the source of the idea).

`strategy` runs both tiers for one request; `relay` joins their tokens to one answer; `settings` chooses how many the
cloud gives; `pacing` when each token is shown.
"""

"""P/D-Device: the cloud answers first, the device takes over (arXiv 2508.09035 as the source of the idea).

`strategy` chooses the `settings` of each request from what `profile` has measured; `hand_over` runs both tiers for it,
`cloud_share` and `device_share`, whose tokens `relay` joins to one answer; `feed` is what the device is given, `pacing`
when each token is shown.
"""

"""The preset in virtual time: the real strategy code over a modelled device, link and cloud, without torch."""

"""Hat: drafts on the device, verification through the cloud, prompt in chunks."""

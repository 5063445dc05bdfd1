"""HAT: the device drafts with its shallow layers and an adapter, the cloud's middle layers verify (arXiv 2503.18989).

`strategy` is the request from prompt to end; `drafts` proposes paths and uses the wait for the cloud; `branches` says
which outcomes are worth drafting ahead; `controller` how long drafts should be, from `acceptance` and `profit`.
"""

"""Serving strategies: one package per strategy behind one Protocol (`base.Generator`).

The strategies do not import one another; what they share lies here: `prefill` (prompt chunks), `chunking` and `uplink`
(how large, how fast), `cloud_session` (a stream that survives the loss of its replica), `decode` (the round loop),
`answer` (stop tokens and limits). Time, transport and compute are ports: nothing here calls `time`, `asyncio.sleep`,
`random`, sockets or torch, so that the simulator runs the same code in virtual time.
"""

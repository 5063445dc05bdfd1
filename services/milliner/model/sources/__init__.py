"""Files of models and drafters from wherever they are: folders near and far, their layout, identity, slices of them.

Everything but `slice_fetch` is torch-free. Blocking: roles call it before their event loop starts.
"""

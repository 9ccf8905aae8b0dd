"""How models are trained: the order of data, the update on several devices, averaged weights."""

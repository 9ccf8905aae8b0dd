"""Sampling: requests of `generate`, plans of a run, the compiled sampler, and editing."""

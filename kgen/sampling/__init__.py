"""From noise to examples: the compiled sampler, where it starts, editing."""

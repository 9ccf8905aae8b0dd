"""Training of models: the training step, the order of data, several devices, averaged weights."""

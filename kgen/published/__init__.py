"""Published weights: folders in the diffusers layout and single files, opened and written."""

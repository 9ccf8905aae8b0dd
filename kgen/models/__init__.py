"""The models: one station of the road a file."""

"""Log likelihoods: by the probability flow and by importance sampling."""

"""Tools that build data sets and convert weights; no user of the library needs them."""

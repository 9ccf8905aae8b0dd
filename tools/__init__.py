"""What builds data sets and converts weights; no user of the library needs it."""

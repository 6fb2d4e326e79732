"""Studies: lists of configs, what is trained or computed for each, and the picture that shows them together."""

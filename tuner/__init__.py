"""serving-tuner: the cheapest model-server configuration that meets an SLO, in a handful of real trials."""

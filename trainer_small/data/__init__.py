"""From documents to tokens to the batches of a run."""

"""The best vocabulary size: exact curves, fitted laws, IsoFLOP runs and published predictors."""

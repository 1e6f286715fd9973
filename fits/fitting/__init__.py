"""From a law and a table to a fit: coefficients with intervals, diagnostics, profiles and backtests."""

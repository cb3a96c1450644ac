"""A study in the browser while it runs: optuna-dashboard over a view of the ledger, and the report beside it."""

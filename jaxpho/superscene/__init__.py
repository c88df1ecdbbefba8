"""Whole fields: catalogue state, patches in rounds, workers, ledger (docs/superscene.md)."""

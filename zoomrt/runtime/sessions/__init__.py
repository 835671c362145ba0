"""Sessions: one file for each engine, behind the contract of `runtime/session.py`."""

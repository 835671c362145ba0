"""The backends: one file each, named like it, with its record `BACKEND`. Adding a file adds a backend.

A session is behind the contract of `runtime/session.py`; what several of them need is in `common/`.
"""

"""Runs that are killed, interrupted or cleaned beside, in processes of their own: minutes.

`./scripts/test faults` runs them; `pytest` alone leaves them out.
"""

"""Runners: who computes the shards of a stage; each module has one."""

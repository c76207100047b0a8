"""Whom we talk to: one file per outside system, in and out; the store; the archive."""

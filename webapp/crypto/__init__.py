"""Ciphers, password hashes and one-time codes. Pure: no Flask, no database, no Redis."""

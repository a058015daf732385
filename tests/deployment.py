"""A complete production environment, for tests of settings and of refused starts."""

MASTER_KEYS = "k1:MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY"
OTHER_MASTER_KEYS = "k1:ZmVkY2JhOTg3NjU0MzIxMGZlZGNiYTk4NzY1NDMyMTA"
"""Other bytes under the same id."""
PRODUCTION = {
    "SECRET_KEY": "Zb4Qw7Xe1Rt9Yu2Io5Pa8Sd3Fg6Hj0Kl4Zx7Cv1Bn",
    "MASTER_KEYS": MASTER_KEYS,
    "TRUSTED_HOSTS": "keys.example.com",
}

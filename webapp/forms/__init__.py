"""The shape of what forms send: no query, no effect. One module per blueprint."""

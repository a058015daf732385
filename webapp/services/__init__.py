"""The use cases. The outermost public call owns one transaction, its audit event included."""

"""The history of the schema, applied by `Store.migrate`."""

"""A distilled set in the formats of others, and back: see `docs/sharing.md`."""

"""Files on any store: `remote` opens, `retry` repeats, `ranges` reads, `publish` writes."""

"""perdure's file on disk: header, digests, atomic writing, shards, mapping and parallel reads. No torch in here."""

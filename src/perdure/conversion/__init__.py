"""Any file that perdure opens becomes one of another kind: streamed, cast on request, verified."""

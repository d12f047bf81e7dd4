"""Typed data that all layers exchange: the manifest, the environment, tensor specs and reports. No torch in here."""

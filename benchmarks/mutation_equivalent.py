"""Mutants that behave as the module does, by module and name, each with the reason; `mutation` leaves them out."""

EQUIVALENT: dict[str, dict[str, str]] = {}

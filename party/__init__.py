"""The data owner: editing engine, protocol states, network client."""

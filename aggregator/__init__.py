"""The coordinator: protocol states, opening of sums, network service. It reads no edit."""

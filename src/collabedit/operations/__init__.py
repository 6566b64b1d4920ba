"""What an operator looks at: metrics and a status page, over HTTP and read-only."""

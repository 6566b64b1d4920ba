"""Generated protobuf code, version 1 of the wire format."""

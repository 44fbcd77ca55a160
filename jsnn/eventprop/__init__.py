"""EventProp."""

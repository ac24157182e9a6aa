"""Media in, signals out. Knows no storage, no HTTP, no FAISS, no clock, no settings."""

"""Banks of known content and the search over them."""

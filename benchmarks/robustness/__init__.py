"""How many copies are found after an edit, and how many strangers are taken for copies."""

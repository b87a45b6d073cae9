"""A finished pipeline as one object, and what it draws: what ``import weightspace`` gives."""

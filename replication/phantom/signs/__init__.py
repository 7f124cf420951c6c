"""How each finding alters the chest, grouped by what it affects."""

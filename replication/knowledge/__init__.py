"""Knowledge of reports: vocabularies, triplets, descriptions, prompts and text encoders."""

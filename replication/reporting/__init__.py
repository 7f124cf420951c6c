"""Tables, figures, executed notebooks and the site, made from rows and predictions alone."""

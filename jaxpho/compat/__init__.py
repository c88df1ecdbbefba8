"""forcepho's conventions: its catalogues, parameters, posterior and configuration files."""

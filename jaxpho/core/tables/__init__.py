"""Tables of scale-free Sersic mixtures, the script that makes them and their exact reference."""

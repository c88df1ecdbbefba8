"""Pure JAX: mixtures, sources, rendering and likelihood. No input or output."""

"""How the weights of preset tiny were made, on drawings of bodies (docs/tiny.md)."""

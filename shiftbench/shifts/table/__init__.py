"""The literal tables of acquisition operators, by what they act on."""

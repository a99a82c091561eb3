"""A long test of a pair: random faults under traffic, and a watch from outside on what the product promises."""

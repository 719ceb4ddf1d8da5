//! The arena: which grains of a region are taken.

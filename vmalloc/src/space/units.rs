//! The unit table: what a grain belongs to.

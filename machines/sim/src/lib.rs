//! A simulated machine whose TLBs go stale, to prove vmalloc right.

//! vmalloc in a Linux process: a memfd is physical memory.

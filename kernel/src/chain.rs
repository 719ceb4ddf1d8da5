//! The chain of calls behind `vmalloc`, in the form of each age.
//!
//! ```text
//!   2.6    vmalloc ─ __vmalloc ─┬ get_vm_area
//!                               ├ kmalloc, or __vmalloc again       the array of pages
//!                               ├ alloc_page …                      one a page
//!                               └ map_vm_area
//!   3.0    vmalloc ─ __vmalloc_node ─┬ __get_vm_area_node
//!                                    ├ __vmalloc_area_node ─ array, pages, map_vm_area
//!                                    └ kmemleak_alloc
//!   4.x    vmalloc ─ __vmalloc_node_flags ─ __vmalloc_node ─ __vmalloc_node_range ─┬ __get_vm_area_node
//!                                                              ├ __vmalloc_area_node
//!                                                              ├ clear_vm_uninitialized_flag
//!                                                              └ kmemleak_vmalloc
//!   today  vmalloc ─ __vmalloc_node ─ __vmalloc_node_range ─┬ the library: slot, frames, entries in one path
//!                                                           └ kmemleak_vmalloc
//! ```
//!
//! Each name is a function that does its step, and tells the host when it is entered
//! ([`Host::entered`](crate::Host::entered)). What the three old forms make is an area by
//! parts with an array; today's is the library's own, which keeps frames in entries and
//! has neither array nor steps.
//!
//! A refusal takes everything back: frames to the last, array, addresses.

mod steps;
mod today;
mod v2_6;
mod v3_0;
mod v4;

pub use v2_6::V2_6;
pub use v3_0::V3_0;
pub use v4::V4;

//! What an instance promises on a simulated machine, subject by subject.

mod aliases;
mod areas;
mod bounds;
mod cache;
mod common;
mod counts;
mod entries;
mod events;
mod extremes;
mod failures;
mod foreign;
mod found;
mod frees;
mod given;
mod grow;
mod in_use;
mod listing;
mod looks;
mod named;
mod nmi;
mod offsets;
mod owned;
mod parts;
mod policies;
mod pressure;
mod protect;
#[cfg(debug_assertions)]
mod quiesce;
mod refusals;
mod regions;
mod roots;
mod sections;
mod shrink;
mod stacks;
mod tables;
mod vast;

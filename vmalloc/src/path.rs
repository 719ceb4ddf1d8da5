//! One call, from top to bottom: an allocation ([`alloc`]), a free ([`free`]).

pub(crate) mod alloc;
pub(crate) mod backing;
mod end;
pub(crate) mod frames;
pub(crate) mod free;
pub(crate) mod offsets;
pub(crate) mod part;
pub(crate) mod plan;
pub(crate) mod protect;
pub(crate) mod ready;
pub(crate) mod shortage;
pub(crate) mod supply;

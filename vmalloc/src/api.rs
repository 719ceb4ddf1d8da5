//! The interface: a function is a contract, and one call down.

pub(crate) mod areas;
pub(crate) mod check;
pub(crate) mod frame;
pub(crate) mod heap;
pub(crate) mod hooks;
pub(crate) mod instance;
pub(crate) mod map;
pub(crate) mod owned;
pub(crate) mod query;

//! Scopes: what reclaim may do on behalf of the current task.
//!
//! A file system that allocates must not be called back by the reclaim that its own
//! allocation starts. So a task enters a scope, in which every allocation, that of a
//! page table too, is made without `__GFP_FS`, or without `__GFP_IO`. The library
//! asks nobody but [`Machine::exhausted`] for help; an embedder's implementation of
//! that looks at [`Host::scope`](crate::Host::scope), and does what the scope allows.
//!
//! # Rules
//! - **J3** Scopes end in the order in which they began, turned around: a guard
//!   borrows the one that it lies in ([`ScopeGuard::enter`]), so another order does
//!   not compile.
//! - **J4** A scope only adds restrictions to those of the scope around it.
//!
//! Source: `memalloc_nofs_save`, `memalloc_noio_save`; guards as the Rust bindings
//! of the newest kernels have them.
//!
//! [`Machine::exhausted`]: vmalloc::machine::Machine::exhausted

use crate::gfp::GfpFlags;
use crate::host::Host;

bitflags::bitflags! {
    /// What is forbidden to reclaim.
    #[derive(Clone, Copy, PartialEq, Eq, Debug)]
    pub struct Scope: u8 {
        /// Calls into file systems (`PF_MEMALLOC_NOFS`).
        const NOFS = 1;
        /// I/O, and calls into file systems (`PF_MEMALLOC_NOIO`).
        const NOIO = 2;
        /// Any reclaim that waits (`PF_MEMALLOC_NORECLAIM`).
        const NORECLAIM = 4;
    }
}

impl Scope {
    /// The flags of a request that is made in this scope (`current_gfp_context`).
    pub fn apply(self, gfp: GfpFlags) -> GfpFlags {
        let mut left = gfp;
        if self.contains(Scope::NOIO) {
            left = left.difference(GfpFlags::IO.union(GfpFlags::FS));
        }
        if self.contains(Scope::NOFS) {
            left = left.difference(GfpFlags::FS);
        }
        if self.contains(Scope::NORECLAIM) {
            left = left.difference(GfpFlags::DIRECT_RECLAIM);
        }
        left
    }

    /// The scope that a request with these flags asks for.
    pub fn of(gfp: GfpFlags) -> Scope {
        match gfp {
            _ if !gfp.contains(GfpFlags::DIRECT_RECLAIM) => Scope::empty(),
            _ if !gfp.contains(GfpFlags::IO) => Scope::NOIO,
            _ if !gfp.contains(GfpFlags::FS) => Scope::NOFS,
            _ => Scope::empty(),
        }
    }
}

/// The current task is in a scope until this is dropped.
#[must_use = "the scope ends when this is dropped"]
pub struct ScopeGuard<'h, H: Host> {
    host: &'h H,
    outer: Scope,
}

impl<'h, H: Host> ScopeGuard<'h, H> {
    /// The current task enters `scope`.
    pub fn begin(host: &'h H, scope: Scope) -> ScopeGuard<'h, H> {
        let outer = host.scope();
        host.set_scope(outer | scope);
        ScopeGuard { host, outer }
    }

    /// A scope inside of this one, which cannot end before it (J3).
    ///
    /// ```compile_fail
    /// use vmalloc_kernel::{Bare, Scope, ScopeGuard};
    /// let outer = ScopeGuard::begin(&Bare, Scope::NOFS);
    /// let mut outer = outer;
    /// let inner = outer.enter(Scope::NOIO);
    /// drop(outer);
    /// drop(inner);
    /// ```
    pub fn enter<'o>(&'o mut self, scope: Scope) -> ScopeGuard<'o, H> {
        ScopeGuard::begin(self.host, scope)
    }
}

impl<H: Host> Drop for ScopeGuard<'_, H> {
    fn drop(&mut self) {
        self.host.set_scope(self.outer);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use core::sync::atomic::{AtomicU8, Ordering::Relaxed};

    #[derive(Default)]
    struct Task(AtomicU8);

    impl Host for Task {
        fn scope(&self) -> Scope {
            Scope::from_bits_truncate(self.0.load(Relaxed))
        }
        fn set_scope(&self, scope: Scope) {
            self.0.store(scope.bits(), Relaxed);
        }
    }

    #[test]
    fn scopes_nest_and_end_in_the_order_turned_around() {
        let task = Task::default();
        let mut outer = ScopeGuard::begin(&task, Scope::NOFS);
        {
            let _inner = outer.enter(Scope::NOIO);
            assert_eq!(task.scope(), Scope::NOFS | Scope::NOIO, "J4");
        }
        assert_eq!(task.scope(), Scope::NOFS);
        drop(outer);
        assert_eq!(task.scope(), Scope::empty());
    }

    #[test]
    fn a_request_in_a_scope_loses_what_the_scope_forbids() {
        assert_eq!(Scope::NOFS.apply(GfpFlags::KERNEL), GfpFlags::NOFS);
        assert_eq!(Scope::NOIO.apply(GfpFlags::KERNEL), GfpFlags::NOIO);
        assert_eq!(Scope::NORECLAIM.apply(GfpFlags::NOIO), GfpFlags::NOWAIT);
        assert_eq!((Scope::of(GfpFlags::NOFS), Scope::of(GfpFlags::NOIO)), (Scope::NOFS, Scope::NOIO));
        assert_eq!((Scope::of(GfpFlags::KERNEL), Scope::of(GfpFlags::ATOMIC)), (Scope::empty(), Scope::empty()));
    }
}

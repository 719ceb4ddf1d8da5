//! Events: what the library tells the machine of areas.

use crate::area::{Caller, Kind};
use crate::error::AllocError;
use crate::machine::format::Prot;
use crate::units::{PageRange, VirtAddr};

/// Something that has happened, for [`Machine::note`](super::Machine::note).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Event {
    /// An area is complete, and its caller gets it next. The machine may refuse it here. It may be
    /// asked again for the same call, after a purge.
    Publish {
        /// The address of its first page.
        start: VirtAddr,
        /// Its pages, without guards.
        pages: usize,
        /// Its kind.
        kind: Kind,
        /// Who asked for it.
        caller: Caller,
    },
    /// A free has claimed an area: no other free can have it. If two CPUs free one area at the same
    /// moment, both may be told ([`FreeError::DoubleFree`](crate::FreeError::DoubleFree)).
    Claim {
        /// The address of its first page.
        start: VirtAddr,
        /// Its pages, without guards.
        pages: usize,
        /// Who freed it.
        freer: Caller,
    },
    /// An area has got, or gets, `to` pages in place of `from`. The machine may refuse it where that
    /// is more; the opposite is told where the call then fails.
    Resize {
        /// The address of its first page.
        start: VirtAddr,
        /// The pages that it had, without guards.
        from: usize,
        /// The pages that it has from here on.
        to: usize,
    },
    /// Pages of an area have another protection, and no CPU can use the old one any more.
    Protect(PageRange, Prot),
    /// So many pages of freed areas were reclaimed after grace, perhaps none: a step of reclaim.
    Retire(usize),
    /// A purge of all CPUs is over, in which so many pages were reclaimed.
    Purge(usize),
    /// A call was refused, and nothing has changed.
    Failure {
        /// The bytes of the request.
        bytes: usize,
        /// What the caller is told.
        error: AllocError,
    },
}

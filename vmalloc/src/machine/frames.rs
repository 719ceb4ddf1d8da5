//! Physical memory, as the library sees it.
//!
//! # Contract
//! - **F1** An allocated frame is not allocated again before it is freed.
//! - **F2** A block of order `n` is 2ⁿ adjacent frames, aligned to 2ⁿ.
//! - **F3** The library calls the methods pinned (interrupts off), and under no lock of its own
//!   except a depot's.
//! - **F4** A free may use other blocks than the allocations did: smaller ones, and larger ones of
//!   adjacent frames of one node. Any aligned block is allowed whose frames are all allocated.
//! - **F5** [`Frames::page`] returns the same for a frame at all times.
//! - **F6** An allocated frame lies in the requested zone or in a lower one, and never above
//!   [`Frames::highest_zone`].

use crate::gfp::ZoneKind;
use crate::sync::{self, plain};
use crate::units::{Node, Pfn};

/// The largest order of a block: 1024 frames, 4 MiB.
pub const MAX_ORDER: u8 = 10;

/// The kind of block that is requested.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Want {
    /// log2 of the number of frames.
    pub order: u8,
    /// The highest zone that is allowed.
    pub zone: ZoneKind,
    /// The node to ask first.
    pub node: Node,
    /// Whether other nodes are forbidden.
    pub this_node: bool,
    /// The frame that would continue a run. The source returns it if it is free.
    pub next: Option<Pfn>,
}

impl Want {
    /// One frame that the direct mapping covers, from `node` if possible.
    pub const fn bookkeeping(node: Node) -> Want {
        Want { order: 0, zone: ZoneKind::Normal, node, this_node: false, next: None }
    }

    /// The same request, for a block of `order`.
    pub const fn order(self, order: u8) -> Want {
        Want { order, ..self }
    }
}

/// The record that the library keeps of a frame with several holders (G3).
///
/// `extra` counts the holders beyond the first. It is 0 for a frame that one area, or one caller,
/// holds.
#[derive(Debug, Default)]
pub struct Page {
    /// Holders beyond the first.
    pub extra: sync::AtomicU32,
    /// Of an allocated frame: the library's link to the next waiting frame. Of a free frame: the
    /// source's.
    pub(crate) links: [plain::AtomicU32; 2],
}

/// A source of frames.
///
/// # Safety
/// The implementor keeps F1–F6 of the [module](self).
pub unsafe trait Frames: Sync {
    /// The number of frames. It bounds the size of a request.
    fn total(&self) -> usize;
    /// The number of free frames: for reports, and asked before and after `reclaim`. No allocation
    /// and no free asks, so it may take as long as a walk.
    fn free_now(&self) -> usize;
    /// Whether `frame` is RAM, allocated or not: it is then no device. The library asks once for each
    /// page of a device that is mapped, and of frames that `vmap` is given.
    fn is_ram(&self, frame: Pfn) -> bool;
    /// Allocates a block; `None` if there is none.
    fn alloc(&self, want: Want) -> Option<Pfn>;
    /// Frees a block.
    ///
    /// # Safety
    /// This source allocated all frames of the block (F4), and the caller does not use them any
    /// more.
    unsafe fn free(&self, first: Pfn, order: u8);
    /// Allocates up to `into.len()` single frames, at most 128. Returns how many. A magazine that is
    /// refilled asks at most twice. A source whose [`Frames::alloc`] takes a lock, or a walk,
    /// overrides this: the default asks that once for each frame.
    fn alloc_bulk(&self, want: Want, into: &mut [Pfn]) -> usize {
        for (got, slot) in into.iter_mut().enumerate() {
            match self.alloc(want) {
                Some(frame) => *slot = frame,
                None => return got,
            }
        }
        into.len()
    }
    /// Frees single frames.
    ///
    /// # Safety
    /// As for [`Frames::free`], for each frame.
    unsafe fn free_bulk(&self, frames: &[Pfn]) {
        for &frame in frames {
            // SAFETY: the caller's promise for each frame.
            unsafe { self.free(frame, 0) }
        }
    }
    /// The number of free frames that would satisfy `want`, for the error of a call that found too
    /// few; `None` if the source does not know.
    fn free_for(&self, _want: Want) -> Option<usize> {
        None
    }
    /// The number of nodes. All node numbers are below it.
    fn nodes(&self) -> usize {
        1
    }
    /// The highest zone that has frames (F6). It is HighMem if some frames have no direct mapping.
    fn highest_zone(&self) -> ZoneKind {
        ZoneKind::Normal
    }
    /// The frame after the last one that it can allocate. The policy Park needs memory that ends
    /// below half of what an entry can name. A source that does not override this does not get that
    /// policy.
    fn end(&self) -> Pfn {
        Pfn(u64::MAX)
    }
    /// Whether `frame` belongs to this source and is allocated. The default is true. The library
    /// can refuse a frame that a caller passes by mistake only if the source overrides this.
    fn is_out(&self, frame: Pfn) -> bool {
        frame < self.end()
    }
    /// The node of a frame.
    fn node_of(&self, _frame: Pfn) -> Node {
        Node(0)
    }
    /// The descriptor of a frame of RAM, if the source has any. Without descriptors there are no
    /// counts: a frame that was mapped a second time must then stay allocated until `unmap_aliases`
    /// has returned.
    fn page(&self, _frame: Pfn) -> Option<&Page> {
        None
    }
    /// Calls `f` for each of `frames` with its index and its descriptor ([`Frames::page`]).
    #[inline]
    fn each_page(&self, frames: &[Pfn], mut f: impl FnMut(usize, Option<&Page>)) {
        frames.iter().enumerate().for_each(|(n, &frame)| f(n, self.page(frame)));
    }
}

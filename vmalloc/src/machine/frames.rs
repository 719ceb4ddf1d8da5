//! Physical memory, as the library sees it.
//!
//! # Contract
//! - **F1** A frame given out is not given again before it is freed.
//! - **F2** A block of order `n` is 2ⁿ adjacent frames, aligned to 2ⁿ.
//! - **F3** The methods are called pinned (interrupts off), and never under a
//!   lock of the library's other than the depot's.
//! - **F4** Frames may be given back in other blocks than they were given out
//!   in: in smaller ones, and adjacent frames of one node together. Any aligned
//!   block will do, as long as all its frames are out.
//! - **F5** [`Frames::page`] answers the same for a frame for ever.
//! - **F6** A frame given out lies in the zone wanted or in one below it, and
//!   never above [`Frames::highest_zone`].

use crate::gfp::ZoneKind;
use crate::sync::{self, plain};
use crate::units::{Node, Pfn};

/// The largest order of a block: 1024 frames, 4 MiB.
pub const MAX_ORDER: u8 = 10;

/// What kind of block is wanted.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Want {
    /// log2 of the number of frames.
    pub order: u8,
    /// The highest zone that will do.
    pub zone: ZoneKind,
    /// The node to take from first.
    pub node: Node,
    /// No other node.
    pub this_node: bool,
    /// The frame that would continue a run, if it happens to be free.
    pub next: Option<Pfn>,
}

impl Want {
    /// One frame that the direct mapping covers, from `node` if possible.
    pub const fn bookkeeping(node: Node) -> Want {
        Want { order: 0, zone: ZoneKind::Normal, node, this_node: false, next: None }
    }

    /// The same want, for a block of `order`.
    pub const fn order(self, order: u8) -> Want {
        Want { order, ..self }
    }
}

/// What the library keeps for a frame that several holders count (G3).
///
/// `extra` counts the holders beyond the first: 0 for a frame that one area,
/// or one caller, holds.
#[derive(Debug, Default)]
pub struct Page {
    /// Holders beyond the first.
    pub extra: sync::AtomicU32,
    /// While the frame is out: the library's, for the frame that waits behind
    /// this one. While it is free: its source's.
    pub(crate) links: [plain::AtomicU32; 2],
}

/// A source of frames.
///
/// # Safety
/// The implementor keeps F1–F6 of the [module](self).
pub unsafe trait Frames: Sync {
    /// All frames that there are: the bound of the size check.
    fn total(&self) -> usize;
    /// Frames that are free now.
    fn free_now(&self) -> usize;
    /// Takes a block; `None` where there is none.
    fn alloc(&self, want: Want) -> Option<Pfn>;
    /// Gives a block back.
    ///
    /// # Safety
    /// All frames of the block were given out by this source (F4), and the
    /// caller gives up all use of them.
    unsafe fn free(&self, first: Pfn, order: u8);
    /// Takes up to `into.len()` single frames and says how many.
    fn alloc_bulk(&self, want: Want, into: &mut [Pfn]) -> usize {
        for (got, slot) in into.iter_mut().enumerate() {
            match self.alloc(want) {
                Some(frame) => *slot = frame,
                None => return got,
            }
        }
        into.len()
    }
    /// Gives single frames back.
    ///
    /// # Safety
    /// As for [`Frames::free`], for each.
    unsafe fn free_bulk(&self, frames: &[Pfn]) {
        for &frame in frames {
            // SAFETY: the caller vouches for each frame.
            unsafe { self.free(frame, 0) }
        }
    }
    /// The number of nodes; all node numbers lie below it.
    fn nodes(&self) -> usize {
        1
    }
    /// The highest zone that has frames (F6): HighMem where some frames have
    /// no direct mapping.
    fn highest_zone(&self) -> ZoneKind {
        ZoneKind::Normal
    }
    /// The frame after the last that it can give out. Who does not tell does
    /// without the policy Park, which is for memory that ends below half of what
    /// an entry can name.
    fn end(&self) -> Pfn {
        Pfn(u64::MAX)
    }
    /// Whether `frame` is one of its own, and out. Who cannot tell says yes: what
    /// a caller gives by mistake can only be refused where this knows better.
    fn is_out(&self, frame: Pfn) -> bool {
        frame < self.end()
    }
    /// The node of a frame.
    fn node_of(&self, _frame: Pfn) -> Node {
        Node(0)
    }
    /// The descriptor of a frame of RAM, where the source keeps any. Without
    /// descriptors nobody counts: frames that were mapped a second time must
    /// stay allocated until `unmap_aliases` has returned.
    fn page(&self, _frame: Pfn) -> Option<&Page> {
        None
    }
    /// Calls `f` for each of `frames`, with its place among them and its
    /// descriptor as [`Frames::page`] tells it, until it says false.
    #[inline]
    fn each_page(&self, frames: &[Pfn], mut f: impl FnMut(usize, Option<&Page>) -> bool) {
        let _ = frames.iter().enumerate().all(|(n, &frame)| f(n, self.page(frame)));
    }
}

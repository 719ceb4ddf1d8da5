//! Mappings for a short time, straight: what most of `map_ram` and `unmap_ram` is.
//!
//! These know more than other calls: a slot of a class in the first region,
//! ordinary memory, frames that the caller holds. Nothing is held, nothing waits
//! in the entries. So there is less to ask than on the straight path of other areas
//! ([`straight`](crate::straight)), and the steps have another order: label and
//! entries are written before the slot lives. Where something is not at hand nothing
//! has changed, and the call goes the long way.
//!
//! - U1: A slot that does not live is no area; when it lives, it is whole.
//! - E1: Only one thing can still go wrong: an entry that is in use (T2). Then
//!   the slot is undone as ever.
//! - G3: What such a slot leaves are aliases ([`alias`](crate::alias)).

use crate::area::{Backing, Caller, Guard, Kind, Policy, RegionId, Req};
use crate::cpu::{CpuGuard, SLICE};
use crate::instance::Vmalloc;
use crate::lookup::{Found, at_hand_from, pointer};
use crate::machine::Machine;
use crate::machine::format::{MemType, Prot};
use crate::map::over;
use crate::plan::{Plan, odd_frame};
use crate::space::class::Class;
use crate::space::slot::Label;
use crate::units::{Node, PAGE_SHIFT, PageRange, Pfn, VirtAddr};
use crate::vmalloc::{AreaBuilder, Way};
use core::ptr::NonNull;

/// The region of all such mappings.
const REGION: RegionId = RegionId(0);

impl<M: Machine> Vmalloc<M> {
    /// Maps frames, if that is a straight matter.
    ///
    /// # Errors
    /// It is not, and nothing has changed; or the entry of this page is in use.
    #[inline(never)]
    pub(crate) fn map_straight(
        &self,
        frames: &[Pfn],
        node: Option<Node>,
        caller: Caller,
    ) -> Result<NonNull<u8>, Option<NonNull<u8>>> {
        let pages = frames.len();
        let Some(core) = self.core() else { return Err(None) };
        let Some(region) = core.regions.first() else { return Err(None) };
        if M::MIRRORED || pages.wrapping_sub(1) >= SLICE || pages > region.straight {
            return Err(None);
        }
        let Some(class) = Class::of(pages, 1) else { return Err(None) };
        let Ok(mut here) = CpuGuard::enter(self, core) else { return Err(None) };
        if here.is_pressed() {
            return Err(None);
        }
        let Some((chunk, slot)) = here.cpu_chunks(REGION).peek(class) else { return Err(None) };
        let (start, page) = chunk.place(slot);
        let range = PageRange::new(start, pages);
        let Some(piece) = at_hand_from::<M>(chunk, range, || page) else { return Err(None) };
        chunk.take_this(slot);
        chunk.slot(slot).begin_whole(&Label {
            bytes: pages << PAGE_SHIFT,
            pages,
            kind: Kind::MapRam,
            guard: Guard::None,
            caller,
            node: node.unwrap_or_default(),
            phys: None,
        });
        here.count_alloc(pages);
        let bound = piece.map_given(frames, Prot::RW, MemType::WriteBack);
        self.machine().sync(range);
        if bound < pages {
            return Err(here.map_in_use(Found { chunk, index: slot, start: range.start }, frames, bound));
        }
        chunk.make_live(slot);
        drop(here);
        Ok(pointer(range.start))
    }

    /// Undoes such a mapping, if that is a straight matter; false, and nothing
    /// has changed, where it is not.
    #[inline(never)]
    pub(crate) fn unmap_straight(&self, at: VirtAddr, pages: usize, by: Caller) -> bool {
        let Some(core) = self.core() else { return false };
        let Ok(mut here) = CpuGuard::enter(self, core) else { return false };
        let Some((chunk, index, page)) = here.find_class(REGION, at) else { return false };
        let slot = chunk.slot(index);
        if slot.built_pages(Kind::MapRam) != Some(pages) || pages > SLICE {
            return false;
        }
        if chunk.owner() != here.index || core.policy() == Policy::Strict {
            return false;
        }
        let range = PageRange::new(at, pages);
        let Some(piece) = at_hand_from::<M>(chunk, range, || page) else { return false };
        here.count_free(Way::AtOnce, pages);
        here.open.add_bare(chunk, index, pages);
        slot.freed_by(by);
        piece.clear(&mut |at, word| self.report_bad_entry_once((chunk, index), at, word));
        here.note_alias();
        self.machine().unmapped(range);
        if here.open.is_due() {
            here.reclaim_step_and_leave();
        }
        true
    }
}

impl<M: Machine> CpuGuard<'_, M> {
    /// The entry of the first page that could not be bound is in use (T2): what
    /// was bound is undone, as for any area. `None`, and all is undone, where it
    /// is a frame that no entry can name.
    #[cold]
    #[inline(never)]
    fn map_in_use(self, found: Found, frames: &[Pfn], bound: usize) -> Option<NonNull<u8>> {
        let (req, backing) = (over(frames, Req::bytes(0)).guard(Guard::None), Backing::Frames(frames));
        let pages = frames.len();
        let plan = Plan { req: &req, kind: Kind::MapRam, caller: Caller::here(), pages, class: None };
        self.uncount_alloc(pages);
        self.begin((found.chunk, found.index), &plan, &backing);
        let (vm, core) = (self.vm, self.core);
        drop(self);
        drop(AreaBuilder { vm, core, found, pages, bound });
        let in_use = pointer(found.start.add_pages(bound));
        odd_frame::<M>(&req, &backing).is_none().then_some(in_use)
    }
}

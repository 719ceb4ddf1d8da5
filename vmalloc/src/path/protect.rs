//! Protection: the accesses to pages of a live area that are allowed, changed while it lives.
//!
//! ```text
//!   look at each entry ─▶ tell the machine ─▶ change each entry ─▶ flush, and wait for grace
//!   └────── what can be refused ─────────┘
//! ```
//!
//! # Rules
//! - G2: When the call returns no CPU has a translation with the old protection. Idle CPUs flush
//!   before they follow a pointer (G5).
//! - E1: All pages have the new protection, or none.
//! - W1: The area is not plain any more, so its slot is cached only if each entry is again.
//! - L3: A slice a section.

use crate::error::AllocError;
use crate::machine::event::Event;
use crate::machine::format::Prot;
use crate::machine::{Context, Machine};
use crate::path::part::{area, part_of};
use crate::path::plan::check_prot;
use crate::state::core::Ctx;
use crate::state::cpu::SLICE;
use crate::state::enter::CpuGuard;
use crate::sync::breaks;

/// Gives the `pages` pages from `at` on, all of one live area, another protection.
pub(crate) fn protect<M: Machine>(ctx: Ctx<'_, M>, at: usize, pages: usize, prot: Prot) -> Result<(), AllocError> {
    check_prot(prot)?;
    let range = part_of(at, pages)?;
    let found = area(ctx, range, None)?;
    let context = ctx.machine.context();
    if !M::MIRRORED && context != Context::Task {
        return Err(AllocError::WrongContext(context));
    }
    let mut cpu = CpuGuard::enter(ctx).map_err(AllocError::WrongContext)?;
    for slice in range.slices(SLICE) {
        cpu.preempt_point();
        for (pages, entries) in ctx.each_look(found.chunk, slice) {
            let is_odd = |page: &usize| entries.is_none_or(|entries| !entries.part(*page, 1).is_protectable());
            let refused = |page| Err(AllocError::NotMapped(pages.start.add_pages(page)));
            (0..pages.pages).find(is_odd).map_or(Ok(()), refused)?;
        }
    }
    cpu.outside(|| ctx.machine.protect(range, prot)).map_err(AllocError::Refused)?;
    found.slot().unmark_plain();
    for slice in range.slices(SLICE) {
        cpu.preempt_point();
        for piece in ctx.pieces(found.place(), slice) {
            piece.protect(prot, |at, word| ctx.report_bad_entry(found.slot(), at, word));
        }
        ctx.machine.sync(slice);
    }
    drop(cpu);
    if !M::MIRRORED && !breaks!(ProtectUnflushed) {
        let graced = ctx.wait_for_grace(false);
        debug_assert!(graced, "a task may wait");
    }
    let _ = ctx.machine.note(Event::Protect(range, prot));
    Ok(())
}

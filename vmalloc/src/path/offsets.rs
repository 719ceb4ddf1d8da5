//! Areas at fixed distances from each other: all of them or none.
//!
//! ```text
//!   check the parts ─▶ take the grains of all parts ─▶ give each a slot ─▶ publish each
//!                      at the highest base, in one step under the region's lock
//! ```
//!
//! What lies between the parts may be in use. A part may begin at any page of its first unit, which
//! it has for itself.
//!
//! # Rules
//! - E1: If a part cannot be made, those before it are freed, and the grains of the others go back.
//! - L3: The lock is dropped after each base that was tried, and each part is a section.

use crate::area::{Caller, Kind, Req};
use crate::error::AllocError;
use crate::machine::Machine;
use crate::path::alloc::finish_reserved;
use crate::path::backing::Nothing;
use crate::path::free::free;
use crate::path::plan::Plan;
use crate::path::shortage::Tries;
use crate::space::slot::Slot;
use crate::state::core::Ctx;
use crate::state::enter::CpuGuard;
use crate::units::{PAGE_SHIFT, PAGE_SIZE, VirtAddr};

/// Reserves `parts`, each a distance from the base and a number of bytes, and returns the base.
/// `whole` is a request for all bytes from the base to the last of them.
pub(crate) fn reserve<M: Machine>(
    ctx: Ctx<'_, M>,
    parts: &[(usize, usize)],
    whole: &Req,
    caller: Caller,
) -> Result<usize, AllocError> {
    let plan = Plan::checked(ctx, whole, Kind::Reserved, caller, Nothing(0))?;
    let region = &ctx.core.regions[whole.region.0 as usize];
    let run = |part: &(usize, usize)| run_of(part, PAGE_SHIFT + region.grain_shift);
    check(parts, run)?;
    parts.iter().try_for_each(|part| region.check_run(run(part).1, part.1, 0))?;
    let (fit, mut tries) = (region.fit(&plan.run(region)), Tries::new());
    let mut cpu = CpuGuard::enter(ctx).map_err(AllocError::WrongContext)?;
    let base = loop {
        match cpu.take_parts(region, parts.iter().map(run), &fit) {
            Ok(base) => break base,
            Err(short) => cpu.resolve_shortage(plan, short, &mut tries)?,
        }
    };
    let (start, run) = (region.address(base).0, |part| (base + run(part).0, run(part).1));
    for (done, part) in parts.iter().enumerate() {
        if let Err(error) = cpu.make_part(plan, run(part), *part, &mut tries) {
            for part in &parts[done + 1..] {
                cpu.release_run(region.id, run(part), 0);
                cpu.preempt_point();
            }
            drop(cpu);
            for part in &parts[..done] {
                let undone = free(Some(ctx), VirtAddr(start + part.0), plan.caller, |_| true, None);
                debug_assert!(undone.is_ok(), "E1: it was made a moment ago");
            }
            return Err(error);
        }
    }
    Ok(start)
}

/// The grains of a part: their distance from the base, and their number. A grain has
/// 2^`shift` bytes.
fn run_of(&(offset, bytes): &(usize, usize), shift: u32) -> (usize, usize) {
    let (first, end) = (offset >> shift, ((offset + bytes - 1) >> shift) + 1);
    (first, Slot::storable(end - first))
}

/// No part is empty, each begins at a page, and no two of them share a unit.
fn check(parts: &[(usize, usize)], run: impl Fn(&(usize, usize)) -> (usize, usize)) -> Result<(), AllocError> {
    if parts.iter().any(|part| part.1 == 0) {
        return Err(AllocError::ZeroSize);
    }
    let shares = |a: (usize, usize), b: (usize, usize)| a.0 < b.0 + b.1 && b.0 < a.0 + a.1;
    let is_odd = |&index: &usize| {
        let part = &parts[index];
        !part.0.is_multiple_of(PAGE_SIZE) || parts[..index].iter().any(|other| shares(run(part), run(other)))
    };
    (0..parts.len()).find(is_odd).map_or(Ok(()), |index| Err(AllocError::BadAlign(parts[index].0)))
}

impl<M: Machine> CpuGuard<'_, M> {
    /// Makes an area of the grains `run`, which the call has taken. On an error they have gone back.
    fn make_part(
        &mut self,
        plan: Plan<'_>,
        run: (usize, usize),
        (offset, bytes): (usize, usize),
        tries: &mut Tries,
    ) -> Result<(), AllocError> {
        let (ctx, id) = (self.ctx(), plan.req.region);
        let place = loop {
            match self.place_run(id, run) {
                Ok(place) => break place,
                Err(short) => {
                    let resolved = self.resolve_shortage(plan, short, tries);
                    resolved.inspect_err(|_| _ = self.release_run(id, run, 0))?
                }
            }
        };
        let inside = offset % (PAGE_SIZE << ctx.core.regions[id.0 as usize].grain_shift);
        let req = Req { bytes, ..plan.req.clone() };
        let part = Plan { req: &req, pages: bytes.div_ceil(PAGE_SIZE), class: None, ..plan };
        let backing = Nothing(inside as u64);
        let found = self.begin(place, part, backing);
        self.outside(|| finish_reserved(ctx, part, found, backing)).map(drop)
    }
}

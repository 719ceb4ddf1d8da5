//! Stacks. Each has a page below it that is never mapped; what they gave up is reused after every
//! CPU has flushed, in one flush for many.

use crate::machine::{Hermit, VM};
use vmalloc::machine::Machine;
use vmalloc::units::PAGE_SIZE;
use vmalloc::{AllocError, Area, Mapping, Req, What};

/// The stacks of a task: for itself, and for its interrupts.
pub struct TaskStacks {
    user: Area<'static, Hermit>,
    interrupts: Area<'static, Hermit>,
}

impl TaskStacks {
    pub fn new(pages: usize) -> Result<TaskStacks, AllocError> {
        Ok(TaskStacks { user: VM.area(Req::stack(pages))?, interrupts: VM.area(Req::stack(1))? })
    }

    /// What the task does: it runs until it overflows its stack, and is ended.
    pub fn run(self, _cpu: u32) {
        for stack in [&self.user, &self.interrupts] {
            let below = stack.start().0 - 8;
            let hit = settled(below);
            let is_ours = matches!(hit, What::Guard { above: Some(info), .. } if info.start == stack.start());
            assert!(is_ours, "{below:#x} is {hit}");
        }
    }
}

/// What an address is. While the area below is being made or freed by another CPU, that says so and
/// no more: a handler asks again.
fn settled(at: usize) -> What {
    loop {
        match VM.whatis(at) {
            What::Changing => VM.machine().relax(),
            what => return what,
        }
    }
}

/// The trap stacks of a CPU, which live as long as it does: one area with guards inside.
pub struct TrapStacks(Mapping<'static, Hermit>);

impl TrapStacks {
    const STACKS: usize = 4;

    pub fn new() -> Result<TrapStacks, AllocError> {
        let mut area = VM.reservation(Req::pages(2 * TrapStacks::STACKS))?;
        for n in 0..TrapStacks::STACKS {
            let page = 2 * n + 1;
            area.fill(page..page + 1, &Req::pages(1).zeroed())?;
        }
        assert_eq!(area.frames().count(), TrapStacks::STACKS);
        assert!(VM.frame_at(area.start().0 + 2 * PAGE_SIZE).is_none(), "a guard");
        Ok(TrapStacks(area))
    }
}

impl Drop for TrapStacks {
    fn drop(&mut self) {
        assert_eq!(self.0.empty(0..2 * TrapStacks::STACKS), TrapStacks::STACKS);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{frames, machine, stubs};
    use vmalloc::Gfp;
    use vmalloc::machine::Context;

    fn left() -> usize {
        VM.purge();
        VM.reclaim(usize::MAX);
        let stats = VM.stats();
        frames::free() + stats.table_frames + stats.bookkeeping_frames + stats.pooled_frames + stats.reserve_frames
    }

    /// The frames have no descriptors, and a handler waits for no flush.
    #[test]
    fn stacks_that_end_in_a_handler_lose_no_frame() {
        machine::boot();
        machine::cpu_up();
        let before = left();
        let mut area = VM.reservation(Req::pages(20)).unwrap();
        area.fill(19..20, &Req::pages(1)).unwrap();
        let was = stubs::interrupts_off();
        assert_eq!(VM.machine().context(), Context::Atomic);
        let refused = area.fill(0..20, &Req::pages(1).gfp(Gfp::ATOMIC));
        assert!(matches!(refused, Err(AllocError::InUse(_))), "{refused:?}");
        drop(area);
        stubs::restore(was);
        assert_eq!(left(), before);
    }
}

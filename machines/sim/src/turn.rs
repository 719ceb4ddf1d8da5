//! Whose turn it is, where CPUs interleave: a scheduler installs two functions on
//! its thread, and they let another CPU go on.
//!
//! Without them one host thread drives all CPUs, one operation after the other.

use crate::Core;
use crate::cpu::Power;
use crate::history::Event;
use crate::order;
use core::cell::Cell;
use vmalloc::machine::format::Format;
use vmalloc::units::VirtAddr;

/// What a scheduler is called for.
#[derive(Clone, Copy, Debug)]
pub struct Turns {
    /// Another CPU may go on here.
    pub step: fn(),
    /// This CPU cannot go on before another one has.
    pub wait: fn(),
}

thread_local! {
    static TURNS: Cell<Option<Turns>> = const { Cell::new(None) };
}

/// From here on CPUs interleave on this thread; or no longer, by `None`. No CPU holds
/// anything then, whatever a race that failed has left.
pub fn set_turns(turns: Option<Turns>) {
    order::forget();
    TURNS.set(turns);
}

/// Whether CPUs interleave.
#[inline]
pub fn is_racing() -> bool {
    TURNS.get().is_some()
}

/// Another CPU may go on here.
#[inline]
pub(crate) fn step() {
    if let Some(turns) = TURNS.get() {
        (turns.step)()
    }
}

/// This CPU waits for another one.
pub(crate) fn wait() {
    if let Some(turns) = TURNS.get() {
        (turns.wait)()
    }
}

impl<F: Format> Core<F> {
    /// Goes on as `cpu`, in the middle of whatever that one does: for a scheduler
    /// of CPUs that interleave.
    pub fn resume_on(&self, cpu: u32) {
        self.run_on(cpu);
    }

    /// An NMI comes to the running CPU, unless it is in one, or offline.
    pub fn nmi(&self) {
        let may_come = {
            let s = &mut *self.state();
            let cpu = s.cpu(self.running());
            cpu.power != Power::Offline && !cpu.in_nmi
        };
        if may_come {
            self.non_maskable();
        }
    }

    /// Notes what the running CPU does next, for a story.
    pub fn tell(&self, what: &'static str, at: usize) {
        self.record(&mut self.state(), Event::Told { what, at: VirtAddr(at) });
    }

    /// The last `count` events of all CPUs, side by side.
    pub fn story_of_all(&self, count: usize) -> String {
        let s = self.state();
        s.history.columns(s.cpus.len(), count)
    }

    /// `cpu` answers a kick, if it was kicked and listens.
    pub fn serve_kick_of(&self, cpu: u32) {
        self.serve_kick(cpu);
    }

    /// Whether what changes is held by somebody on this thread: nobody else may go
    /// on then.
    pub fn is_held(&self) -> bool {
        self.state.try_lock().is_err()
    }
}
